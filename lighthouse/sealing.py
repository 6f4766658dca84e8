"""Encryption of what a configuration keeps secret: `LIGHTHOUSE_SECRET_KEYS`, and nothing else.

A sealed value is `{"$sealed": TOKEN}`, TOKEN a Fernet token of the value's JSON. It is not bound
to its place: who can write the database can as well write another `url` beside it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr

from lighthouse.errors import LighthouseError, SettingsError

#: The one key of a sealed value.
SEALED = "$sealed"

VARIABLE = "LIGHTHOUSE_SECRET_KEYS"


class CannotOpen(LighthouseError):  # noqa: N818 - the field's own word
    """No key opens a sealed value, or it was cut. The text holds nothing of the value."""


def new_key() -> str:
    """A fresh Fernet key: 32 random bytes in URL-safe base64."""
    return Fernet.generate_key().decode()


def is_sealed(value: object) -> bool:
    """Whether it is a sealed value (or claims to be one)."""
    return isinstance(value, Mapping) and len(value) == 1 and SEALED in value


class Keyring:
    """The keys of one process: the first seals, all open. Never prints them."""

    def __init__(self, keys: Sequence[SecretStr] = ()) -> None:
        """Raises SettingsError for what is no Fernet key."""
        try:
            fernets = [Fernet(key.get_secret_value()) for key in keys]
        except ValueError:
            raise SettingsError(
                f"{VARIABLE}: holds what is no Fernet key; `lighthouse secrets new-key` makes one"
            ) from None
        self._first = fernets[0] if fernets else None
        self._all = MultiFernet(fernets) if fernets else None

    def __bool__(self) -> bool:
        return self._first is not None

    def require(self) -> None:
        """Raises SettingsError when there is no key to seal with."""
        if not self:
            raise SettingsError(
                f"{VARIABLE} is not set, and secrets are stored encrypted only;"
                " `lighthouse secrets new-key` makes a key, the same for the whole fleet"
            )

    def seal(self, value: Any) -> dict[str, str]:
        """A JSON value, encrypted with the first key. Raises SettingsError without keys."""
        self.require()
        assert self._first is not None  # noqa: S101 - required above
        text = json.dumps(value, separators=(",", ":"))
        return {SEALED: self._first.encrypt(text.encode()).decode()}

    def open(self, sealed: Mapping[str, Any]) -> Any:
        """The value of a sealed one. Raises CannotOpen."""
        if self._all is None:
            raise CannotOpen(f"is sealed, and {VARIABLE} is not set")
        token = sealed[SEALED]
        try:
            return json.loads(self._all.decrypt(token if isinstance(token, str) else ""))
        except (InvalidToken, ValueError):
            raise CannotOpen(f"no key of {VARIABLE} opens this secret") from None

    def newest(self, sealed: Mapping[str, Any]) -> bool:
        """Whether the first key has sealed it, so that the other keys are not needed for it."""
        token = sealed[SEALED]
        if self._first is None or not isinstance(token, str):
            return False
        try:
            self._first.decrypt(token)
        except InvalidToken:
            return False
        return True
