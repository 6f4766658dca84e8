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
from lighthouse.model import CheckStatus, MonitorType, Outcome, Reason, Result, Timings
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
        self.asked: list[str] = []

    async def probe(self, type: MonitorType, config: Any, interval_s: float) -> Outcome:  # noqa: A002
        self.asked.append(config.url)
        answer = self.answers.get(config.url, self.network)
        await asyncio.sleep((answer.latency_ms or 0.0) / 1000)
        return answer


class Bench:
    def __init__(self, *reference_targets: str) -> None:
        self.prober = ScriptedProber()
        self.stored: list[Result] = []
        self.alarms: list[str] = []
        self.health = Health(
            prober=self.prober,
            references=references(reference_targets),
            add=self.stored.append,
            alarm=self.alarms.append,
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
