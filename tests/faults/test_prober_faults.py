"""A worker whose own host is ill: its clock, its resolver, its file descriptors."""

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet import Fleet
from tests.support.reckoning import GRACE_S, now, reckon, rows


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path, LIGHTHOUSE_MISSED_GRACE_S=str(GRACE_S)) as made:
        yield made


def told(fleet: Fleet) -> dict[str, int]:
    return dict(fleet.query("SELECT alert_type::text, count(*) FROM alert_history GROUP BY 1"))


#: Read by Python before anything else: a wall clock that is wrong, and is stepped later on, when a
#: file says by how much (s). Monotonic clocks go on, as the kernel's do.
SITE = """
import datetime, pathlib, time

real, real_time = datetime.datetime, time.time
says = pathlib.Path(__file__).with_name("shift")
looked, shift = -1.0, 0.0

def off():
    global looked, shift
    if time.monotonic() - looked > 0.2:
        looked, shift = time.monotonic(), float(says.read_text())
    return shift

class Kind(type):
    def __instancecheck__(cls, one):
        return isinstance(one, real)

class Shifted(real, metaclass=Kind):
    @classmethod
    def now(cls, tz=None):
        return real.now(tz) + datetime.timedelta(seconds=off())

    @classmethod
    def utcnow(cls):
        return real.utcnow() + datetime.timedelta(seconds=off())

datetime.datetime = Shifted
time.time = lambda: real_time() + off()
time.time_ns = lambda: int(time.time() * 1e9)
"""


class Clock:
    """A wall clock of one process' own."""

    def __init__(self, directory: Path, shift_s: int) -> None:
        directory.mkdir()
        self._says = directory / "shift"
        self.step(shift_s)
        (directory / "sitecustomize.py").write_text(SITE)
        self.path = str(directory)

    def step(self, shift_s: int) -> None:
        new = self._says.with_name("new")
        new.write_text(str(shift_s))
        new.replace(self._says)


def test_clocks_that_are_an_hour_wrong_and_stepped_decide_nothing(
    fleet: Fleet, tmp_path: Path
) -> None:
    """Fails when a delay is reckoned by the worker's clock: it is an hour off."""
    clocks = {
        name: Clock(tmp_path / f"clock-{name}", shift)
        for name, shift in (("w1", 3600), ("w2", -3600), ("beat", 3600))
    }
    paths = {
        name: os.pathsep.join([clock.path, fleet.environment["PYTHONPATH"]])
        for name, clock in clocks.items()
    }
    fleet.subscribe(60, interval_s=10)
    fleet.subscribe(5, interval_s=10, path="/fail")
    fleet.start_beat(PYTHONPATH=paths["beat"])
    for name in ("w1", "w2"):
        fleet.start_worker(name, PYTHONPATH=paths[name])
    fleet.wait_for("first results", lambda: rows(fleet) >= 60)
    for clock, shift in (("w1", -3600), ("w2", 3600), ("beat", -3600)):
        clocks[clock].step(shift)
    since = now()
    fleet.wait_for("results after the steps", lambda: rows(fleet, since) >= 70, 30)
    assert "3600" in (tmp_path / "clock-w2" / "shift").read_text()
    found = reckon(fleet)
    found.assert_invariants(delivered=False)
    assert found.statuses["missed"] == 0
    assert fleet.scalar("SELECT max(delay_ms) FROM check_history") < 8000
    assert told(fleet) == {"downtime": 5}


class Names(threading.Thread):
    """A resolver of the test's own: what a name begins with says how it is answered."""

    ADDRESS = "127.53.7.1"

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((self.ADDRESS, 53))
        self.dead = False

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                query, client = self._socket.recvfrom(4096)
                name = query[13 : 13 + query[12]]
                if self.dead or name.startswith(b"dead"):
                    continue
                delay = 1.2 if name.startswith(b"slow") else 0.0
                answer = self._answer(query, exists=not name.startswith(b"none"))
                timer = threading.Timer(delay, self._send, (answer, client))
                timer.daemon = True
                timer.start()

    def _send(self, answer: bytes, client: tuple[str, int]) -> None:
        with contextlib.suppress(OSError):  # the test is over
            self._socket.sendto(answer, client)

    def _answer(self, query: bytes, *, exists: bool) -> bytes:
        end = query.index(b"\0", 12) + 5
        (kind,) = struct.unpack(">H", query[end - 4 : end - 2])
        given = exists and kind == 1  # A; there is no AAAA
        head = struct.pack(
            ">HHHHHH",
            *struct.unpack(">H", query[:2]),
            0x8180 | (0 if exists else 3),
            1,
            int(given),
            0,
            0,
        )
        record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + bytes([127, 0, 0, 1])
        return head + query[12:end] + (record if given else b"")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def names() -> Iterator[Names]:
    made = Names()
    made.start()
    yield made
    made.close()


def test_slow_and_dead_names_hold_up_nothing_else_and_are_no_downtime(
    fleet: Fleet, names: Names, tmp_path: Path
) -> None:
    """Fails when a resolver's silence is a timeout of the target, be it the C library that gives it
    up (`explain`) or the check that ends before (`_expire`): dead names are told as down."""
    configuration = tmp_path / "resolv.conf"
    configuration.write_text(f"nameserver {names.ADDRESS}\noptions timeout:2 attempts:1\n")
    # A mount of the worker's own, which ends with it.
    within = (
        *("unshare", "--mount", "sh", "-c"),
        f'mount --bind {configuration} /etc/resolv.conf && exec "$0" "$@"',
    )
    urls = {
        name: [f"http://{name}{n}.test:{fleet.target_port}/ok?{name}" for n in range(20)]
        for name in ("fast", "slow", "dead", "none")
    }
    for name, some in urls.items():
        number = 5 if name == "none" else 20
        fleet.subscribe(number, interval_s=10, path=name, urls=some, retries=0)
    # Over before the C library has given up.
    fleet.subscribe(10, interval_s=10, path="hasty", urls=urls["dead"], retries=0, timeout=1.5)
    fleet.start_beat()
    fleet.start_worker("w1", within=within)
    fleet.wait_for("errors", lambda: rows(fleet, status="error", path="dead") >= 30, 40)
    fleet.wait_for("slow ones", lambda: rows(fleet, path="slow") >= 30, 30)
    assert rows(fleet, path="fast") >= 20
    for name, least, most in (("fast", 0, 900), ("slow", 1200, 2900)):
        low, high = fleet.query(
            "SELECT min(dns_ms), max(dns_ms) FROM check_history h JOIN subscriptions s"
            " ON s.id = subscription_id WHERE h.status = 'success' AND s.name LIKE %s || '%%'",
            name,
        )[0]
        assert least <= low <= high <= most
    # A name that does not exist is the target's fault; nobody is told of what was never asked.
    fleet.wait_for("the downtimes", lambda: told(fleet) == {"downtime": 5}, 20)
    assert rows(fleet, status="failure", path="dead") == rows(fleet, status="timeout") == 0

    names.dead = True
    lost = now()
    fleet.wait_for("errors only", lambda: rows(fleet, lost, "error") >= 30, 40)
    assert told(fleet).get("downtime") == 5
    names.dead = False
    back = now()
    fleet.wait_for("successes again", lambda: rows(fleet, back) >= 20, 30)
    found = reckon(fleet)
    found.assert_invariants(delivered=False)
    assert found.statuses["missed"] == 0


def test_a_worker_with_256_file_descriptors_blames_no_target_for_it(fleet: Fleet) -> None:
    """Fails when EMFILE counts as an unreachable target: no check says whose fault it was."""
    fleet.subscribe(50, interval_s=10)
    fleet.subscribe(400, interval_s=10, path="/hang", timeout=3.0, retries=0)
    fleet.start_beat()
    fleet.start_worker("w1", within=("sh", "-c", 'ulimit -n 256 && exec "$0" "$@"'))
    want = "SELECT count(*) FROM check_history WHERE error_code = 'prober_descriptors'"
    fleet.wait_for("the end of them", lambda: fleet.scalar(want) >= 200, 40)
    assert rows(fleet, status="failure") == rows(fleet, status="timeout", path="/ok") == 0
    # The load ends, and with it the want.
    with fleet.connection() as connection:
        connection.execute(
            "UPDATE subscriptions SET target_config = jsonb_set(target_config, '{url}', %s)",
            (f'"{fleet.url("/ok")}"',),
        )
    time.sleep(4)  # beat hears of it, and what hangs ends
    later = now()
    fleet.wait_for("results of all", lambda: rows(fleet, later) >= 440, 30)
    found = reckon(fleet)
    found.assert_invariants(delivered=False)
    assert found.statuses["missed"] == 0


if os.geteuid() != 0:  # what cannot run is not collected
    del test_slow_and_dead_names_hold_up_nothing_else_and_are_no_downtime
