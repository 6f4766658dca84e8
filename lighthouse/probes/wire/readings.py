"""What a libcurl handle tells of its exchange when that is over: phases, texts, the certificate."""

import ssl
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import pycurl

from lighthouse.model import Timings

#: Ends of certificates that are remembered; about 250 bytes each.
_MOST_TIMES = 16_384


def timings(easy: Any, dns_ms: float | None) -> Timings:
    """The phases' lengths from libcurl's marks, which count from the exchange's start in µs.

    It also sets the last two where an exchange ends early; a microsecond between them is no answer.
    """
    info = easy.getinfo
    named = info(pycurl.NAMELOOKUP_TIME_T)
    connected = info(pycurl.CONNECT_TIME_T)
    secured = info(pycurl.APPCONNECT_TIME_T)
    sent = info(pycurl.POSTTRANSFER_TIME_T)
    answered = info(pycurl.STARTTRANSFER_TIME_T) if info(pycurl.RESPONSE_CODE) else 0
    return Timings(
        dns_ms=dns_ms,
        tcp_ms=(connected - named) / 1000 if connected else None,
        tls_ms=(secured - connected) / 1000 if secured else None,
        ttfb_ms=(answered - sent) / 1000 if answered > sent > 0 else None,
    )


def info_text(easy: Any, what: int) -> str | None:
    """A text of the target's: UTF-8 where it can be that, else Latin-1."""
    raw = easy.getinfo_raw(what)
    if raw is None:
        return None
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        return str(raw, "latin-1")


def parse_headers(lines: list[bytes]) -> dict[str, tuple[str, ...]]:
    """Header lines by lower-case name; the status line and the closing empty line fall away."""
    found: dict[str, tuple[str, ...]] = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if colon and not name.startswith("HTTP/"):
            key = name.strip().lower()
            found[key] = (*found.get(key, ()), value.strip())
    return found


def leaf(easy: Any) -> tuple[datetime | None, bytes | None]:
    """When the target's own certificate ends, and its PEM form; known although it was refused."""
    chain = easy.getinfo_raw(pycurl.INFO_CERTINFO)  # bytes: a subject may be no text
    if not chain or not chain[0]:
        return None, None
    ends = None
    for key, value in chain[0]:
        if key == b"Expire date":
            ends = parse_expiry(value.decode("ascii", "replace"))
            break
    key, value = chain[0][-1]
    return ends, value if key == b"Cert" else None


# The same certificates come again every interval, and reading a time takes 7 µs.
@lru_cache(maxsize=_MOST_TIMES)
def parse_expiry(text: str) -> datetime | None:
    """libcurl's form of a certificate's time, ``Nov 24 03:25:00 2026 GMT``."""
    try:
        return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)
    except (ValueError, OverflowError, OSError):
        return None
