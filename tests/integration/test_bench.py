"""The benchmark's smallest modules in their quick form, so that the suite cannot rot."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_the_suite_writes_figures_that_say_where_they_come_from(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--quick", "claiming", "recording"],
        env={**os.environ, "BENCH_JSON": str(file)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(file.read_text())
    figures = {figure["key"]: figure for figure in told["figures"]}
    assert told["quick"] is True
    assert {figure["met"] for figure in told["figures"]} == {None}  # the quick form judges nothing
    assert figures["claim_publish_per_core"]["budget"] == "≥ 20,000"
    assert figures["claim_publish_per_core"]["value"] > 0
    assert figures["claim_publish_per_core"]["command"].startswith("python -m tests.bench.claiming")
    assert 50 < figures["row_bytes_plain"]["value"] < 1000
    assert "claim + publish" in done.stdout
