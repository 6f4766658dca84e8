"""Network namespaces of a test's own: workers here, targets there, and a route to take away.

    this host  --- 169.254.N.0/30 ---  worker  --- 198.18.0.0/30 ---  targets (198.19.0.0/16)

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
    """A context manager; whatever happens inside, nothing is left afterwards.

    Each worker has a namespace of its own, known by its number.
    """

    def __init__(self, workers: int = 1) -> None:
        self._targets = _name("targets")
        self._workers = [_name("worker") for _ in range(workers)]
        self._number = secrets.randbelow(254) + 1
        #: An interface's name has 15 characters.
        self._links = [f"lh{secrets.token_hex(4)}" for _ in range(workers)]

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

    def host_address(self, worker: int) -> str:
        """Of this host, as a worker reaches it."""
        return f"169.254.{self._number}.{4 * worker + 1}"

    def _make(self) -> None:
        for name in (self._targets, *self._workers):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", self._targets, "route", "add", "local", TARGETS, "dev", "lo")
        for worker, name in enumerate(self._workers):
            link, last = self._links[worker], 4 * worker + 1
            _ip("link", "add", link, "type", "veth", "peer", "host", "netns", name)
            _ip("addr", "add", f"{self.host_address(worker)}/30", "dev", link)
            _ip("link", "set", link, "up")
            _ip("-n", name, "addr", "add", f"169.254.{self._number}.{last + 1}/30", "dev", "host")
            _ip("-n", name, "link", "set", "host", "up")
            _ip(
                *("-n", name, "link", "add", "out", "type", "veth"),
                *("peer", f"in{worker}", "netns", self._targets),
            )
            _ip("-n", name, "addr", "add", f"198.18.0.{last}/30", "dev", "out")
            _ip("-n", name, "link", "set", "out", "up")
            _ip("-n", self._targets, "addr", "add", f"198.18.0.{last + 1}/30", "dev", f"in{worker}")
            _ip("-n", self._targets, "link", "set", f"in{worker}", "up")
            self.give_route(worker)

    def _remove(self) -> None:
        removals = [("link", "del", link) for link in self._links]
        removals += [("netns", "del", name) for name in (self._targets, *self._workers)]
        for arguments in removals:
            subprocess.run(["ip", *arguments], capture_output=True, check=False)

    def give_route(self, worker: int) -> None:
        """Let a worker know the way to the targets."""
        self._route("add", worker)

    def take_route(self, worker: int) -> None:
        """As when a worker's host loses its route: its kernel knows no way."""
        self._route("del", worker)

    def _route(self, change: str, worker: int) -> None:
        gateway = f"198.18.0.{4 * worker + 2}"
        _ip("-n", self._workers[worker], "route", change, TARGETS, "via", gateway)

    def silence(self, worker: int, targets: str = TARGETS) -> None:
        """Drop what these targets answer to a worker: nothing is wrong with its host."""
        self._drop("add", worker, targets)

    def end_silence(self, worker: int, targets: str = TARGETS) -> None:
        self._drop("del", worker, targets)

    def _drop(self, change: str, worker: int, targets: str) -> None:
        address = f"198.18.0.{4 * worker + 1}"
        _ip(
            *("-n", self._targets, "rule", change),
            *("from", targets, "to", address, "pref", "100", "blackhole"),
        )

    def within_worker(self, worker: int) -> tuple[str, ...]:
        """The command that runs another one in a worker's namespace."""
        return ("ip", "netns", "exec", self._workers[worker])

    def within_targets(self) -> tuple[str, ...]:
        """The command that runs another one where the targets are."""
        return ("ip", "netns", "exec", self._targets)
