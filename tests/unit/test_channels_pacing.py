"""Gates keep an address within its service's limits."""

from lighthouse.channels import pacing
from lighthouse.channels.pacing import Pacer


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_gate_is_open_until_its_service_closes_it() -> None:
    clock = Clock()
    gate = Pacer(clock).gate("a", 1)
    assert gate.wait_s() == 0
    gate.close_for(2.0)
    assert gate.wait_s() == 2
    clock.now += 2
    assert gate.wait_s() == 0


def test_those_held_back_get_turns_as_many_a_window_as_the_service_takes() -> None:
    gate = Pacer(Clock()).gate("a", 1)
    gate.close_for(2.0, per_window=5)
    assert [gate.wait_s() for _ in range(12)] == [2] * 5 + [4] * 5 + [6] * 2


def test_turns_start_anew_once_the_gate_has_opened() -> None:
    clock = Clock()
    gate = Pacer(clock).gate("a", 1)
    gate.close_for(2.0, per_window=1)
    assert [gate.wait_s(), gate.wait_s()] == [2, 4]
    clock.now += 2
    assert gate.wait_s() == 0
    gate.close_for(2.0, per_window=1)
    assert gate.wait_s() == 2


def test_a_later_shorter_wish_does_not_open_a_gate_early() -> None:
    gate = Pacer(Clock()).gate("a", 1)
    gate.close_for(60)
    gate.close_for(1)
    assert gate.wait_s() == 60


def test_addresses_have_gates_of_their_own_and_idle_ones_are_forgotten() -> None:
    clock = Clock()
    pacer = Pacer(clock)
    closed, used = pacer.gate("closed", 1), pacer.gate("used", 1)
    closed.close_for(100)
    used.users = 1
    for number in range(pacing.MOST_GATES):
        pacer.gate(str(number), 1)
    assert pacer.gate("closed", 1) is closed
    assert pacer.gate("used", 1) is used
    assert len(pacer._gates) <= pacing.MOST_GATES
