"""URLs that people give: checked, and for targets brought into the one form that is probed.

No refusal repeats a URL: it may hold secrets.
"""

import ipaddress
import re
import socket
from functools import lru_cache
from urllib.parse import SplitResult, quote, urljoin, urlsplit, urlunsplit

import idna

MOST_URL_CHARS = 4096

_PORTS = {"http": 80, "https": 443}

#: Characters that no URL holds; a backslash is read as a slash by some and not by others.
_NEVER = re.compile(r"[\x00-\x20\x7f\\]")

#: What may stand unescaped in a path or query, "%" included: it is escaped already.
_SAFE = "%/:?#[]@!$&'()*+,;=-._~|"

_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


#: What decides where a request goes: scheme, host and port.
_ORIGIN = re.compile(r"(?:https?://)?[^/?#]*", re.IGNORECASE)


def cut_origin(template: str) -> tuple[str, str]:
    """A URL, perhaps with variables in it, cut where its path, query or fragment begins."""
    found = _ORIGIN.match(template)
    end = found.end() if found else 0
    return template[:end], template[end:]


@lru_cache(maxsize=4096)
def parts(url: str) -> tuple[str, str, int]:
    """(scheme, host, port) of a normalized URL: its origin."""
    split = urlsplit(url)
    return split.scheme, split.hostname or "", split.port or _PORTS[split.scheme]


def checked(url: str) -> tuple[SplitResult, str]:
    """An http or https URL in its parts, and its host as it will be connected to.

    Raises ValueError with one line.
    """
    if len(url) > MOST_URL_CHARS:
        raise ValueError(f"is longer than {MOST_URL_CHARS} characters")
    if _NEVER.search(url):
        raise ValueError("holds a space, a control character or a backslash")
    try:
        split = urlsplit(url)
        name, port = split.hostname, split.port
    except ValueError:
        raise ValueError("is no valid URL") from None
    if split.scheme not in _PORTS:
        raise ValueError("must start with http:// or https://")
    if not name:
        raise ValueError("has no host")
    if port == 0:
        raise ValueError("has port 0")
    return split, normalize_host(name)


def normalize(url: str) -> str:
    """The URL in ASCII, with a numeric host in its usual form and without its fragment.

    Raises ValueError with one line.
    """
    split, host = checked(url)
    if "@" in split.netloc:
        raise ValueError("holds credentials; send them in an Authorization header instead")
    place = f"[{host}]" if ":" in host else host
    if split.port is not None and split.port != _PORTS[split.scheme]:
        place = f"{place}:{split.port}"
    path = quote(split.path or "/", safe=_SAFE)
    return urlunsplit((split.scheme, place, path, quote(split.query, safe=_SAFE), ""))


def join(base: str, reference: str) -> str:
    """Where a reference leads from a normalized URL, normalized. Raises ValueError."""
    try:
        joined = urljoin(base, reference)
    except ValueError:
        raise ValueError("is no valid URL") from None
    return normalize(joined)


def normalize_host(name: str) -> str:
    """A host name in ASCII or a numeric address. Raises ValueError."""
    if ":" in name:
        try:
            return str(ipaddress.IPv6Address(name))
        except ValueError:
            raise ValueError("has an invalid IPv6 address as its host") from None
    name = name.removesuffix(".")
    trailing = name.rpartition(".")[2]
    if trailing.isdecimal() or re.fullmatch(r"0[xX][0-9a-fA-F]*", trailing):
        try:  # every form that a resolver would take for an address: 127.1, 0x7f000001, …
            return socket.inet_ntoa(socket.inet_aton(name))
        except OSError:
            raise ValueError("has an invalid IPv4 address as its host") from None
    host = name.lower()
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except idna.IDNAError:
            raise ValueError("has an invalid international host name") from None
    labels = host.split(".")
    if len(host) > 253 or not all(_HOST.fullmatch(label) for label in labels):
        raise ValueError("has an invalid host name")
    return host


def is_numeric(host: str) -> bool:
    """Whether a normalized host is an address, which needs no resolver."""
    return ":" in host or host.replace(".", "").isdigit()


def shown(url: str) -> str:
    """A URL for people: its query, where keys and tokens are, left out."""
    base, mark, _ = url.partition("?")
    return f"{base}?…" if mark else base
