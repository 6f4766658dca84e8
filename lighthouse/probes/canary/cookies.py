"""Cookies of one flow (RFC 6265): kept while it runs, sent only where their server allows.

Nothing here knows the public suffixes; a cookie lives for one flow and goes only to hosts that the
flow asks for, so a domain with a dot inside is scope enough.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from lighthouse import urls

#: What one flow keeps; a server that sends more loses its oldest. RFC 6265 asks for as much.
MOST_COOKIES = 50
MOST_COOKIE_CHARS = 4096

#: Characters of one Cookie header; servers refuse longer ones anyway.
MOST_HEADER_CHARS = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Cookie:
    """One cookie and where it may go."""

    name: str
    value: str
    domain: str
    path: str
    host_only: bool
    secure: bool
    expires_at: float | None  #: by the monotonic clock, s


@dataclass(slots=True)
class Jar:
    """The cookies of one flow."""

    _kept: dict[tuple[str, str, str], Cookie] = field(default_factory=dict)

    def store(self, url: str, lines: Iterable[str], now: float | None = None) -> None:
        """Take in the Set-Cookie headers of an answer from a normalized URL."""
        now = time.monotonic() if now is None else now
        for line in list(lines)[:MOST_COOKIES]:
            cookie = parse(url, line, now)
            if cookie is None:
                continue
            key = (cookie.name, cookie.domain, cookie.path)
            self._kept.pop(key, None)
            if cookie.expires_at is None or cookie.expires_at > now:
                self._kept[key] = cookie
            if len(self._kept) > MOST_COOKIES:
                del self._kept[next(iter(self._kept))]

    def header(self, url: str, now: float | None = None) -> str | None:
        """The Cookie header of a request to a normalized URL, or None."""
        now = time.monotonic() if now is None else now
        scheme, host, _ = urls.parts(url)
        path = urlsplit(url).path or "/"
        fitting = [
            cookie
            for cookie in self._kept.values()
            if (cookie.expires_at is None or cookie.expires_at > now)
            and (scheme == "https" or not cookie.secure)
            and (host == cookie.domain if cookie.host_only else _within(host, cookie.domain))
            and _path_within(path, cookie.path)
        ]
        fitting.sort(key=lambda cookie: -len(cookie.path))  # the more exact path comes first
        pairs: list[str] = []
        room = MOST_HEADER_CHARS
        for cookie in fitting:
            pair = f"{cookie.name}={cookie.value}" if cookie.name else cookie.value
            room -= len(pair) + 2
            if room >= 0:
                pairs.append(pair)
        return "; ".join(pairs) or None

    def every(self, now: float | None = None) -> list[Cookie]:
        """The cookies that have not expired, oldest first."""
        now = time.monotonic() if now is None else now
        return [
            cookie
            for cookie in self._kept.values()
            if cookie.expires_at is None or cookie.expires_at > now
        ]

    def put(self, cookie: Cookie) -> None:
        """Take in a cookie that somebody else has judged, such as a browser."""
        if len(cookie.name) + len(cookie.value) > MOST_COOKIE_CHARS:
            return
        key = (cookie.name, cookie.domain, cookie.path)
        self._kept.pop(key, None)
        self._kept[key] = cookie
        if len(self._kept) > MOST_COOKIES:
            del self._kept[next(iter(self._kept))]

    def by_name(self) -> dict[str, str]:
        """The values of all cookies; of several of one name the newest."""
        return {cookie.name: cookie.value for cookie in self._kept.values()}


def parse(url: str, line: str, now: float) -> Cookie | None:
    """One Set-Cookie header's value, or None where it is none that this URL may set."""
    if len(line) > MOST_COOKIE_CHARS or any(char < " " and char != "\t" for char in line):
        return None
    pair, _, rest = line.partition(";")
    name, equals, value = pair.partition("=")
    name, value = (name.strip(), value.strip()) if equals else ("", pair.strip())
    attributes: dict[str, str] = {}
    for attribute in rest.split(";"):
        key, _, text = attribute.partition("=")
        attributes[key.strip().lower()] = text.strip()  # the last of a name counts
    scheme, host, _ = urls.parts(url)
    secure = "secure" in attributes
    domain = attributes.get("domain", "").lower().removeprefix(".")
    host_only = not domain or (domain == host and urls.is_numeric(host))
    if not (name or value) or (secure and scheme != "https"):
        return None
    if not host_only and not (_within(host, domain) and (domain == host or "." in domain)):
        return None
    given = attributes.get("path", "")
    if name.startswith("__Secure-") and not secure:
        return None
    if name.startswith("__Host-") and not (secure and given == "/" and "domain" not in attributes):
        return None
    return Cookie(
        name=name,
        value=value,
        domain=host if host_only else domain,
        path=given if given.startswith("/") else _default_path(url),
        host_only=host_only,
        secure=secure,
        expires_at=_expiry(attributes, now),
    )


def _within(host: str, domain: str) -> bool:
    return host == domain or (host.endswith("." + domain) and not urls.is_numeric(host))


def _path_within(path: str, scope: str) -> bool:
    return path == scope or (
        path.startswith(scope) and (scope.endswith("/") or path[len(scope)] == "/")
    )


def _default_path(url: str) -> str:
    return (urlsplit(url).path or "/").rpartition("/")[0] or "/"


def _expiry(attributes: dict[str, str], now: float) -> float | None:
    age = attributes.get("max-age")
    if age is not None and age.lstrip("-").isdecimal() and age.isascii() and len(age) < 20:
        return now + int(age)
    if "expires" in attributes:
        try:
            moment = parsedate_to_datetime(attributes["expires"].replace("-", " "))
            return now + moment.timestamp() - time.time()
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
    return None
