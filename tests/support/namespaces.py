"""Network namespaces of a test's own: workers here, targets there, and a route to take away.

    this host  --- 169.254.N.0/30 ---  workers  --- 198.18.0.0/30 ---  targets (198.19.0.0/16)

Redis is reached over the first link, the targets over the second; the targets' namespace takes
every address of 198.19.0.0/16 for its own. PostgreSQL's socket is a file and needs no way.
"""

import os
import secrets
import shutil
import subprocess
from types import TracebackType
from typing import Self

#: Every one of these addresses answers for the targets (a range that is set aside for benchmarks).
TARGETS = "198.19.0.0/16"
_GATEWAY = "198.18.0.2"


def available() -> bool:
    """Whether this machine lets us make namespaces; in CI (the variable CI is set) it must."""
    if os.environ.get("CI"):
        return True
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = _name("try")
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return made.returncode == 0


def _name(role: str) -> str:
    return f"lighthouse-{role}-{secrets.token_hex(4)}"


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"


class Namespaces:
    """A context manager; whatever happens inside, nothing is left afterwards."""

    def __init__(self) -> None:
        self.workers, self.targets = _name("workers"), _name("targets")
        number = secrets.randbelow(254) + 1
        self.host_address = f"169.254.{number}.1"  #: of this host, as the workers reach it
        self._worker_address = f"169.254.{number}.2"
        self._link = f"lh{secrets.token_hex(4)}"  # an interface's name has 15 characters

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._remove()

    def _make(self) -> None:
        for name in (self.workers, self.targets):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", self._link, "type", "veth", "peer", "host", "netns", self.workers)
        _ip("addr", "add", f"{self.host_address}/30", "dev", self._link)
        _ip("link", "set", self._link, "up")
        _ip("-n", self.workers, "addr", "add", f"{self._worker_address}/30", "dev", "host")
        _ip("-n", self.workers, "link", "set", "host", "up")
        _ip(
            *("-n", self.workers, "link", "add", "out", "type", "veth"),
            *("peer", "in", "netns", self.targets),
        )
        _ip("-n", self.workers, "addr", "add", "198.18.0.1/30", "dev", "out")
        _ip("-n", self.workers, "link", "set", "out", "up")
        _ip("-n", self.targets, "addr", "add", f"{_GATEWAY}/30", "dev", "in")
        _ip("-n", self.targets, "link", "set", "in", "up")
        _ip("-n", self.targets, "route", "add", "local", TARGETS, "dev", "lo")
        self.give_route()

    def _remove(self) -> None:
        for arguments in (
            ("link", "del", self._link),
            ("netns", "del", self.workers),
            ("netns", "del", self.targets),
        ):
            subprocess.run(["ip", *arguments], capture_output=True, check=False)

    def give_route(self) -> None:
        """Let the workers know the way to the targets."""
        _ip("-n", self.workers, "route", "add", TARGETS, "via", _GATEWAY)

    def take_route(self) -> None:
        """As when a worker's host loses its route: the kernel knows no way."""
        _ip("-n", self.workers, "route", "del", TARGETS, "via", _GATEWAY)

    def answer(self, *, dropped: bool) -> None:
        """Whether the far side drops its answers: then everything falls silent."""
        _ip(
            *("-n", self.targets, "route", "add" if dropped else "del"),
            *("blackhole", "198.18.0.1/32"),
        )

    @staticmethod
    def within(namespace: str) -> tuple[str, ...]:
        """The command that runs another one there."""
        return ("ip", "netns", "exec", namespace)
