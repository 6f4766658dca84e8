"""Assertions on an answer's headers and body: pure and linear in the body's length.

Users' patterns run in RE2: Python's `re` backtracks, and one pattern could freeze every check.
"""

import re
from functools import lru_cache
from typing import Any

import re2

#: Memory of one compiled pattern, in bytes; a pattern that needs more is refused.
_PATTERN_BYTES = 512 * 1024

#: Character sets that are decoded; everything else is taken as UTF-8. A list, for Python's codecs
#: hold more than character sets, some of them slow on hostile input.
_CHARSET = re.compile(
    r"iso-?8859-\d{1,2}|latin-?1|windows-125\d|cp125\d|koi8-[ru]|utf-?(16|32)([bl]e|-[bl]e)?"
    r"|shift[_-]jis|euc-(jp|kr)|gb(k|2312|18030)|big5"
)
_CHARSET_OF = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)


@lru_cache(maxsize=1024)
def compile_pattern(pattern: str) -> Any:
    """An RE2 pattern. Raises ValueError with one line."""
    options = re2.Options()
    options.max_mem = _PATTERN_BYTES
    options.log_errors = False
    options.never_capture = True
    try:
        return re2.compile(pattern, options)
    except re2.error as exc:
        detail = exc.args[0] if exc.args else ""
        text = detail.decode("utf-8", "replace") if isinstance(detail, bytes) else str(detail)
        raise ValueError(f"is no RE2 pattern: {text}") from None


def charset(content_type: str | None) -> str:
    """The character set that a body is read in."""
    found = _CHARSET_OF.search(content_type) if content_type else None
    name = found[1].lower() if found else ""
    return name if _CHARSET.fullmatch(name) else "utf-8"


def utf8(body: bytes, content_type: str | None) -> bytes:
    """The body in UTF-8; bytes that are none stay as they are in a UTF-8 body."""
    name = charset(content_type)
    return body if name == "utf-8" else text(body, content_type).encode()


def text(body: bytes, content_type: str | None) -> str:
    """The body for people, with U+FFFD for what is no text."""
    try:
        return body.decode(charset(content_type), "replace")
    except LookupError:  # a name of the list's form that Python does not know
        return body.decode("utf-8", "replace")


def same_header(wanted: str, value: str) -> bool:
    """Whether a header's value is the wanted one, case ignored, or up to its parameters:
    ``application/json`` matches ``application/json; charset=utf-8``.
    """
    wanted, value = wanted.strip().lower(), value.lower()
    return wanted == value or wanted == value.partition(";")[0].rstrip()


def one_line(text: str, limit: int = 120) -> str:
    """Foreign text for people, shortened."""
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(char if char.isprintable() else "�" for char in short)
