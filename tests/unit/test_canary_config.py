"""What a canary may be told, and that each refusal names the field."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from lighthouse import configs
from lighthouse.configs import seal, validated
from lighthouse.errors import ConfigError
from lighthouse.model import MonitorType
from lighthouse.probes import json_schema, parse_config
from lighthouse.probes.canary import canary
from lighthouse.probes.canary.canary import CanaryConfig
from lighthouse.probes.canary.redaction import Redactor
from lighthouse.sealing import Keyring, new_key

GET: dict[str, Any] = {"name": "look", "action": "GET", "url": "https://shop.example/"}
WAIT: dict[str, Any] = {"name": "rest", "action": "wait", "seconds": 1}
SIGN: dict[str, Any] = {
    "name": "pay",
    "action": "sign",
    "key": "${KEY}",
    "typed_data": {
        "domain": {"name": "USDC", "chainId": 84532},
        "types": {"Pay": [{"name": "value", "type": "uint256"}]},
        "primaryType": "Pay",
        "message": {"value": 1},
    },
    "extract": {"SIGNATURE": "$.signature"},
}
CALL: dict[str, Any] = {
    "name": "call",
    "action": "chain",
    "chain": "base",
    "to": "0x" + "ab" * 20,
    "function": "balanceOf(address)(uint256)",
    "args": ["0x" + "ab" * 20],
}
KEY = "0x" + "11" * 32


def parsed(*steps: dict[str, Any], **keys: Any) -> CanaryConfig:
    return validated(CanaryConfig, {"steps": list(steps), **keys})


def changed(step: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    copied = copy.deepcopy(step)
    *parents, last = path.split(".")
    inner = copied
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    return copied


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "steps: "),
        ([GET] * 21, "steps: "),
        ([{"name": "a"}], "steps.0: needs an action"),
        ([{**GET, "action": "dance"}], "steps.0: needs an action"),
        ([{**GET, "name": "a\nb"}], "steps.0.name: holds a line break"),
        ([{**GET, "name": "${A}"}], "steps.0.name: holds a line break or a variable"),
        ([GET, GET], "steps.1.name: is the name of an earlier step too"),
        ([{**GET, "urls": 1}], "steps.0.urls: unknown key"),
        ([{**GET, "url": "ftp://a"}], "steps.0.url: must start with http"),
        ([{**GET, "url": "https://u:p@a/"}], "steps.0.url: holds credentials"),
        ([{**GET, "url": "https:/${A|raw}"}], "steps.0.url: "),
        ([{**GET, "url": "https://a/${X}"}], "steps.0.url: uses ${X}, which no secret"),
        ([{**GET, "url": "https://a/${X"}], "steps.0.url: holds ${ without a name"),
        ([{**GET, "method": "PUT"}], "steps.0.method: goes with the action http"),
        ([{**GET, "headers": {"a b": ""}}], "steps.0.headers: a name is no valid"),
        ([{**GET, "headers": {"Te": "x"}}], "steps.0.headers: Te belongs"),
        ([{**GET, "headers": {"A": "${X}"}}], "steps.0.headers.A: uses ${X}"),
        ([{**GET, "body": {"a": ["${X}"]}}], "steps.0.body: uses ${X}"),
        ([{**GET, "action": "HEAD", "body": "x"}], "steps.0: a HEAD request has no body"),
        ([{**GET, "expect": {"status": "9xx"}}], "steps.0.expect.status: '9xx' is no status"),
        ([{**GET, "expect": {"body": {"regex": "("}}}], "steps.0.expect.body.regex: is no RE2"),
        ([{**GET, "expect": {"headers": {"a b": ""}}}], "steps.0.expect.headers: a name"),
        ([{**GET, "extract": {"NOW": "$.a"}}], "steps.0: sets NOW, which is a secret or built in"),
        ([{**GET, "extract": {"KEY": "$.a"}}], "steps.0: sets KEY, which is a secret"),
        ([{**GET, "extract": {"a-b": "$.a"}}], "steps.0.extract.a-b"),
        ([{**GET, "extract": {"A": "$["}}], "steps.0.extract.A.json_path: "),
        ([{**GET, "extract": {"A": {"regex": "(?=a)"}}}], "steps.0.extract.A.regex: is no RE2"),
        ([{**GET, "extract": {"A": {}}}], "steps.0.extract.A: give one of"),
        (
            [{**GET, "extract": {"A": {"header": "a", "cookie": "b"}}}],
            "steps.0.extract.A: give one of",
        ),
        (
            [{**GET, "extract": {"A": {"json_path": "$", "regex": "b"}}}],
            "steps.0.extract.A: regex goes with",
        ),
        ([{**GET, "when": {"variables": {"X": 1}}}], "steps.0.when.variables: uses ${X}"),
        ([{**GET, "when": {"steps": {"x": "success"}}}], "steps.0.when.steps: names a step"),
        ([{**GET, "when": {"steps": {"look": "success"}}}], "steps.0.when.steps: names a step"),
        ([WAIT], "steps: check nothing"),
        ([{**GET, "always": True}], "steps: check nothing"),
        ([GET, {**WAIT, "seconds": 31}], "steps.1.seconds: "),
        ([GET, {**WAIT, "seconds": 10}], "steps: wait longer than the canary's timeout"),
        ([GET, {"name": "s", "action": "set", "values": {"A": "${B}"}}], "steps.1.values.A: uses"),
        ([GET, {"name": "s", "action": "set", "values": {}}], "steps.1.values: "),
        ([changed(SIGN, "key", "0x12")], "steps.0.key: is no private key"),
        ([changed(SIGN, "key", "${SIGNER}")], "steps.0.key: may hold variables of `secrets` only"),
        ([changed(SIGN, "typed_data.primaryType", "Py")], "steps.0.typed_data: primaryType names"),
        ([changed(SIGN, "typed_data.domain", {"x": 1})], "steps.0.typed_data.domain: knows only"),
        ([changed(SIGN, "typed_data.message.value", "${X}")], "steps.0.typed_data.message: uses"),
        ([changed(CALL, "chain", "nowhere")], "steps.0.chain: is no known chain"),
        ([{**CALL, "chain_id": 1}], "steps.0: give one of chain and chain_id"),
        ([{**CALL, "chain": None}], "steps.0: give one of chain and chain_id"),
        ([{**CALL, "chain": None, "chain_id": 5}], "steps.0.rpc_urls: are needed"),
        ([{**CALL, "rpc_urls": ["ftp://a"]}], "steps.0.rpc_urls.0: must start with http"),
        ([{**CALL, "rpc_urls": ["${NOW}"]}], "steps.0.rpc_urls.0: may hold variables of"),
        ([{**CALL, "to": "0x12"}], "steps.0.to: is no address"),
        ([{**CALL, "sender": "me"}], "steps.0.sender: is no address"),
        ([{**CALL, "function": "f(foo)"}], "steps.0.function: has a type that is none: foo"),
        ([{**CALL, "args": []}], "steps.0.args: are not as many"),
        ([{**CALL, "data": "0x"}], "steps.0: give one of function and data"),
        ([{**CALL, "function": None, "data": "0x"}], "steps.0.args: go with a function"),
        ([{**CALL, "block": -1}], "steps.0.block: is no block"),
        ([{**CALL, "expect": {"$[": 1}}], "steps.0.expect: "),
        ([changed(SIGN, "require", {"$[": 1})], "steps.0.require: "),
        ([changed(SIGN, "extract", {"A": "$["})], "steps.0.extract: "),
    ],
)
def test_a_fault_is_refused_with_its_path(steps: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(*steps, secrets={"KEY": KEY})
    assert str(caught.value).startswith(message)
    assert "11" * 32 not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"secrets": {"A": "abc"}}, "secrets.A: has less than 4"),
        ({"secrets": {"NOW": "abcdef"}}, "secrets.NOW: is a variable that every canary has"),
        ({"secrets": {"a b": "abcdef"}}, "secrets.a b"),
        ({"allow_origins": ["ftp://a"]}, "allow_origins.0: must start with http"),
        ({"stepz": 1}, "stepz: unknown key"),
    ],
)
def test_a_fault_beside_the_steps_is_refused_too(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(GET, **keys)
    assert str(caught.value).startswith(message)


def test_variables_are_bounded_in_number() -> None:
    steps = [
        {**GET, "name": f"{n}", "extract": {f"V{n}_{m}": "$.a" for m in range(20)}}
        for n in range(3)
    ]
    with pytest.raises(ConfigError, match="more than 50 variables"):
        parsed(*steps)


def test_a_step_that_signs_an_answers_word_needs_what_must_hold_of_it() -> None:
    ask = {**GET, "extract": {"PRICE": "$.price"}}
    compose = {"name": "c", "action": "set", "values": {"AMOUNT": "${PRICE}"}}
    pay = changed(SIGN, "typed_data.message.value", "${AMOUNT}")
    with pytest.raises(ConfigError, match=r"^steps\.2\.require: is needed"):
        parsed(ask, compose, pay, secrets={"KEY": KEY})
    limited = {**pay, "require": {"$.message.value": {"<=": 5}}}
    assert parsed(ask, compose, limited, secrets={"KEY": KEY}).tainted == {
        "PRICE",
        "AMOUNT",
        "SIGNATURE",
    }


def test_a_private_key_may_stand_in_the_configuration_itself() -> None:
    parsed(changed(SIGN, "key", KEY))


def test_secrets_are_sealed_where_a_configuration_is_stored_and_open_again() -> None:
    keys = Keyring([SecretStr(new_key())])
    steps = [
        {**GET, "action": "POST", "headers": {"A": "s3cr3t"}, "body": {"password": "s3cr3t"}},
        changed(SIGN, "key", KEY),
    ]
    config = parsed(*steps, secrets={"PASS": "s3cr3t"})
    stored = seal(config, keys)
    assert "s3cr3t" not in str(stored)
    assert "11" * 32 not in str(stored)
    assert validated(CanaryConfig, stored, keys) == config
    assert "s3cr3t" not in str(configs.shown(CanaryConfig, stored, keys))


def test_the_target_is_the_first_url_without_its_query() -> None:
    config = parsed({**GET, "url": "https://shop.example/?key=1"}, {**GET, "name": "b"})
    assert config.target() == "https://shop.example/?… (2 steps)"
    assert parsed(SIGN, secrets={"KEY": KEY}).target() == "1 step"


def test_a_canary_is_read_and_described_as_every_other_monitor() -> None:
    config = parse_config(MonitorType.CANARY, {"steps": [GET]})
    assert config.worst_case_s(60) == 20.25
    schema = json_schema(MonitorType.CANARY)
    assert schema["properties"]["steps"]["maxItems"] == canary.MOST_STEPS
    for name, model in schema["$defs"].items():
        for key, field in model.get("properties", {}).items():
            assert field.get("description"), f"{name}.{key} has no description"


def test_a_flow_begins_with_its_secrets_and_what_every_flow_has() -> None:
    config = parsed(
        GET,
        {**GET, "name": "b", "url": "${BASE}/x"},
        secrets={"BASE": "http://127.0.0.1:81"},
        allow_origins=["https://cdn.example"],
    )
    first, second = config.flow(), config.flow()
    assert first.values.keys() == {"NOW", "NOW_MS", "RUN_ID", "NONCE", "BASE"}
    assert first.values["NONCE"] != second.values["NONCE"]
    assert first.values["NOW"] == first.values["NOW_MS"] // 1000
    assert first.origins == {
        ("https", "shop.example", 443),
        ("http", "127.0.0.1", 81),
        ("https", "cdn.example", 443),
    }
    assert isinstance(first.redactor, Redactor)


def test_the_readmes_example_is_a_canary() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    section = readme.partition("### Monitor `canary`")[2].partition("\n### ")[0]
    example = json.loads(section.partition("```json\n")[2].partition("```")[0])
    config = parse_config(MonitorType.CANARY, example)
    assert isinstance(config, CanaryConfig)
    assert [step.name for step in config.steps] == ["log in", "order", "cancel"]
