"""Canaries against a real service on loopback: variables, cookies, clean-up, secrets."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lighthouse.model import CheckStatus, MonitorType, Outcome, Reason
from lighthouse.probes import Prober, check_once, parse_config
from lighthouse.settings import load
from tests.support import shop as shops
from tests.support.certificates import Authority
from tests.support.raw_target import HOST, answering, raw_target, resetting, sending
from tests.support.shop import PASSWORD, TOKEN, Shop

LOOPBACK = load({}, egress_allow="127.0.0.1/32")

SUCCESS, FAILURE = CheckStatus.SUCCESS, CheckStatus.FAILURE
TIMEOUT, ERROR = CheckStatus.TIMEOUT, CheckStatus.ERROR


@pytest.fixture
async def prober() -> AsyncIterator[Prober]:
    async with Prober(LOOPBACK) as running:
        yield running


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with shops.serving() as running:
        yield running


async def probed(prober: Prober, *steps: dict[str, Any], **keys: Any) -> Outcome:
    numbered = [{"name": f"step {n}", "action": "GET", **step} for n, step in enumerate(steps)]
    config = parse_config(
        MonitorType.CANARY, {"steps": numbered, "retries": 0, "timeout": 10, **keys}
    )
    return await prober.probe(MonitorType.CANARY, config, 60)


def ends(outcome: Outcome) -> list[CheckStatus | None]:
    return [step.status for step in outcome.steps]


def journey(shop: Shop) -> list[dict[str, Any]]:
    """Log in, order with token and cookie, look, cancel."""
    return [
        {
            "name": "login",
            "action": "POST",
            "url": shop.url("/login"),
            "body": {"name": "ann", "password": "${PASSWORD}"},
            "extract": {
                "TOKEN": {"json_path": "$.token", "secret": True},
                "USER": "$.user.id",
                "ADMIN": "$.user.admin",
            },
        },
        {
            "name": "order",
            "action": "POST",
            "url": shop.url("/orders"),
            "headers": {"Authorization": "Bearer ${TOKEN}"},
            "body": {"user": "${USER}", "note": "for ${USER}", "run": "${RUN_ID}"},
            "expect": {"status": 201, "headers": {"Location": None}},
            "extract": {"ORDER": "$.id", "LEFT": {"header": "X-Left"}, "SID": {"cookie": "sid"}},
        },
        {
            "name": "look",
            "action": "GET",
            "url": shop.url("/orders/${ORDER}"),
            "expect": {"body": {"json_path": {"$.user": 7, "$.state": "open"}}},
        },
        {
            "name": "admin only",
            "action": "GET",
            "url": shop.url("/admin"),
            "when": {"variables": {"ADMIN": True}},
        },
        {
            "name": "cancel",
            "action": "DELETE",
            "url": shop.url("/orders/${ORDER}"),
            "expect": {"status": 204},
            "always": True,
        },
    ]


@pytest.mark.option(
    "CanaryConfig.secrets",
    "Condition.variables",
    "Extraction.json_path",
    "HttpStep.body",
    "HttpStep.headers",
    "HttpStep.extract",
)
async def test_a_journey_carries_token_and_cookie_and_cleans_up(prober: Prober, shop: Shop) -> None:
    found = await probed(prober, *journey(shop), secrets={"PASSWORD": PASSWORD})
    assert (found.status, found.message) == (SUCCESS, None)
    assert ends(found) == [SUCCESS, SUCCESS, SUCCESS, None, SUCCESS]
    assert [step.name for step in found.steps] == ["login", "order", "look", "admin only", "cancel"]
    assert found.steps[3].message == "${ADMIN}: is false, expected true"
    assert shop.orders == {}
    assert shop.paths() == ["/login", "/orders", "/orders/o%2F1", "/orders/o%2F1"]
    assert found.latency_ms is not None
    assert all(step.latency_ms > 0 for step in found.steps if step.status is not None)
    assert sum(step.latency_ms for step in found.steps) <= found.latency_ms


async def test_a_whole_text_keeps_the_type_of_its_variable(prober: Prober, shop: Shop) -> None:
    await probed(prober, *journey(shop)[:2], secrets={"PASSWORD": PASSWORD})
    order = shop.orders["o/1"]
    assert (order["user"], order["note"]) == (7, "for 7")


async def test_a_failed_step_is_named_and_ends_the_flow_but_not_the_clean_up(
    prober: Prober, shop: Shop
) -> None:
    steps = journey(shop)
    steps[2]["expect"] = {"body": {"json_path": {"$.state": "paid"}}}
    found = await probed(prober, *steps, secrets={"PASSWORD": PASSWORD})
    assert (found.status, found.reason, found.http_status) == (FAILURE, Reason.BODY, 200)
    assert found.message is not None
    assert found.message.startswith("step look: ")
    assert ends(found) == [SUCCESS, SUCCESS, FAILURE, None, SUCCESS]
    assert shop.orders == {}


async def test_a_clean_up_that_has_nothing_to_clean_is_skipped(prober: Prober, shop: Shop) -> None:
    found = await probed(prober, *journey(shop), secrets={"PASSWORD": "wrong!"})
    assert (found.status, found.http_status) == (FAILURE, 401)
    assert ends(found) == [FAILURE, None, None, None, None]
    assert shop.paths() == ["/login"]


async def test_a_clean_up_that_fails_is_a_failure(prober: Prober, shop: Shop) -> None:
    found = await probed(
        prober,
        {"url": shop.url("/ok")},
        {"url": shop.url("/orders/9"), "action": "DELETE", "always": True},
    )
    assert (found.status, found.http_status) == (FAILURE, 404)


@pytest.mark.option("StepConfig.always")
async def test_time_is_kept_for_the_clean_up_of_a_hanging_flow(prober: Prober, shop: Shop) -> None:
    async with raw_target(sending(b"", then_hang=True)) as hanging:
        found = await probed(
            prober,
            {"url": hanging.url()},
            {"url": shop.url("/cleaned"), "always": True},
            timeout=1.5,
        )
    assert (found.status, found.reason) == (TIMEOUT, Reason.TIMEOUT)
    assert ends(found) == [TIMEOUT, SUCCESS]
    assert shop.paths() == ["/cleaned"]


async def test_secrets_are_in_no_text_however_the_target_echoes_them(
    prober: Prober, shop: Shop
) -> None:
    secret = 'p"ss w%rd/ä'
    key = "k-8c1f77"
    found = await probed(
        prober,
        {"url": shop.url("/echo?given=${PASS}"), "headers": {"X-Key": "${KEY}"}, "optional": True},
        {
            "url": shop.url("/echo?status=200"),
            "headers": {"X-Key": "${KEY}"},
            "expect": {"headers": {"X-Echo": "other"}},
            "optional": True,
        },
        {"url": shop.url("/echo"), "headers": {"X-Key": "${KEY}"}},
        secrets={"PASS": secret, "KEY": key},
    )
    assert ends(found) == [FAILURE, FAILURE, FAILURE]
    assert found.snippet is not None
    assert "•••" in found.snippet
    texts = [found.message, found.snippet]
    texts += [step.message for step in found.steps]
    for text in texts:
        assert text is not None
        assert key not in text
        assert "ay04YzFmNzc" not in text.replace("=", "")
        assert secret not in text
    assert found.steps[1].message == 'header X-Echo is "•••", expected "other"'


async def test_a_secret_that_the_snippet_cuts_is_hidden_too(prober: Prober) -> None:
    secret = "s3cr3t-" + "0123456789" * 6
    body = b"x" * 1000 + secret.encode()
    async with raw_target(answering(status=500, body=body)) as target:
        found = await probed(prober, {"url": target.url()}, secrets={"KEY": secret})
    assert found.snippet is not None
    assert found.snippet.startswith("x" * 1000 + "•••")
    assert "s3cr" not in found.snippet


@pytest.mark.option("Extraction.secret")
async def test_extracted_secrets_and_cookies_are_hidden(prober: Prober, shop: Shop) -> None:
    async with raw_target(answering(status=500, body=f"{TOKEN} session-9931".encode())) as target:
        leak = {"name": "leak", "action": "GET", "url": target.url()}
        found = await probed(prober, journey(shop)[0], leak, secrets={"PASSWORD": PASSWORD})
    assert found.snippet == "••• •••"


@pytest.mark.option("StepConfig.retries", "StepConfig.retry_pause")
async def test_a_step_is_tried_again_after_its_pause(prober: Prober, shop: Shop) -> None:
    shop.failures_left = 1
    found = await probed(prober, {"url": shop.url("/flaky"), "retries": 1, "retry_pause": 0.7})
    assert (found.status, len(shop.asked)) == (SUCCESS, 2)
    assert found.latency_ms is not None
    assert found.latency_ms >= 700
    shop.failures_left = 4
    step = {"url": shop.url("/flaky"), "retries": 2, "retry_pause": 0.01}
    assert (await probed(prober, step)).status is FAILURE
    assert len(shop.asked) == 5


async def test_a_whole_flow_is_tried_again_with_nothing_of_the_first(
    prober: Prober, shop: Shop
) -> None:
    shop.failures_left = 1
    steps = [{"url": shop.url("/redirect")}, {"url": shop.url("/flaky")}]
    found = await probed(prober, *steps, retries=1)
    assert (found.status, found.attempts) == (SUCCESS, 2)
    cookies = [headers.get("Cookie") for _, _, headers, _ in shop.asked]
    assert cookies == [None, "hop=1", "hop=1", None, "hop=1", "hop=1"]


@pytest.mark.option("StepConfig.optional")
async def test_an_optional_step_fails_alone(prober: Prober, shop: Shop) -> None:
    failing = {"url": shop.url("/ok"), "expect": {"status": 500}}
    found = await probed(prober, {**failing, "optional": True}, {"url": shop.url("/ok")})
    assert (found.status, ends(found)) == (SUCCESS, [FAILURE, SUCCESS])
    assert (await probed(prober, failing, {"url": shop.url("/ok")})).status is FAILURE


@pytest.mark.parametrize(
    ("when", "runs"),
    [
        ({"variables": {"LIVE": "ready"}}, True),
        ({"variables": {"LIVE": {"not": "ready"}}}, False),
        ({"variables": {"BUILD": {">": 4000}}}, True),
        ({"variables": {"BUILD": {"matches": "^5"}}}, False),
        ({"steps": {"first": "success", "broken": "failure"}}, True),
        ({"steps": {"broken": "success"}}, False),
        ({"steps": {"first": "success"}, "variables": {"LIVE": "gone"}}, False),
    ],
)
async def test_a_condition_decides_whether_a_step_runs(
    prober: Prober, shop: Shop, when: dict[str, Any], runs: bool
) -> None:
    found = await probed(
        prober,
        {
            "name": "first",
            "url": shop.url("/text"),
            "extract": {"BUILD": {"regex": r"build (\d+)"}, "LIVE": {"regex": "state=(.*)"}},
        },
        {"name": "broken", "url": shop.url("/x"), "expect": {"status": 404}, "optional": True},
        {"name": "maybe", "url": shop.url("/maybe"), "when": when},
    )
    assert found.status is SUCCESS
    assert ends(found)[2] is (SUCCESS if runs else None)
    assert ("/maybe" in shop.paths()) is runs


@pytest.mark.parametrize(
    ("extraction", "value"),
    [
        ({"regex": r"build (\d+) is (\w+)"}, "4711"),
        ({"regex": r"build \d+"}, "build 4711"),
        ({"header": "content-type"}, "text/plain; charset=utf-8"),
        ({"header": "Content-Type", "regex": "charset=(.*)"}, "utf-8"),
        ({"header": "X-None", "default": "fallback"}, "fallback"),
        ({"json_path": "$.a", "default": None}, "null"),
    ],
)
async def test_an_extraction_finds_its_value(
    prober: Prober, shop: Shop, extraction: dict[str, Any], value: str
) -> None:
    found = await probed(
        prober,
        {"url": shop.url("/text"), "extract": {"X": extraction}},
        {"url": shop.url("/next"), "headers": {"X-Value": "${X}"}},
    )
    assert found.status is SUCCESS
    assert shop.asked[1][2]["X-Value"] == value


@pytest.mark.parametrize(
    ("extraction", "reason", "message"),
    [
        ("$.a", Reason.BODY, "X at $.a: is not JSON"),
        ({"regex": "nowhere"}, Reason.BODY, "X at the pattern: nothing found"),
        ({"header": "X-None"}, Reason.HEADER, "X in header X-None: nothing found"),
        ({"cookie": "sid"}, Reason.HEADER, "X in cookie sid: nothing found"),
    ],
)
async def test_a_value_that_is_not_there_is_the_targets_failure(
    prober: Prober, shop: Shop, extraction: Any, reason: Reason, message: str
) -> None:
    found = await probed(prober, {"url": shop.url("/text"), "extract": {"X": extraction}})
    assert (found.status, found.reason, found.http_status) == (FAILURE, reason, 200)
    assert found.message is not None
    assert found.message.startswith("step step 0: " + message)
    assert found.snippet == "build 4711 is live, state=ready"


@pytest.mark.option("HttpExpect.status", "HttpStep.expect")
async def test_another_status_than_the_expected_is_told(prober: Prober, shop: Shop) -> None:
    found = await probed(prober, {"url": shop.url("/text"), "expect": {"status": ["3xx", 204]}})
    assert (found.status, found.reason) == (FAILURE, Reason.STATUS_CODE)


@pytest.mark.option("HttpExpect.headers")
async def test_another_header_than_the_expected_is_told(prober: Prober, shop: Shop) -> None:
    found = await probed(
        prober, {"url": shop.url("/text"), "expect": {"headers": {"X-None": None}}}
    )
    assert (found.status, found.reason) == (FAILURE, Reason.HEADER)


@pytest.mark.option("HttpExpect.body")
@pytest.mark.parametrize(
    "body",
    [
        {"contains": "nowhere"},
        {"regex": "^never$"},
        {"json_path": {"$.a": 1}},
        {"json_schema": {"type": "object"}},
    ],
)
async def test_another_body_than_the_expected_is_told(
    prober: Prober, shop: Shop, body: dict[str, Any]
) -> None:
    found = await probed(prober, {"url": shop.url("/text"), "expect": {"body": body}})
    assert (found.status, found.reason) == (FAILURE, Reason.BODY)


@pytest.mark.option(
    "Extraction.header", "Extraction.cookie", "Extraction.regex", "Extraction.default"
)
async def test_values_of_every_source_reach_the_next_step(prober: Prober, shop: Shop) -> None:
    await probed(
        prober,
        {
            "url": shop.url("/redirect?to=/text"),
            "extract": {
                "TYPE": {"header": "Content-Type"},
                "HOP": {"cookie": "hop"},
                "BUILD": {"regex": r"build (\d+)"},
                "NONE": {"header": "X-None", "default": "none"},
            },
        },
        {"url": shop.url("/next/${HOP}/${BUILD}/${NONE}"), "headers": {"X-Type": "${TYPE}"}},
    )
    _, path, headers, _ = shop.asked[-1]
    assert path == "/next/1/4711/none"
    assert headers["X-Type"] == "text/plain; charset=utf-8"


@pytest.mark.option("Condition.steps", "StepConfig.when")
async def test_a_step_waits_for_the_end_of_another(prober: Prober, shop: Shop) -> None:
    broken = {"name": "broken", "url": shop.url("/x"), "expect": {"status": 404}, "optional": True}
    found = await probed(
        prober,
        broken,
        {"name": "repair", "url": shop.url("/repair"), "when": {"steps": {"broken": "failure"}}},
        {"name": "use", "url": shop.url("/use"), "when": {"steps": {"broken": "success"}}},
    )
    assert ends(found) == [FAILURE, SUCCESS, None]
    assert found.steps[2].message == "step broken: failure"


@pytest.mark.option("HttpStep.verify_tls")
async def test_a_certificate_of_nobody_is_taken_where_that_is_asked_for(
    prober: Prober, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    async with raw_target(answering(), authority.issue(HOST)) as target:
        lax = await probed(prober, {"url": target.url(), "verify_tls": False})
        strict = await probed(prober, {"url": target.url()})
    assert (lax.status, strict.status) == (SUCCESS, FAILURE)
    assert lax.cert_expires_at is not None
    assert strict.reason is not None
    assert strict.reason.value.startswith("tls_")


@pytest.mark.option("HttpStep.max_body_bytes")
async def test_no_more_of_a_body_is_read_than_allowed(prober: Prober) -> None:
    async with raw_target(answering(body=b"x" * 5000 + b"end")) as target:
        found = await probed(
            prober,
            {"url": target.url(), "max_body_bytes": 1024, "expect": {"body": {"contains": "end"}}},
        )
    assert (found.status, found.reason) == (FAILURE, Reason.BODY_TOO_LARGE)


@pytest.mark.option("HttpExpect.max_latency_ms")
async def test_a_slow_step_fails_its_latency_limit(prober: Prober) -> None:
    async with raw_target(answering(after_s=0.2)) as target:
        found = await probed(prober, {"url": target.url(), "expect": {"max_latency_ms": 100}})
    assert (found.status, found.reason) == (FAILURE, Reason.MAX_LATENCY)


@pytest.mark.option("StepConfig.timeout")
async def test_a_step_ends_at_its_own_timeout_and_the_flow_at_its(prober: Prober) -> None:
    async with raw_target(sending(b"", then_hang=True)) as target:
        own = await probed(prober, {"url": target.url(), "timeout": 0.3}, timeout=3)
        flow = await probed(
            prober, {"action": "wait", "seconds": 0.5}, {"url": target.url()}, timeout=0.8
        )
    assert (own.status, flow.status) == (TIMEOUT, TIMEOUT)
    assert own.latency_ms is not None
    assert own.latency_ms < 2500
    assert ends(flow) == [SUCCESS, TIMEOUT]


@pytest.mark.option("HttpStep.follow_redirects", "HttpStep.max_redirects")
async def test_redirects_and_their_bounds_are_the_steps_own(prober: Prober, shop: Shop) -> None:
    followed = await probed(prober, {"url": shop.url("/redirect")})
    kept = await probed(
        prober,
        {
            "url": shop.url("/redirect"),
            "follow_redirects": False,
            "expect": {"status": 302},
            "extract": {"TO": {"header": "location"}},
        },
    )
    loop = shop.url("/redirect?to=/redirect")
    bounded = await probed(prober, {"url": loop, "max_redirects": 0})
    assert (followed.status, followed.http_status) == (SUCCESS, 200)
    assert (kept.status, kept.http_status) == (SUCCESS, 302)
    assert (bounded.status, bounded.reason) == (FAILURE, Reason.TOO_MANY_REDIRECTS)


@pytest.mark.option("HttpStep.method")
async def test_composed_values_are_sent_encoded(prober: Prober, shop: Shop) -> None:
    await probed(
        prober,
        {"action": "set", "values": {"DOC": {"user": "${NAME}", "n": [1, "${NOW+60}"]}}},
        {
            "url": shop.url("/x?q=${NAME}&d=${DOC|base64url}"),
            "action": "http",
            "method": "put",
            "headers": {"X-Doc": "${DOC|base64}"},
            "body": "literal $${NAME} and ${NAME|json}",
        },
        secrets={"NAME": "Zoë & co"},
    )
    method, path, headers, body = shop.asked[0]
    assert method == "PUT"
    assert path.startswith("/x?q=Zo%C3%AB%20%26%20co&d=ey")
    assert headers["X-Doc"].startswith("eyJ1c2VyIjoi")
    assert body == 'literal ${NAME} and "Zoë & co"'


# -- hostile targets in the middle of a flow --------------------------------------------------


def stolen(url: str) -> dict[str, Any]:
    return {"url": url, "extract": {"V": "$.variable", "H": "$.header", "N": "$.next"}}


async def test_a_value_with_a_line_break_gets_into_no_header(prober: Prober, shop: Shop) -> None:
    found = await probed(
        prober,
        {"url": shop.url("/hostile"), "extract": {"H": "$.header"}},
        {"url": shop.url("/next"), "headers": {"X-Value": "${H}"}},
    )
    assert (found.status, found.reason) == (FAILURE, Reason.PROTOCOL_ERROR)
    assert shop.paths() == ["/hostile"]


async def test_a_secret_with_a_line_break_is_a_fault_of_the_configuration(
    prober: Prober, shop: Shop
) -> None:
    found = await probed(
        prober,
        {"url": shop.url("/x"), "headers": {"X-Value": "${H}"}},
        secrets={"H": "a\r\nX-Evil: 1"},
    )
    assert (found.status, found.reason) == (ERROR, Reason.PROBER_CONFIG)


async def test_a_value_that_names_a_variable_stays_text(prober: Prober, shop: Shop) -> None:
    await probed(
        prober,
        {"url": shop.url("/hostile"), "extract": {"V": "$.variable"}},
        {
            "url": shop.url("/n"),
            "action": "POST",
            "body": {"a": "${V}"},
            "headers": {"X-V": "${V}"},
        },
        secrets={"PASSWORD": PASSWORD},
    )
    _, _, headers, body = shop.asked[1]
    assert headers["X-V"] == "${PASSWORD}"
    assert body == '{"a":"${PASSWORD}"}'


async def test_a_value_leaves_its_place_in_neither_url_nor_body(prober: Prober, shop: Shop) -> None:
    await probed(
        prober,
        {"url": shop.url("/hostile"), "extract": {"P": "$.path", "Q": "$.quote"}},
        {"url": shop.url("/files/${P}"), "action": "POST", "body": {"a": "x${Q}"}},
    )
    _, path, _, body = shop.asked[1]
    assert path == "/files/..%2Fadmin%3Fx%3D1%23y"
    assert body == '{"a":"x\\"}, {\\"a\\": \\""}'


@pytest.mark.option("CanaryConfig.allow_origins")
async def test_an_answer_cannot_choose_who_gets_the_next_secret(prober: Prober, shop: Shop) -> None:
    steps: list[dict[str, Any]] = [
        {"url": shop.url("/hostile"), "extract": {"N": "$.next"}},
        {"url": "${N}", "headers": {"Authorization": "Bearer ${KEY}"}},
    ]
    async with raw_target(answering()) as thief:
        steps[0]["url"] = shop.url(f"/hostile?next={thief.url('/steal')}")
        found = await probed(prober, *steps, secrets={"KEY": "k-8c1f77"})
        assert (found.status, found.reason) == (FAILURE, Reason.FORBIDDEN_ADDRESS)
        assert thief.requests == []
        origin = thief.url("")
        allowed = await probed(prober, *steps, secrets={"KEY": "k-8c1f77"}, allow_origins=[origin])
        assert allowed.status is SUCCESS
        assert b"Bearer k-8c1f77" in thief.requests[0]


async def test_an_answer_may_lead_to_an_origin_that_the_canary_names(
    prober: Prober, shop: Shop
) -> None:
    found = await probed(
        prober,
        {"url": shop.url(f"/hostile?next={shop.url('/page2')}"), "extract": {"N": "$.next"}},
        {"url": "${N}"},
    )
    assert found.status is SUCCESS
    assert shop.paths()[1] == "/page2"


async def test_a_step_reaches_no_forbidden_address(prober: Prober, shop: Shop) -> None:
    private = "http://127.0.0.2:9"
    steps = [
        {"url": shop.url(f"/hostile?next={private}/"), "extract": {"N": "$.next"}},
        {"url": "${N}"},
    ]
    found = await probed(prober, *steps, allow_origins=[private])
    assert (found.status, found.reason) == (FAILURE, Reason.FORBIDDEN_ADDRESS)
    redirected = await probed(prober, {"url": shop.url(f"/redirect?to={private}/")})
    assert (redirected.status, redirected.reason) == (FAILURE, Reason.FORBIDDEN_ADDRESS)


async def test_a_redirect_to_another_origin_takes_no_secret_along(
    prober: Prober, shop: Shop
) -> None:
    async with raw_target(answering()) as thief:
        found = await probed(
            prober,
            {
                "url": shop.url(f"/redirect?to={thief.url()}"),
                "headers": {"Authorization": "Bearer ${KEY}", "Cookie": "mine=1"},
            },
            secrets={"KEY": "k-8c1f77"},
        )
        assert found.status is SUCCESS
        # The cookie of the first hop is 127.0.0.1's, whatever its port: so RFC 6265 has it.
        assert b"k-8c1f77" not in thief.requests[0]
        assert b"mine=1" not in thief.requests[0]


async def test_an_endless_body_a_huge_value_and_a_reset_end_a_flow(
    prober: Prober, shop: Shop
) -> None:
    huge = await probed(prober, {"url": shop.url("/hostile"), "extract": {"X": "$.huge"}})
    assert (huge.status, huge.reason) == (FAILURE, Reason.BODY)
    async with raw_target(answering(body=b"[" * 50_000)) as deep:
        nested = await probed(prober, {"url": deep.url(), "extract": {"X": "$..a"}})
    assert (nested.status, nested.reason) == (FAILURE, Reason.BODY)
    async with raw_target(answering(body=b"x" * 5000)) as long:
        cut = await probed(
            prober, {"url": long.url(), "max_body_bytes": 1024, "extract": {"X": {"regex": "x{9}"}}}
        )
    assert cut.status is SUCCESS
    async with raw_target(resetting()) as broken:
        reset = await probed(prober, {"url": shop.url("/ok")}, {"url": broken.url()})
    assert (reset.status, ends(reset)) == (FAILURE, [SUCCESS, FAILURE])


async def test_a_cancelled_flow_stops(prober: Prober) -> None:
    async with raw_target(sending(b"", then_hang=True)) as target:
        running = asyncio.create_task(probed(prober, {"url": target.url()}))
        await target.connected.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_a_redirect_that_is_not_to_be_followed_is_judged(prober: Prober, shop: Shop) -> None:
    async with raw_target(answering()) as other:
        step = {"url": shop.url(f"/redirect?to={other.url()}"), "follow_redirects": "same_origin"}
        found = await probed(prober, step)
        assert (found.status, found.http_status, other.requests) == (FAILURE, 302, [])


async def test_the_findings_of_each_step_are_told_where_somebody_looks(shop: Shop) -> None:
    settings = load({}, egress_allow="127.0.0.1/32")
    config = parse_config(
        MonitorType.CANARY,
        {
            "secrets": {"WORD": "state=ready"},
            "steps": [
                {
                    "name": "text",
                    "action": "GET",
                    "url": shop.url("/text"),
                    "expect": {"headers": {"Content-Type": "text/plain"}, "status": 200},
                }
            ],
        },
    )
    found = await check_once(MonitorType.CANARY, config, settings)
    told = [(finding.name, finding.ok) for finding in found.steps[0].findings]
    assert told == [("status", True), ("header Content-Type", True)]
