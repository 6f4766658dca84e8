"""Screenshots stay few and young."""

import os
import time
from pathlib import Path

import pytest

from lighthouse.probes.canary import screenshots


def test_old_screenshots_and_those_beyond_the_bound_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screenshots, "MOST_FILES", 3)
    for number in range(5):
        path = tmp_path / f"{number}.jpg"
        path.touch()
        os.utime(path, (time.time() - number * screenshots.MOST_AGE_S / 1.5,) * 2)
    screenshots.prune(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.jpg", "1.jpg"]
    for number in range(10):
        (tmp_path / f"new{number}.jpg").touch()
    screenshots.prune(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
