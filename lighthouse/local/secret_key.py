"""The key of `lighthouse up` where LIGHTHOUSE_SECRET_KEYS gives none, kept beside the data."""

import os
from pathlib import Path

from pydantic import SecretStr

from lighthouse.errors import LocalError, SettingsError
from lighthouse.sealing import Keyring, new_key

#: Beside the databases whose secrets it opens; who copies them needs it too.
NAME = "secret.key"


def kept(directory: Path) -> str:
    """The data directory's key, made at the first call; only its owner may read it.

    Raises LocalError when the file holds no key: what it has sealed cannot be opened any more.
    """
    path = directory / NAME
    if not path.exists():
        # Whole or not at all: half a key would lose what the next one is asked to open.
        draft = directory / f"{NAME}.new"
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{new_key()}\n")
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    try:
        key = path.read_text(encoding="ascii").strip()
        Keyring([SecretStr(key)])
    except (UnicodeDecodeError, SettingsError):
        raise LocalError(f"{path} holds no key; put back the one that it held") from None
    return key
