"""Takes secrets out of texts for people: a target may echo them, as they are or encoded."""

import base64
import html
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

MASK = "•••"

#: Shorter values are no secrets: they stand in any text by chance.
SHORTEST = 4

#: Characters of a secret's beginning that give it away where a text was cut.
_TELLING = 4

_CUT = re.compile(r"(?=…|$)")


class Redactor:
    """Knows a flow's secrets. Its forms of them are made when the first text goes out."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        self._forms: tuple[str, ...] | None = None
        for secret in secrets:
            self.add(secret)

    def add(self, secret: str) -> None:
        if len(secret) >= SHORTEST and secret not in self._secrets:
            self._secrets.add(secret)
            self._forms = None

    def text(self, text: str | None) -> str | None:
        """The text without the secrets, whole or cut off at its end or before an ellipsis."""
        if not text or not self._secrets:
            return text
        if self._forms is None:
            found = {form for secret in self._secrets for form in _forms(secret)}
            self._forms = tuple(sorted(found, key=len, reverse=True))  # the longest match first
        for form in self._forms:
            text = _without(text, form)
        return self._uncut(text)

    @property
    def longest(self) -> int:
        """Characters of the longest form: how much more of a text must be seen before its cut."""
        return max((len(form) for secret in self._secrets for form in _forms(secret)), default=0)

    def _uncut(self, text: str) -> str:
        parts: list[str] = []
        start = 0
        for cut in _CUT.finditer(text):
            piece = text[start : cut.start()]
            beginning = max((_overlap(piece, form) for form in self._forms or ()), default=0)
            parts.append(piece[: len(piece) - beginning] + MASK if beginning else piece)
            start = cut.start()
        return "".join(parts)


def _overlap(piece: str, form: str) -> int:
    """How long a beginning of the form the piece ends with, where that tells anything."""
    for size in range(min(len(form) - 1, len(piece)), _TELLING - 1, -1):
        if piece.endswith(form[:size]):
            return size
    return 0


def _without(text: str, form: str) -> str:
    if form in text:
        return text.replace(form, MASK)
    if form.isascii() and form.lower() in text.lower():  # %3a or %3A, a key's hex digits
        return re.sub(re.escape(form), MASK, text, flags=re.IGNORECASE)
    return text


def _forms(secret: str) -> set[str]:
    """How a secret may stand in a text that somebody else has written."""
    raw = secret.encode("utf-8", "replace")
    found = {
        secret,
        quote(raw, safe=""),
        quote(raw),
        quote_plus(raw),
        html.escape(secret),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        raw.hex(),
        secret.removeprefix("0x"),
    }
    for shift in range(3):  # inside a longer text it begins at any of three places
        encoded = base64.b64encode(b"\0" * shift + raw).decode().rstrip("=")
        # The first characters hold bits of what stands before, the last of what follows.
        core = encoded[(shift * 8 + 5) // 6 : len(encoded) - (1 if (shift + len(raw)) % 3 else 0)]
        found |= {core, core.replace("+", "-").replace("/", "_")}
    return {form for form in found if len(form) >= SHORTEST}
