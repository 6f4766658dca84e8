"""Canaries that call a contract, over a JSON-RPC node of the test's own."""

import json
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.abi import function_signature_to_4byte_selector

from lighthouse import settings
from lighthouse.model import CheckStatus, MonitorType, Outcome, Reason
from lighthouse.probes import Prober, check_once, parse_config
from tests.support import evm
from tests.support import shop as shops
from tests.support.raw_target import answering, raw_target
from tests.support.rpc_double import RpcError, node

LOOPBACK = settings.load({}, egress_allow="127.0.0.1/32")
TOKEN = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
OWNER = "0x" + "ab" * 20

SUCCESS, FAILURE, ERROR = CheckStatus.SUCCESS, CheckStatus.FAILURE, CheckStatus.ERROR


def selector(signature: str) -> str:
    return "0x" + function_signature_to_4byte_selector(signature).hex()


def chain(method: str, params: list[Any]) -> Any:
    """A chain with one token of 18 decimals."""
    if method == "eth_chainId":
        return "0x14a34"
    call = params[0]
    called = call["data"][:10]
    if called == selector("balanceOf(address)"):
        if call["data"][10:] != encode(["address"], [OWNER]).hex():
            return "0x" + encode(["uint256"], [0]).hex()
        return "0x" + encode(["uint256"], [10**24]).hex()
    if called == selector("info()"):
        values = ("USDC", (True, [1, 2]), b"\xff\x00")
        return "0x" + encode(["string", "(bool,uint8[])", "bytes"], values).hex()
    if called == selector("set(uint8,(bytes32,string[]),bool)"):
        return "0x"
    if called == selector("fail()"):
        raise RpcError(3, "execution reverted: not yet")
    if called == selector("whoami()"):
        return "0x" + encode(["address"], [call["from"]]).hex()
    raise RpcError(-32000, "header not found")


BALANCE: dict[str, Any] = {
    "name": "balance",
    "action": "chain",
    "to": TOKEN,
    "function": "balanceOf(address owner) view returns (uint256)",
    "args": [OWNER],
}


async def probed(url: str, *steps: dict[str, Any], **keys: Any) -> Outcome:
    config = parse_config(
        MonitorType.CANARY,
        {
            "steps": [
                {"chain": "base_sepolia", **step, "rpc_urls": ["${RPC}"]}
                if step["action"] == "chain"
                else step
                for step in steps
            ],
            "secrets": {"RPC": url},
            "retries": 0,
            "timeout": 20,
            **keys,
        },
    )
    async with Prober(LOOPBACK) as prober:
        return await prober.probe(MonitorType.CANARY, config, 60)


@pytest.mark.option("ChainStep.function", "ChainStep.args", "ChainStep.expect", "ChainStep.extract")
async def test_a_balance_is_read_compared_and_passed_on() -> None:
    async with node(chain) as rpc, shops.serving() as shop:
        found = await probed(
            rpc.url,
            {
                **BALANCE,
                "expect": {"$.value": {">=": 10**24}},
                "extract": {"HELD": "$.value"},
            },
            {"name": "tell", "action": "POST", "url": shop.url("/x"), "body": {"held": "${HELD}"}},
        )
        assert (found.status, found.message) == (SUCCESS, None)
        assert shop.asked[0][3] == '{"held":1000000000000000000000000}'
        assert dict(rpc.asked)["eth_call"][1] == "latest"
        low = await probed(rpc.url, {**BALANCE, "expect": {"$.value": {"<": 10**24}}})
        assert (low.status, low.reason) == (FAILURE, Reason.BODY)
        assert low.message == (
            "step balance: $.value is 1000000000000000000000000, "
            "expected less than 1000000000000000000000000"
        )


async def test_an_address_of_an_earlier_step_is_an_argument() -> None:
    async with node(chain) as rpc:
        found = await probed(
            rpc.url,
            {"name": "who", "action": "set", "values": {"WHO": OWNER, "TOKEN": TOKEN}},
            {**BALANCE, "to": "${TOKEN}", "args": ["${WHO}"], "expect": {"$.value": 10**24}},
        )
        assert found.status is SUCCESS


async def test_every_value_that_a_function_returns_can_be_judged() -> None:
    step = {
        "name": "info",
        "action": "chain",
        "to": TOKEN,
        "function": "info() returns (string name, (bool, uint8[]) state, bytes)",
    }
    async with node(chain) as rpc:
        found = await probed(
            rpc.url,
            {
                **step,
                "expect": {
                    "$.value": "USDC",
                    "$.values[1][0]": True,
                    "$.values[1][1][1]": 2,
                    "$.values[2]": "0xff00",
                    "$.raw": {"matches": "^0x"},
                },
            },
        )
        assert (found.status, found.message) == (SUCCESS, None)


@pytest.mark.option("ChainStep.data", "ChainStep.sender", "ChainStep.block")
async def test_ready_data_a_sender_and_a_block_are_sent_as_they_are() -> None:
    step = {"name": "me", "action": "chain", "to": TOKEN, "data": selector("whoami()")}
    async with node(chain) as rpc:
        found = await probed(
            rpc.url,
            {**step, "sender": OWNER, "block": 255, "expect": {"$.raw": {"matches": "abab$"}}},
        )
        assert (found.status, found.message) == (SUCCESS, None)
        assert dict(rpc.asked)["eth_call"] == [
            {"to": TOKEN, "from": OWNER, "data": selector("whoami()")},
            "0xff",
        ]


async def test_arguments_of_all_kinds_are_encoded() -> None:
    step = {
        "name": "set",
        "action": "chain",
        "to": TOKEN,
        "function": "set(uint8,(bytes32,string[]),bool)",
        "args": ["0x07", ["0x" + "01" * 32, ["a", "${NAME}"]], True],
    }
    async with node(chain) as rpc:
        await probed(rpc.url, {"name": "n", "action": "set", "values": {"NAME": "b"}}, step)
        expected = encode(
            ["uint8", "(bytes32,string[])", "bool"], [7, (b"\x01" * 32, ["a", "b"]), True]
        )
        assert dict(rpc.asked)["eth_call"][0]["data"][10:] == expected.hex()


@pytest.mark.parametrize(
    ("keys", "status", "reason", "message"),
    [
        ({"function": "fail()"}, FAILURE, Reason.BODY, "the call was reverted: execution reverted"),
        ({"function": "gone()"}, ERROR, Reason.PROBER_RPC, "the RPC answered an error: header not"),
        ({"function": "set(uint8,(bytes32,string[]),bool) returns (uint8)",
          "args": [1, ["0x" + "01" * 32, []], True]}, FAILURE, Reason.BODY, "no contract there"),
        ({"function": "info() returns (bool)"}, FAILURE, Reason.BODY, "no such function"),
        ({"chain": "base"}, ERROR, Reason.PROBER_CHAIN, "the RPC is of chain 84532, not 8453"),
        ({"args": ["${WORD}"]}, ERROR, Reason.PROBER_CONFIG, "args: an address has 40"),
        ({"to": "${WORD}"}, ERROR, Reason.PROBER_CONFIG, "to: is no address"),
        ({"extract": {"X": "$.values[7]"}}, FAILURE, Reason.BODY, "X at $.values[7]: nothing"),
    ],
)  # fmt: skip
async def test_what_goes_wrong_is_blamed_on_whose_fault_it_is(
    keys: dict[str, Any], status: CheckStatus, reason: Reason | None, message: str
) -> None:
    word = {"name": "word", "action": "set", "values": {"WORD": "word"}}
    args = [] if "function" in keys else BALANCE["args"]
    async with node(chain) as rpc:
        found = await probed(rpc.url, word, {**BALANCE, "args": args, **keys})
    assert found.status is status
    assert reason is None or found.reason is reason
    assert found.message is not None
    assert found.message.startswith(f"step balance: {message}")


@pytest.mark.option("ChainStep.chain_id", "ChainStep.rpc_urls")
async def test_a_chain_without_a_name_is_known_by_its_id() -> None:
    async with node(chain) as rpc:
        unnamed = {**BALANCE, "chain": None}
        found = await probed(rpc.url, {**unnamed, "chain_id": 84532})
        assert (found.status, found.message) == (SUCCESS, None)
        other = await probed(rpc.url, {**unnamed, "chain_id": 5})
        assert (other.status, other.reason) == (ERROR, Reason.PROBER_CHAIN)


@pytest.mark.option("ChainStep.chain")
async def test_the_rpcs_of_a_chain_are_the_operators_unless_a_step_names_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with node(chain) as rpc:
        configured = json.dumps(
            {
                "mine": {
                    "chain_id": 84532,
                    "symbol": "ETH",
                    "rpc_urls": ["http://127.0.0.1:1/", rpc.url],
                }
            }
        )
        known = settings.load({}, egress_allow="127.0.0.1/32", chains=configured)
        monkeypatch.setattr(settings, "current", lambda: known)
        step = {**BALANCE, "chain": "mine", "expect": {"$.value": 10**24}}
        config = parse_config(MonitorType.CANARY, {"steps": [step], "retries": 0})
        found = await check_once(MonitorType.CANARY, config, known)
        assert (found.status, found.message) == (SUCCESS, None)


@pytest.mark.parametrize("kind", evm.kinds())
async def test_a_real_chain_is_called(kind: str) -> None:
    async with evm.running(kind) as running:
        token = await running.deploy(supply=5 * 10**20, decimals=6)
        step = {**BALANCE, "chain": "base", "to": token, "args": [running.owner]}
        found = await probed(
            running.url,
            {**step, "expect": {"$.value": 5 * 10**20}},
            {
                **step,
                "name": "decimals",
                "function": "decimals() returns (uint8)",
                "args": [],
                "expect": {"$.value": 6},
            },
        )
        assert (found.status, found.message) == (SUCCESS, None)
        refused = await probed(running.url, {**step, "function": "mint(address)"})
        assert (refused.status, refused.reason) == (FAILURE, Reason.BODY)
        assert refused.message is not None
        assert "reverted" in refused.message
        nobody = await probed(running.url, {**step, "to": "0x" + "99" * 20})
        assert (nobody.status, nobody.message) == (FAILURE, "step balance: no contract there")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 502),
        (b"<html>", 200),
        (b"[]", 200),
        (b'{"id": 0}', 200),
        (b'[{"id": 0, "result": 5}]', 200),
        (b'[{"id": 0, "result": null, "error": null}]', 200),
        (b'{"id": [], "result": "0x"}', 200),
        (b"[" * 1000, 200),
        (b"x" * 100_000, 200),
        (b'{"id": 0, "error": {"code": 429, "message": "slow down\\nplease"}}', 429),
    ],
)
async def test_an_rpc_that_answers_nonsense_is_an_error_and_says_nothing_of_the_contract(
    raw: bytes, status: int
) -> None:
    async with node(chain) as rpc:
        rpc.raw, rpc.status = raw, status
        found = await probed(rpc.url, BALANCE)
    assert found.status is ERROR
    assert found.message is not None
    assert found.message.startswith("step balance: the RPC ")
    assert "\n" not in found.message


@pytest.mark.parametrize(
    "result", ["0x" + "ff" * 2048, "0x" + "00" * 31 + "20" + "ff" * 2000, "0xzz", "0x123", "0x12"]
)
async def test_a_hostile_result_is_a_failure_of_the_call(result: str) -> None:
    def hostile(method: str, params: list[Any]) -> Any:
        return chain(method, params) if method == "eth_chainId" else result

    async with node(hostile) as rpc:
        found = await probed(
            rpc.url, {**BALANCE, "function": "f(address) returns (string[], uint256[2][])"}
        )
    assert (found.status, found.reason) == (FAILURE, Reason.BODY)


async def test_the_rpcs_url_is_in_no_text_and_its_address_is_guarded() -> None:
    async with raw_target(answering(status=500, body=b"/v1/k3y unknown")) as rpc:
        url = rpc.url("/v1/k3y")
        found = await probed(url, BALANCE)
    assert found.status is ERROR
    assert "k3y" not in str(found.message)
    async with node(chain) as rpc:  # on the same port of another address
        forbidden = await probed(rpc.url.replace("127.0.0.1", "127.0.0.2"), BALANCE)
        assert forbidden.status is ERROR
        assert "loopback" in str(forbidden.message)
        assert rpc.asked == []
    closed = await probed("http://127.0.0.1:1/", BALANCE)
    assert closed.status is ERROR


async def test_the_findings_of_a_call_are_told_where_somebody_looks() -> None:
    async with node(chain) as rpc:
        step = {
            **BALANCE,
            "chain_id": 84532,
            "rpc_urls": [rpc.url],
            "expect": {"$.value": {">": 5}},
        }
        config = parse_config(MonitorType.CANARY, {"steps": [step]})
        found = await check_once(MonitorType.CANARY, config, LOOPBACK)
    assert [(each.name, each.ok) for each in found.steps[0].findings] == [("body $.value", True)]
