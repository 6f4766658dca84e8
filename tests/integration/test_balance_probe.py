"""Balances over real EVMs and over a JSON-RPC node of the test's own that misbehaves."""

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from lighthouse import settings
from lighthouse.model import Bounds, CheckStatus, MonitorType, Outcome, Reason
from lighthouse.probes import Prober, check_once, parse_config, rpc
from lighthouse.probes.wire import resolver as resolver_module
from tests.support import evm
from tests.support.rpc_double import RpcError, node

SUCCESS, FAILURE, ERROR = CheckStatus.SUCCESS, CheckStatus.FAILURE, CheckStatus.ERROR

HOLDER = "0x" + "ab" * 20
TOKEN = "0x" + "70" * 20
WEI = 10**18

#: Nobody listens there: a check whose own RPCs were forgotten must not reach a public one.
DEAD = "http://127.0.0.1:9/"

Answering = Callable[[str, list[Any]], Any]


def loopback(*rpc_urls: str) -> settings.Settings:
    """A prober's settings whose chain is served by these RPCs alone."""
    chains = json.dumps({"base": {"rpc_urls": rpc_urls or [DEAD]}})
    return settings.load({}, egress_allow="127.0.0.1/32", chains=chains)


def configured(*rpc_urls: str, **keys: Any) -> Any:
    given = {"chain": "base", "address": HOLDER, "retries": 0, "timeout": 20, **keys}
    if rpc_urls:
        given["rpc_urls"] = list(rpc_urls)
    return parse_config(MonitorType.BALANCE, given)


async def probed(*rpc_urls: str, **keys: Any) -> Outcome:
    async with Prober(loopback()) as prober:
        return await prober.probe(MonitorType.BALANCE, configured(*rpc_urls, **keys), 60)


def holding(
    value: int, *, token: int = 0, decimals: int | None = 6, chain: int = 8453
) -> Answering:
    """A chain on which everybody holds the same."""

    def answer(method: str, params: list[Any]) -> Any:
        if method == "eth_chainId":
            return hex(chain)
        if method == "eth_getBalance":
            return hex(value)
        if params[0]["data"].startswith("0x70a08231"):
            return f"0x{token:064x}"
        if decimals is None:
            raise RpcError(3, "execution reverted")
        return f"0x{decimals:064x}"

    return answer


# -- what is held -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", evm.kinds())
async def test_coins_and_tokens_of_a_real_chain_are_read_to_the_last_unit(kind: str) -> None:
    async with evm.running(kind) as chain:
        await chain.pay(HOLDER, 10**17)
        small = await chain.deploy(2_500_001, 6)
        large = await chain.deploy(3 * 10**17 + 1, 18)
        url = chain.url
        keys: dict[str, Any] = {"alert_threshold": 0.1, "critical_threshold": "0.05"}
        found = await probed(url, **keys)
        assert (found.status, found.reason, found.value) == (SUCCESS, None, 10**17)
        keys = {"token": small, "address": chain.owner, "alert_threshold": "2.500001"}
        found = await probed(url, **keys)
        assert (found.status, found.reason, found.value) == (SUCCESS, None, 2_500_001)
        found = await probed(url, **{**keys, "critical_threshold": "2.5000010"})
        assert (found.status, found.value) == (SUCCESS, 2_500_001)
        found = await probed(url, **{**keys, "alert_threshold": "2.500002"})
        assert (found.status, found.reason) == (SUCCESS, Reason.BALANCE_LOW)
        keys = {"token": large, "address": chain.owner, "critical_threshold": "0.3"}
        found = await probed(url, **keys)
        assert (found.status, found.reason, found.value) == (SUCCESS, None, 3 * 10**17 + 1)
        keys["critical_threshold"] = "0.300000000000000002"
        found = await probed(url, **keys)
        assert (found.status, found.reason) == (FAILURE, Reason.BALANCE_CRITICAL)
        # No contract, and one that is no token: errors, not a balance of nothing.
        found = await probed(url, token=TOKEN, critical_threshold=1)
        assert (found.status, found.reason, found.value) == (ERROR, Reason.PROBER_CHAIN, None)
        assert found.message == "there is no such token on this chain"


@pytest.mark.option("BalanceConfig.token")
async def test_a_token_is_another_balance_than_the_chains_coin() -> None:
    async with node(holding(5 * WEI, token=7_250_000)) as chain:
        found = await probed(chain.url, token=TOKEN, critical_threshold=7)
        assert (found.status, found.value) == (SUCCESS, 7_250_000)
        [asked] = [params for method, params in chain.asked if method == "eth_call"][:1]
        assert asked == [{"to": TOKEN, "data": f"0x70a08231{'ab' * 20:0>64}"}, "latest"]


@pytest.mark.option("BalanceConfig.decimals")
async def test_decimals_can_be_told_where_the_token_does_not() -> None:
    async with node(holding(0, token=1250, decimals=None)) as chain:
        found = await probed(chain.url, token=TOKEN, decimals=2, alert_threshold="12.51")
        assert found.message == "12.5 0x7070…7070 is below the threshold of 12.51"
        assert [method for method, _ in chain.asked].count("eth_call") == 1


async def test_a_token_without_decimals_is_an_error() -> None:
    async with node(holding(0, token=1250, decimals=None)) as chain:
        found = await probed(chain.url, token=TOKEN, critical_threshold=100)
    assert (found.status, found.reason, found.value) == (ERROR, Reason.PROBER_CHAIN, None)
    assert found.message == "the token refuses to tell: execution reverted"


async def test_a_tokens_decimals_are_asked_once() -> None:
    async with node(holding(0, token=1250)) as chain, Prober(loopback()) as prober:
        config = configured(chain.url, token=TOKEN)
        for _ in range(3):
            assert (await prober.probe(MonitorType.BALANCE, config, 60)).value == 1250
        calls = [params[0]["data"] for method, params in chain.asked if method == "eth_call"]
    assert calls.count("0x313ce567") == 1
    assert len(calls) == 4


# -- what it means ----------------------------------------------------------------------------


@pytest.mark.option("BalanceConfig.alert_threshold", "BalanceConfig.critical_threshold")
async def test_below_warns_below_critical_fails_and_equal_is_not_below() -> None:
    async with node(holding(10**17)) as chain:

        async def found(value: int) -> tuple[CheckStatus, Reason | None, str | None]:
            chain.answer = holding(value)
            one = await probed(chain.url, alert_threshold=0.1, critical_threshold="0.03")
            assert one.value == value
            return one.status, one.reason, one.message

        assert await found(10**17) == (SUCCESS, None, None)
        assert await found(10**17 - 1) == (
            *(SUCCESS, Reason.BALANCE_LOW),
            "0.099999999999999999 ETH is below the threshold of 0.1",
        )
        assert (await found(3 * 10**16))[:2] == (SUCCESS, Reason.BALANCE_LOW)
        assert await found(3 * 10**16 - 1) == (
            *(FAILURE, Reason.BALANCE_CRITICAL),
            "0.029999999999999999 ETH is below the critical threshold of 0.03",
        )
        assert (await found(0))[:2] == (FAILURE, Reason.BALANCE_CRITICAL)


@pytest.mark.option("BalanceConfig.hysteresis_percent")
async def test_a_balance_comes_with_the_bounds_that_judge_it_and_that_end_its_alerts() -> None:
    keys = {"alert_threshold": "0.1", "critical_threshold": "0.03"}
    async with node(holding(10**17, token=1250)) as chain:
        found = await probed(chain.url, **keys, hysteresis_percent=10)
        assert found.bounds == Bounds(
            alert_at=10**17,
            critical_at=3 * 10**16,
            alert_clear_at=11 * 10**16,
            critical_clear_at=33 * 10**15,
        )
        chain.answer = holding(0, token=1250)
        found = await probed(chain.url, token=TOKEN, decimals=2, critical_threshold="0.03")
        assert (found.status, found.value) == (SUCCESS, 1250)
        # 3.15 cents are reached by 4.
        assert found.bounds == Bounds(critical_at=3, critical_clear_at=4)
        found = await probed(chain.url)
        assert (found.value, found.bounds) == (0, Bounds())
        chain.answer = holding(0, chain=1)
        found = await probed(chain.url, **keys)
        assert (found.value, found.bounds) == (None, None)


async def test_a_balance_of_78_digits_is_kept_whole() -> None:
    async with node(holding(2**256 - 1)) as chain:
        found = await probed(chain.url, critical_threshold=1)
    assert (found.status, found.value) == (SUCCESS, 2**256 - 1)


async def test_a_single_look_tells_the_balance() -> None:
    async with node(holding(15 * 10**17)) as chain:
        found = await check_once(MonitorType.BALANCE, configured(chain.url), loopback())
    assert [(each.name, each.ok, each.found) for each in found.findings] == [
        ("balance", True, "1.5 ETH")
    ]


# -- which RPC --------------------------------------------------------------------------------


@pytest.mark.option("BalanceConfig.rpc_urls")
async def test_a_checks_own_rpcs_are_asked_instead_of_the_chains() -> None:
    async with (
        node(holding(1)) as usual,
        node(holding(2)) as own,
        Prober(loopback(usual.url)) as prober,
    ):
        found = await prober.probe(MonitorType.BALANCE, configured(own.url), 60)
        assert found.value == 2
        assert usual.requests == []
        assert (await prober.probe(MonitorType.BALANCE, configured(), 60)).value == 1


async def test_an_operators_own_chain_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    async with node(holding(1500, chain=31_337)) as chain:
        own = {"chain_id": 31_337, "symbol": "OWN", "decimals": 3, "rpc_urls": [chain.url]}
        chains = json.dumps({"my_chain": own})
        monkeypatch.setenv("LIGHTHOUSE_CHAINS", chains)
        settings.current.cache_clear()
        try:
            config = configured(chain="my_chain", alert_threshold="1.501")
        finally:
            settings.current.cache_clear()
        given = settings.load({}, egress_allow="127.0.0.1/32", chains=chains)
        found = await check_once(MonitorType.BALANCE, config, given)
        assert found.message == "1.5 OWN is below the threshold of 1.501"
        # A worker that was not told of the chain knows nothing of the balance.
        found = await check_once(MonitorType.BALANCE, config, loopback())
        assert (found.status, found.reason) == (ERROR, Reason.PROBER_CHAIN)


async def test_dead_ill_and_foreign_rpcs_are_followed_by_the_next_one() -> None:
    async with (
        node(holding(1, chain=1)) as foreign,
        node(holding(2)) as ill,
        node(holding(3)) as good,
    ):
        ill.raw, ill.status = b"<html>bad gateway", 502
        bad = (DEAD, foreign.url, ill.url)
        async with Prober(loopback()) as prober:
            config = configured(*bad, good.url)
            for _ in range(3):
                found = await prober.probe(MonitorType.BALANCE, config, 60)
                assert (found.status, found.value) == (SUCCESS, 3)
            # Those that failed are left alone for a while.
            assert (len(foreign.requests), len(ill.requests)) == (1, 1)
        found = await probed(*bad, critical_threshold=1)
        assert (found.status, found.reason, found.value) == (ERROR, Reason.PROBER_RPC, None)
        assert found.message == "RPC 3 of 3 answered with status 502"


async def test_another_chains_balance_is_never_judged() -> None:
    async with node(holding(0, chain=1)) as foreign:
        found = await probed(foreign.url, critical_threshold=1)
    assert (found.status, found.reason) == (ERROR, Reason.PROBER_CHAIN)
    assert found.message == "the RPC is of chain 1, not 8453"
    assert found.value is None


async def test_an_rpc_that_hangs_leaves_the_next_one_its_share_of_the_time() -> None:
    async def hang(_: Any, __: Any) -> None:
        await asyncio.Event().wait()

    async with node(holding(1)) as hanging, node(holding(2)) as good:
        hanging.reply = hang
        found = await probed(hanging.url, good.url, timeout=3)
        assert (found.status, found.value) == (SUCCESS, 2)
        found = await probed(hanging.url, critical_threshold=1, timeout=0.5)
        assert (found.status, found.reason) == (ERROR, Reason.PROBER_RPC)


# -- many at once -----------------------------------------------------------------------------


def _by_address(method: str, params: list[Any]) -> Any:
    """A chain on which an address holds the number that it is."""
    return hex(8453) if method == "eth_chainId" else hex(int(params[0], 16))


async def _all(prober: Prober, url: str, count: int) -> list[Outcome]:
    configs = [configured(url, address=f"0x{number:040x}") for number in range(1, count + 1)]
    return await asyncio.gather(
        *(prober.probe(MonitorType.BALANCE, config, 60) for config in configs)
    )


async def test_300_addresses_take_a_few_requests_and_each_gets_its_own_answer() -> None:
    async with node(_by_address) as chain, Prober(loopback()) as prober:
        found = await _all(prober, chain.url, 300)
        assert [each.value for each in found] == list(range(1, 301))
        assert len(chain.requests) <= 4
        assert max(chain.requests) <= rpc.MOST_CALLS + 1


@pytest.mark.parametrize("how", ["400", "413", "an error", "one error of many"])
async def test_a_provider_that_refuses_batches_is_asked_one_by_one(how: str) -> None:
    async def refuse(sent: Any, _: Any) -> web.Response | None:
        if not isinstance(sent, list):
            return None
        if how.isdigit():
            return web.Response(status=int(how), text="no batches")
        error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "no batches"}}
        return web.json_response(error, status=200 if how == "an error" else 400)

    async with node(_by_address) as chain, Prober(loopback()) as prober:
        chain.reply = refuse
        found = await _all(prober, chain.url, 12)
        assert [each.value for each in found] == list(range(1, 13))
        assert chain.requests == [13, *[1] * 13]
        # It is remembered.
        assert [each.value for each in await _all(prober, chain.url, 2)] == [1, 2]
        assert chain.requests[14:] == [1, 1]


async def test_calls_without_a_believable_answer_are_asked_elsewhere_and_else_an_error() -> None:
    async def spoil(sent: Any, answer: Any) -> web.Response | None:
        if not isinstance(sent, list):
            return None
        by_address = {each["params"][0]: each["id"] for each in sent if each["params"]}
        missing, twice, strange = (by_address.get(f"0x{number:040x}") for number in (1, 2, 3))
        spoilt = [each for each in answer if each["id"] != missing]
        spoilt += [{**each, "result": "0x0"} for each in answer if each["id"] == twice]
        spoilt = [{**each, "result": "0xzz"} if each["id"] == strange else each for each in spoilt]
        return web.json_response([*spoilt, {"id": 77, "result": "0x0"}, 5, None])

    async with node(_by_address) as bad, node(_by_address) as good, Prober(loopback()) as prober:
        bad.reply = spoil
        found = await _all(prober, bad.url, 5)
        assert [each.value for each in found] == [None, None, None, 4, 5]
        assert [each.status for each in found] == [ERROR, ERROR, ERROR, SUCCESS, SUCCESS]
        assert [each.message for each in found[:3]] == [
            "the RPC left the call unanswered",
            "the RPC gave no result",
            "the RPC's answer is no balance",
        ]
        configs = [configured(bad.url, good.url, address=f"0x{n:040x}") for n in (1, 2, 5)]
        found = await asyncio.gather(
            *(prober.probe(MonitorType.BALANCE, config, 60) for config in configs)
        )
        assert [each.value for each in found] == [1, 2, 5]
        assert good.requests == [3]  # its chain, and the two that were left


async def test_the_same_answer_twice_is_believed() -> None:
    async def twice(_: Any, answer: Any) -> web.Response:
        return web.json_response([*answer, *answer])

    async with node(holding(5)) as chain:
        chain.reply = twice
        assert (await probed(chain.url)).value == 5


# -- an RPC's failure is an error, never low --------------------------------------------------

_CHAIN = '{"jsonrpc":"2.0","id":0,"result":"0x2105"}'


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (429, b"slow down", "answered with status 429"),
        (429, b'{"error":{"code":429,"message":"slow down"}}', "answered with status 429"),
        (200, b'{"error":{"code":-32005,"message":"too many"}}', "limits its use: too many"),
        (500, b"", "answered with status 500"),
        (200, b"", "answered: "),
        (200, b"\xff\xfe", "answered: "),
        (200, b"[" * 100_000, "answered more than 6144 bytes"),
        (200, b" " * 20_000_000, "answered more than 6144 bytes"),
        (200, b"[" * 3000, "answered: "),
        (200, b"[]", "does not tell its chain"),
        (200, f"[{_CHAIN}]".encode(), "left the call unanswered"),
        (200, b'"0x0"', "answered with status 200"),
        (200, f'[{_CHAIN},{{"id":1,"result":null}}]'.encode(), "gave no result"),
        (200, f'[{_CHAIN},{{"id":1,"result":0}}]'.encode(), "gave no result"),
        (200, f'[{_CHAIN},{{"id":1,"result":"0x"}}]'.encode(), "is no balance"),
        (200, f'[{_CHAIN},{{"id":1,"result":"-0x1"}}]'.encode(), "is no balance"),
        (200, f'[{_CHAIN},{{"id":1,"result":"0x{"f" * 65}"}}]'.encode(), "is no balance"),
        (
            200,
            f'[{_CHAIN},{{"id":1,"error":{{"code":-32000,"message":"syncing"}}}}]'.encode(),
            "answered an error: syncing",
        ),
        (200, b'[{"id":0,"result":"base"},{"id":1,"result":"0x0"}]', "does not tell its chain"),
        (200, b'[{"id":0,"result":true},{"id":1,"result":"0x0"}]', ""),
    ],
)
async def test_whatever_an_rpc_does_wrong_is_an_error(status: int, body: bytes, told: str) -> None:
    async with node(holding(0)) as chain:
        chain.raw, chain.status = body, status
        found = await probed(chain.url, critical_threshold=1)
    assert (found.status, found.reason, found.value) == (ERROR, Reason.PROBER_RPC, None)
    assert found.message is not None
    assert told in found.message
    assert "k3y" not in found.message


#: The nodes of these tests listen where a prober with this setting may not go.
ELSEWHERE = settings.load({}, egress_allow="127.0.0.2/32")


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "0x7f000001", "2130706433", "0177.1", "127.1"),
        *("[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "0.0.0.0"),
        *("rebound.example", "mapped.example"),
    ],
)
async def test_an_rpc_at_a_forbidden_address_is_not_asked(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inward = {
        "rebound.example": (socket.AF_INET, 1, 6, "", ("127.0.0.1", 0)),
        "mapped.example": (socket.AF_INET6, 1, 6, "", ("::ffff:127.0.0.1", 0)),
    }
    if host in inward:
        monkeypatch.setattr(resolver_module.socket, "getaddrinfo", lambda *_: [inward[host]])
    async with node(holding(0)) as chain:
        config = configured(f"http://{host}:{chain.port}/", critical_threshold=1)
        found = await check_once(MonitorType.BALANCE, config, ELSEWHERE)
        assert (found.status, found.reason) == (ERROR, Reason.PROBER_RPC)
        assert found.message is not None
        assert "may not be probed" in found.message
        assert chain.requests == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
async def test_an_rpcs_redirect_is_not_followed(host: str) -> None:
    async with node(holding(0)) as chain, node(holding(0)) as other:

        async def redirect(_: Any, __: Any) -> web.Response:
            return web.Response(status=307, headers={"Location": f"http://{host}:{other.port}/"})

        chain.reply = redirect
        found = await probed(chain.url, critical_threshold=1)
        assert (found.status, found.reason) == (ERROR, Reason.PROBER_RPC)
        assert found.message == "the RPC answered with status 307"
        assert other.requests == []
