"""A canary that pays: EIP-712 signatures over a 402 answer's terms, recovered to their signer."""

import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data

from lighthouse.model import CheckStatus, MonitorType, Outcome, Reason
from lighthouse.probes import Prober, parse_config
from lighthouse.settings import load
from tests.support import shop as shops
from tests.support.shop import PRICE, Shop

KEY = "0x4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
ADDRESS = Account.from_key(KEY).address

#: EIP-3009's `transferWithAuthorization`, which x402's scheme "exact" signs.
TYPES = {
    "TransferWithAuthorization": [
        {"name": "from", "type": "address"},
        {"name": "to", "type": "address"},
        {"name": "value", "type": "uint256"},
        {"name": "validAfter", "type": "uint256"},
        {"name": "validBefore", "type": "uint256"},
        {"name": "nonce", "type": "bytes32"},
    ]
}
MESSAGE = {
    "from": "${SIGNER}",
    "to": "${PAY_TO}",
    "value": "${AMOUNT}",
    "validAfter": "0",
    "validBefore": "${NOW+60}",
    "nonce": "${NONCE}",
}
REQUIRE = {
    "$.message.value": {"<=": 10_000},
    "$.message.to": PRICE["payTo"],
    "$.domain.verifyingContract": PRICE["asset"],
}


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with shops.serving() as running:
        yield running


def paying(shop: Shop) -> list[dict[str, Any]]:
    return [
        {
            "name": "ask",
            "action": "GET",
            "url": shop.url("/paid"),
            "expect": {"status": 402},
            "extract": {
                "PAY_TO": "$.accepts[0].payTo",
                "AMOUNT": "$.accepts[0].maxAmountRequired",
                "ASSET": "$.accepts[0].asset",
            },
        },
        {
            "name": "sign",
            "action": "sign",
            "key": "${KEY}",
            "typed_data": {
                "domain": {
                    "name": "USDC",
                    "version": "2",
                    "chainId": 84532,
                    "verifyingContract": "${ASSET}",
                },
                "types": TYPES,
                "primaryType": "TransferWithAuthorization",
                "message": MESSAGE,
            },
            "require": REQUIRE,
            "extract": {"SIGNATURE": "$.signature", "FROM": "$.address", "V": "$.v", "R": "$.r"},
        },
        {
            "name": "compose",
            "action": "set",
            "values": {
                "PAYMENT": {
                    "x402Version": 1,
                    "scheme": "exact",
                    "network": "base-sepolia",
                    "payload": {
                        "signature": "${SIGNATURE}",
                        "authorization": {
                            "from": "${FROM}",
                            "to": "${PAY_TO}",
                            "value": "${AMOUNT}",
                            "validAfter": "0",
                            "validBefore": "${NOW+60|raw}",
                            "nonce": "${NONCE}",
                        },
                    },
                }
            },
        },
        {
            "name": "pay",
            "action": "GET",
            "url": shop.url("/paid"),
            "headers": {"X-PAYMENT": "${PAYMENT|base64}"},
            "expect": {"body": {"json_path": {"$.content": "worth it"}}},
        },
    ]


async def probed(*steps: dict[str, Any], key: str = KEY) -> Outcome:
    config = parse_config(
        MonitorType.CANARY,
        {"steps": list(steps), "secrets": {"KEY": key}, "retries": 0, "timeout": 60},
    )
    async with Prober(load({}, egress_allow="127.0.0.1/32")) as prober:
        return await prober.probe(MonitorType.CANARY, config, 300)


@pytest.mark.option("SignStep.require", "SignStep.extract")
async def test_paid_content_is_bought_with_a_signature_that_recovers_to_its_signer(
    shop: Shop,
) -> None:
    found = await probed(*paying(shop))
    assert (found.status, found.message) == (CheckStatus.SUCCESS, None)
    payload = shop.payments[0]["payload"]
    authorization = payload["authorization"]
    assert authorization["from"] == ADDRESS
    assert len(authorization["nonce"]) == 66
    signed = {name: authorization[name] for name in ("from", "to", "nonce")} | {
        name: int(authorization[name]) for name in ("value", "validAfter", "validBefore")
    }
    domain = {
        "name": "USDC",
        "version": "2",
        "chainId": 84532,
        "verifyingContract": PRICE["asset"],
    }
    signable = encode_typed_data(domain, TYPES, signed)
    assert Account.recover_message(signable, signature=payload["signature"]) == ADDRESS


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("maxAmountRequired", "10001"),
        ("maxAmountRequired", "99999999999999999999999999"),
        ("maxAmountRequired", "1e99"),
        ("payTo", "0x" + "66" * 20),
        ("asset", "0x" + "66" * 20),
    ],
)
async def test_a_greedy_target_gets_no_signature(shop: Shop, key: str, value: str) -> None:
    shop.price[key] = value
    found = await probed(*paying(shop))
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.BODY)
    assert found.message is not None
    assert found.message.startswith("step sign: nothing was signed: $.")
    assert shop.payments == []


async def test_terms_that_are_no_typed_data_are_the_targets_failure(shop: Shop) -> None:
    shop.price["payTo"] = "nobody"
    steps = paying(shop)
    steps[1]["require"] = {"$.message.value": {"<=": 10_000}}
    found = await probed(*steps)
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.BODY)
    assert found.message is not None
    assert found.message.startswith("step sign: is no typed data: ")


@pytest.mark.parametrize("key", ["nonsense", "0x" + "00" * 32, "0x" + "ff" * 32, KEY + "00"])
async def test_a_key_that_is_none_is_the_configurations_fault_and_not_shown(
    shop: Shop, key: str
) -> None:
    found = await probed(*paying(shop), key=key)
    assert (found.status, found.reason) == (CheckStatus.ERROR, Reason.PROBER_CONFIG)
    assert found.message == "step sign: key is no private key of 32 bytes in hex"


async def test_a_path_that_finds_nothing_in_a_signature_is_told(shop: Shop) -> None:
    steps = paying(shop)
    steps[1]["extract"]["W"] = "$.w"
    found = await probed(*steps)
    assert found.message == "step sign: W at $.w: nothing found"


def test_signing_leaves_the_limit_of_recursion_as_it_was() -> None:
    """In a process of its own: here the libraries have been imported."""
    program = """
import asyncio, sys
from lighthouse.model import MonitorType
from lighthouse.probes import check_once, parse_config
from lighthouse.settings import load
typed = {"types": {"T": [{"name": "n", "type": "uint256"}]}, "primaryType": "T",
         "domain": {"name": "x"}, "message": {"n": 1}}
step = {"name": "s", "action": "sign", "key": "0x" + "11" * 32, "typed_data": typed}
config = parse_config(MonitorType.CANARY, {"steps": [step], "retries": 0})
found = asyncio.run(check_once(MonitorType.CANARY, config, load({})))
print(found.status, sys.getrecursionlimit(), "eth_account" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["success", "1000", "True"]
