"""When a silent target is believed to be down, and when the prober doubts itself."""

import asyncio
from dataclasses import replace
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

import pytest

from lighthouse.errors import SettingsError
from lighthouse.fleet import health
from lighthouse.fleet.health import Health
from lighthouse.fleet.targets import Target, place_of, references
from lighthouse.model import (
    CheckStatus,
    Confirmation,
    MonitorType,
    Outcome,
    Reason,
    Result,
    Timings,
)
from lighthouse.probes import Prober, parse_config
from lighthouse.settings import load

UP = Outcome(status=CheckStatus.SUCCESS)
REFUSED = Outcome(status=CheckStatus.FAILURE, reason=Reason.CONNECTION_REFUSED, message="refused")
SILENT = Outcome(
    status=CheckStatus.TIMEOUT, reason=Reason.TIMEOUT, message="nothing came", latency_ms=50.0
)
WRONG = Outcome(status=CheckStatus.FAILURE, reason=Reason.STATUS_CODE, message="status 500")
NO_NETWORK = Outcome(status=CheckStatus.ERROR, reason=Reason.PROBER_NETWORK, message="no route")


def target(host: str, **config: Any) -> Target:
    parsed = parse_config(MonitorType.HTTP, {"url": f"http://{host}/", **config})
    who = uuid5(NAMESPACE_URL, host)
    return Target(type=MonitorType.HTTP, config=parsed, place=place_of(parsed), who=who)


class ScriptedProber(Prober):
    """Answers as `network` says, and notes who was asked."""

    def __init__(self) -> None:
        super().__init__(load({}))
        self.network = SILENT
        self.answers: dict[str, Outcome] = {}
        self.pauses: dict[str, float] = {}  #: between attempts, which the latency does not hold
        self.asked: list[str] = []

    async def probe(self, type: MonitorType, config: Any, interval_s: float) -> Outcome:  # noqa: A002
        self.asked.append(config.url)
        answer = self.answers.get(config.url, self.network)
        await asyncio.sleep(self.pauses.get(config.url, 0.0) + (answer.latency_ms or 0.0) / 1000)
        return answer


class Bench:
    def __init__(self, *reference_targets: str, witness: "Witness | None" = None) -> None:
        self.prober = ScriptedProber()
        self.stored: list[Result] = []
        self.alarms: list[str] = []
        self.health = Health(
            prober=self.prober,
            references=references(reference_targets),
            add=self.stored.append,
            alarm=self.alarms.append,
            confirm=None if witness is None else witness.look,
        )

    def take(self, where: Target, outcome: Outcome) -> None:
        self.health.take(where, outcome, Result.of(uuid4(), 1, outcome), 60.0)

    @property
    def statuses(self) -> list[str]:
        return [result.status.value for result in self.stored]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PROOF_S", 0.2)
    monkeypatch.setattr(health, "ROUND_S", 0.05)
    monkeypatch.setattr(health, "BUSY_S", 0.01)


async def test_a_wrong_answer_is_its_own_proof() -> None:
    bench = Bench()
    bench.take(target("a"), WRONG)
    assert bench.statuses == ["failure"]


@pytest.mark.parametrize(
    "heard", [{"http_status": 101}, {"timings": Timings(tcp_ms=1.0, tls_ms=2.0)}]
)
async def test_a_target_that_fell_silent_after_it_was_heard_is_its_own_proof(
    heard: dict[str, Any],
) -> None:
    bench = Bench()
    bench.take(target("a"), replace(SILENT, **heard))
    assert bench.statuses == ["timeout"]


async def test_silence_waits_for_an_answer_from_elsewhere() -> None:
    bench = Bench()
    bench.take(target("b"), UP)
    await asyncio.sleep(0.06)  # the silent attempt begins after it
    bench.take(target("a"), SILENT)
    assert bench.statuses == ["success"]
    bench.take(target("a"), UP)
    assert bench.statuses == ["success"] * 2  # its own answer to another check proves nothing
    bench.take(target("b"), UP)
    assert sorted(bench.statuses) == ["success"] * 3 + ["timeout"]
    assert bench.prober.asked == []
    await bench.health.close()


@pytest.mark.parametrize(("now", "stored"), [(UP, "success"), (SILENT, "timeout")])
async def test_a_target_that_was_silent_while_nothing_answered_is_checked_again_at_the_proof(
    now: Outcome, stored: str
) -> None:
    bench = Bench()
    bench.take(target("a"), SILENT)
    bench.prober.answers["http://a/"] = now
    bench.take(target("b"), UP)
    await asyncio.sleep(0.08)
    bench.take(target("b"), UP)
    assert bench.prober.asked.count("http://a/") == 1
    assert sorted(bench.statuses) == sorted(["success", "success", stored])
    assert next(r for r in bench.stored if r.status.value == stored and r.attempts > 1).slot == 1
    await bench.health.close()


async def test_an_answer_from_before_the_silence_proves_nothing_but_is_asked_for_again() -> None:
    bench = Bench()
    bench.take(target("b"), UP)
    await asyncio.sleep(0.06)
    bench.take(target("a"), SILENT)
    assert bench.statuses == ["success"]
    bench.prober.answers["http://b/"] = UP
    await asyncio.sleep(0.1)
    assert bench.prober.asked == ["http://b/"]
    assert bench.statuses == ["success", "timeout"]
    assert bench.alarms == []


async def test_without_proof_it_is_an_error_and_one_alarm_however_many_are_silent() -> None:
    bench = Bench("http://reference/")
    for number in range(300):
        bench.take(target(f"host{number}"), SILENT)
    await asyncio.sleep(0.6)
    assert bench.statuses == ["error"] * 300
    assert bench.stored[0].error_code == "prober_unproved"
    assert "nothing came" in str(bench.stored[0].error_message)
    bench.take(target("later"), SILENT)
    await asyncio.sleep(0.5)
    assert len(bench.alarms) == 1
    assert set(bench.prober.asked) == {"http://reference/"}


async def test_a_second_look_where_little_else_is_checked_is_no_outage_of_ours() -> None:
    bench = Bench()
    bench.prober.answers["http://b/"] = UP
    for _ in range(4):  # all at once, as a small fleet's checks come
        bench.take(target("b"), UP)
        await asyncio.sleep(0.06)
    quiet = replace(SILENT, latency_ms=800.0)
    bench.prober.answers["http://a/"] = quiet
    await asyncio.sleep(0.8)
    bench.take(target("a"), quiet)
    await asyncio.sleep(1.2)
    assert bench.prober.asked.count("http://a/") == 1
    assert bench.prober.asked.count("http://b/") < 20
    assert bench.statuses[4:] == ["timeout"]
    await bench.health.close()


async def test_a_reference_that_hangs_does_not_hold_up_the_other() -> None:
    bench = Bench("http://first/", "http://second/")
    bench.prober.answers["http://first/"] = replace(SILENT, latency_ms=10_000.0)
    bench.prober.answers["http://second/"] = UP
    quiet = replace(SILENT, latency_ms=800.0)
    bench.prober.answers["http://a/"] = quiet
    bench.take(target("a"), quiet)
    await asyncio.sleep(1.2)
    assert bench.statuses == ["timeout"]
    assert bench.prober.asked.count("http://first/") == 1
    await bench.health.close()


async def test_a_network_that_is_lost_a_second_time_is_told_a_second_time() -> None:
    bench = Bench("http://reference/")
    for _ in range(2):
        bench.take(target("a"), NO_NETWORK)
        await asyncio.sleep(0.5)
        bench.take(target("b"), UP)
    assert len(bench.alarms) == 2
    assert bench.statuses == ["error", "success"] * 2


async def test_a_reference_that_answers_makes_silence_a_timeout() -> None:
    bench = Bench("http://reference/")
    bench.prober.answers["http://reference/"] = UP
    bench.take(target("a"), SILENT)
    await asyncio.sleep(0.2)
    assert bench.statuses == ["timeout"]
    assert bench.prober.asked[:2] == ["http://reference/", "http://a/"]
    assert bench.alarms == []


async def test_a_refusal_takes_no_time_and_is_judged_all_the_same_where_little_else_is_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fails when a second look, too, wants an answer in the instant of its last attempt."""
    monkeypatch.setattr(health, "ROUND_S", 0.5)
    monkeypatch.setattr(health, "LEAST_ROUND_S", 0.5)
    monkeypatch.setattr(health, "PROOF_S", 5.0)
    bench = Bench("http://reference/")
    bench.prober.answers["http://reference/"] = UP
    bench.prober.answers["http://a/"] = REFUSED
    bench.prober.pauses["http://a/"] = 0.25  # before the second of its attempts
    bench.take(target("a"), replace(REFUSED, latency_ms=0.2))
    await asyncio.sleep(0.9)
    assert bench.statuses == ["failure"]
    assert bench.prober.asked.count("http://a/") == 1
    await bench.health.close()


async def test_a_refused_connection_stands_where_there_is_nobody_to_ask() -> None:
    alone = Bench()
    alone.take(target("a"), REFUSED)
    assert alone.statuses == ["failure"]
    doubting = Bench("http://reference/")
    doubting.take(target("a"), REFUSED)
    assert doubting.statuses == []
    await doubting.health.close()


async def test_nobody_is_asked_again_by_a_request_that_may_do_something() -> None:
    bench = Bench()
    bench.take(target("b", method="POST", body="buy"), UP)
    bench.take(target("a"), SILENT)
    await asyncio.sleep(0.4)
    assert bench.prober.asked == []
    assert bench.statuses == ["success", "error"]
    assert "LIGHTHOUSE_REFERENCE_TARGETS" in bench.alarms[0]


async def test_what_waits_at_the_end_is_left_to_another_worker() -> None:
    bench = Bench("http://reference/")
    bench.take(target("a"), SILENT)
    await bench.health.close()
    await asyncio.sleep(0.3)
    assert bench.statuses == []


def test_a_reference_that_is_no_url_is_told_with_its_variable() -> None:
    with pytest.raises(SettingsError, match="LIGHTHOUSE_REFERENCE_TARGETS: url"):
        references(["nonsense"])


def seen(status: CheckStatus = CheckStatus.SUCCESS) -> Confirmation:
    """What another worker found."""
    return Confirmation(
        worker="w2",
        region=None,
        status=status,
        reason=None if status is CheckStatus.SUCCESS else Reason.TIMEOUT,
        message=None,
        latency_ms=1.0,
        http_status=None,
    )


class Witness:
    """The other workers: says what it was told to say, once it may."""

    def __init__(self, says: Confirmation | None) -> None:
        self.says = says
        self.may = asyncio.Event()
        self.may.set()
        self.asked: list[str] = []

    async def look(self, at: Target) -> Confirmation | None:
        self.asked.append(at.place)
        await self.may.wait()
        return self.says


@pytest.mark.parametrize("outcome", [WRONG, REFUSED])
async def test_a_failure_carries_what_another_worker_found(outcome: Outcome) -> None:
    bench = Bench(witness=Witness(seen(CheckStatus.TIMEOUT)))
    bench.take(target("a"), outcome)
    await asyncio.sleep(0.02)
    assert bench.statuses == ["failure"]
    assert bench.stored[0].confirmation == seen(CheckStatus.TIMEOUT)


async def test_a_failure_goes_on_alone_where_nobody_can_tell() -> None:
    bench = Bench(witness=Witness(None))
    bench.take(target("a"), WRONG)
    await asyncio.sleep(0.02)
    assert bench.statuses == ["failure"]
    assert bench.stored[0].confirmation is None


@pytest.mark.parametrize("first", ["proof", "witness"])
async def test_silence_waits_for_its_proof_and_for_the_other_worker_at_the_same_time(
    first: str,
) -> None:
    witness = Witness(seen(CheckStatus.TIMEOUT))
    witness.may.clear()
    bench = Bench(witness=witness)
    bench.take(target("b"), UP)
    await asyncio.sleep(0.06)
    bench.take(target("a"), SILENT)
    await asyncio.sleep(0.005)
    assert witness.asked == ["a"]
    if first == "witness":
        witness.may.set()
        await asyncio.sleep(0.005)
    else:
        bench.take(target("b"), UP)
    await asyncio.sleep(0)
    assert "timeout" not in bench.statuses
    witness.may.set()
    bench.take(target("b"), UP)
    await asyncio.sleep(0.02)
    assert bench.statuses.count("timeout") == 1
    assert bench.stored[-1].confirmation == seen(CheckStatus.TIMEOUT)
    await bench.health.close()


@pytest.mark.parametrize(
    ("now", "stored"), [(UP, "success"), (REFUSED, "error"), (NO_NETWORK, "error")]
)
async def test_what_another_worker_reached_is_looked_at_once_more(
    now: Outcome, stored: str
) -> None:
    bench = Bench(witness=Witness(seen()))
    bench.prober.answers["http://a/"] = now
    bench.take(target("a"), REFUSED)
    await asyncio.sleep(0.02)
    assert bench.prober.asked == ["http://a/"]
    (result,) = bench.stored
    assert (result.status.value, result.attempts) == (stored, 2)
    assert result.error_code == (None if stored == "success" else "prober_unconfirmed")


async def test_a_target_is_asked_about_again_once_it_was_up_or_not_judged() -> None:
    witness = Witness(seen())
    bench = Bench(witness=witness)
    for outcome in (REFUSED, REFUSED, WRONG, WRONG, UP, WRONG):
        bench.prober.answers["http://a/"] = REFUSED
        bench.take(target("a"), outcome)
        await asyncio.sleep(0.01)
    assert bench.statuses == ["error", "error", "failure", "failure", "success", "failure"]
    assert len(witness.asked) == 4  # neither for the second wrong answer nor for the success


async def test_nobody_is_asked_about_a_check_that_may_do_something() -> None:
    witness = Witness(seen())
    bench = Bench(witness=witness)
    bench.take(target("a", method="POST"), WRONG)
    assert bench.statuses == ["failure"]
    assert witness.asked == []


async def test_nobody_is_asked_while_the_fault_is_known_to_be_ours() -> None:
    witness = Witness(seen())
    bench = Bench("http://reference/", witness=witness)
    bench.take(target("a"), SILENT)
    await asyncio.sleep(0.5)
    assert bench.statuses == ["error"]
    bench.take(target("b"), SILENT)
    assert witness.asked == ["a"]
    await bench.health.close()


async def test_disagreement_about_many_targets_is_ours_without_another_look_at_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "MOST_AGAIN", 2)
    bench = Bench(witness=Witness(seen()))
    bench.prober.answers = {f"http://host{n}/": SILENT for n in range(20)}
    for number in range(20):
        bench.take(target(f"host{number}"), REFUSED)
    await asyncio.sleep(0.2)
    assert bench.statuses == ["error"] * 20
    assert len(bench.prober.asked) == 2


async def test_what_waits_for_another_worker_at_the_end_is_left_to_it() -> None:
    witness = Witness(seen(CheckStatus.TIMEOUT))
    witness.may.clear()
    bench = Bench(witness=witness)
    bench.take(target("a"), WRONG)
    await bench.health.close()
    witness.may.set()
    await asyncio.sleep(0.02)
    assert bench.statuses == []


async def test_whoever_was_to_prove_it_and_is_down_itself_gives_way_to_another() -> None:
    bench = Bench()
    quiet, broken, fine = target("quiet"), target("shared/broken"), target("shared/fine")
    for one in (fine, broken):
        bench.take(one, UP)
    bench.prober.answers = {broken.config.url: WRONG, fine.config.url: UP}
    bench.take(quiet, SILENT)
    await asyncio.sleep(health.BUSY_S + 2 * health.ROUND_S + 0.2)
    assert bench.statuses[2:] == ["timeout"]
    assert bench.alarms == []
