"""What this process may do, whatever a plugin asks for: connect where it is allowed, and no more.

Audit hooks see every connect, open and exec that Python makes, whichever library asks, and cannot
be taken away again. They see an address before its name is looked up, so names are looked up here
first, and only numeric addresses pass.
"""

import mimetypes
import resource
import socket
import ssl
import sys
from collections.abc import Callable, Collection
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import lighthouse
from lighthouse.addresses import Network, forbidden

LOCAL = "the service would work on this machine"

#: Address space of the process: an answer without end must not take the machine's memory.
MOST_MEMORY_BYTES = 1 << 30

#: Directories that the interpreter, its packages and TLS read; all other files stay closed. Not
#: all of `sys.path`: a working directory may hold the fleet's keys.
_READABLE = (
    *{str(Path(path).resolve()) for path in (sys.prefix, sys.base_prefix, lighthouse.__path__[0])},
    *(str(Path(p).resolve()) for p in sys.path if p.endswith(("site-packages", "dist-packages"))),
    *("/usr/lib/python3", "/usr/lib/ssl", "/usr/share/zoneinfo", "/etc/ssl", "/etc/pki"),
)
_READABLE_FILES = frozenset(
    {*mimetypes.knownfiles, "/dev/null", "/dev/urandom", "/etc/localtime", "/etc/timezone"}
)

#: Audit events of programs, of the system's log and of changes to files.
_NEVER = frozenset(
    {
        *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn"),
        *("pty.spawn", "subprocess.Popen", "os.startfile", "webbrowser.open"),
        *("syslog.openlog", "syslog.syslog", "syslog.setlogmask"),
        *("os.chflags", "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename"),
        *("os.rmdir", "os.setxattr", "os.symlink", "os.truncate", "os.utime", "os.kill"),
        "sqlite3.connect",
    }
)


class Guard:
    """Refuses with PermissionError, and remembers why, for `refusal` to tell."""

    def __init__(self, allow: Collection[Network]) -> None:
        self._allow = allow
        #: The first reason since it was last emptied; it never holds an address.
        self.refusal = ""

    def install(self) -> None:
        """From here on, for good, for all threads."""
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it would hold secrets
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
        _look_up_first()
        sys.addaudithook(self._audit)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.sendto"):
            self._judge(args[0], args[1])
        elif event == "socket.sendmsg":
            if args[1] is not None:  # None goes where the socket is connected to
                self._judge(args[0], args[1])
        elif event == "open":
            self._judge_file(*args)
        elif event in _NEVER or (event == "ctypes.dlopen" and args[0] is not None):
            self._refuse(LOCAL)

    def _judge(self, opened: socket.socket, address: Any) -> None:
        if opened.family not in (socket.AF_INET, socket.AF_INET6):
            self._refuse(LOCAL)
        reason = forbidden(str(address[0]), self._allow)
        if reason is not None:
            self._refuse(f"the address may not be connected to ({reason})")

    def _judge_file(self, path: Any, mode: str | None, flags: int) -> None:
        if isinstance(path, int):  # a descriptor, which was judged when it was opened
            return
        writes = bool(flags & 0o3) if mode is None else bool(set(mode) & set("wax+"))
        name = path.decode(errors="replace") if isinstance(path, bytes) else str(path)
        if writes and name != "/dev/null":
            self._refuse(LOCAL)
        resolved = str(Path(name).resolve())
        if name in _READABLE_FILES or resolved in _READABLE_FILES:
            return
        if not any(resolved == root or resolved.startswith(f"{root}/") for root in _READABLE):
            self._refuse(LOCAL)

    def _refuse(self, reason: str) -> None:
        self.refusal = self.refusal or reason
        raise PermissionError(reason)


def trust(ca_file: str) -> None:
    """Have the operator's authorities trusted wherever others are loaded."""

    def adding(method: Callable[..., None]) -> Callable[..., None]:
        def replaced(self: ssl.SSLContext, *args: Any, **kwargs: Any) -> None:
            method(self, *args, **kwargs)
            load(self, cafile=ca_file)

        return replaced

    load = ssl.SSLContext.load_verify_locations
    for name in ("load_verify_locations", "load_default_certs"):
        setattr(ssl.SSLContext, name, adding(getattr(ssl.SSLContext, name)))


def networks(text: str) -> tuple[Network, ...]:
    """The operator's exceptions, comma-separated."""
    return tuple(ip_network(part) for part in text.split(",") if part)


def _look_up_first() -> None:
    """Give the hooks numbers where a library gives a name."""

    def numeric(opened: socket.socket, address: Any) -> Any:
        if opened.family not in (socket.AF_INET, socket.AF_INET6) or not isinstance(address, tuple):
            return address
        host, port = address[:2]
        found = socket.getaddrinfo(host, port, opened.family, opened.type)
        return found[0][4]

    def with_last(method: Callable[..., Any], at: int) -> Callable[..., Any]:
        """The method with its last argument looked up, where that many are given at least."""

        def replaced(self: socket.socket, *args: Any) -> Any:
            if len(args) < at or args[-1] is None:
                return method(self, *args)
            return method(self, *args[:-1], numeric(self, args[-1]))

        return replaced

    for name, at in (("connect", 1), ("connect_ex", 1), ("sendto", 2), ("sendmsg", 4)):
        setattr(socket.socket, name, with_last(getattr(socket.socket, name), at))
