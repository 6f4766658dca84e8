"""The key that `lighthouse up` makes for itself."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from lighthouse.errors import LocalError
from lighthouse.local import secret_key
from lighthouse.sealing import Keyring


def test_a_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    key = secret_key.kept(tmp_path)
    assert Keyring([SecretStr(key)])
    assert secret_key.kept(tmp_path) == key
    [file] = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_draft_that_a_crash_left_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "secret.key.new").write_text("half")
    assert Keyring([SecretStr(secret_key.kept(tmp_path))])


@pytest.mark.parametrize("held", [b"", b"hunter2", b"\xff"])
def test_a_damaged_key_is_never_replaced_in_silence(tmp_path: Path, held: bytes) -> None:
    (tmp_path / secret_key.NAME).write_bytes(held)
    with pytest.raises(LocalError, match=r"secret.key holds no key; put back the one that it held"):
        secret_key.kept(tmp_path)
    assert (tmp_path / secret_key.NAME).read_bytes() == held
