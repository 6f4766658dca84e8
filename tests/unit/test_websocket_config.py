"""What a `websocket` monitor accepts and refuses, and what a message must be."""

from typing import Any

import pytest
from pydantic import SecretStr

from lighthouse import configs
from lighthouse.errors import ConfigError
from lighthouse.model import MonitorType
from lighthouse.probes import parse_config
from lighthouse.probes.websocket_config import MessageExpectation, WebsocketConfig
from lighthouse.sealing import Keyring


def parsed(**keys: Any) -> WebsocketConfig:
    config = parse_config(MonitorType.WEBSOCKET, {"url": "wss://example.com/feed", **keys})
    assert isinstance(config, WebsocketConfig)
    return config


@pytest.mark.parametrize(
    ("given", "url", "port", "tls"),
    [
        ("ws://Example.com", "ws://example.com/", 80, False),
        ("WSS://example.com:443/a?b=c#d", "wss://example.com/a?b=c", 443, True),
        ("ws://0x7f000001:8080/", "ws://127.0.0.1:8080/", 8080, False),
        ("ws://[::1]/", "ws://[::1]/", 80, False),
    ],
)
def test_an_address_is_brought_into_the_form_that_is_probed(
    given: str, url: str, port: int, tls: bool
) -> None:
    config = parsed(url=given)
    assert (config.url, config.place.port, config.place.tls) == (url, port, tls)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"url": "https://example.com/"}, "url: must start with ws:// or wss://"),
        ({"url": "//example.com/"}, "url: must start with ws:// or wss://"),
        ({"url": "ws://"}, "url: has no host"),
        ({"url": "ws://u:p@example.com/"}, "url: holds credentials"),
        ({"headers": {"a b": "c"}}, "headers: a name is no valid header name"),
        ({"headers": {"X": "a\r\nb"}}, "headers: the value of X holds a line break"),
        ({"headers": {"Upgrade": "x"}}, "headers: Upgrade belongs to the connection"),
        ({"headers": {"Sec-WebSocket-Key": "x"}}, "headers: Sec-WebSocket-Key belongs"),
        ({"headers": {"Origin": "x"}}, "headers: Origin belongs to the handshake"),
        ({"subprotocols": ["a b"]}, "subprotocols.0: "),
        ({"origin": "a\nb"}, "origin: "),
        ({"expect": {"regex": "(?<a"}}, "expect.regex: is no RE2 pattern"),
        ({"expect": {"skip": 1001}}, "expect.skip: "),
        ({"expect": {"matching": 1}}, "expect.matching: unknown key"),
        ({"expect": {"json_path": {"$[": 1}}}, "expect.json_path"),
        ({"max_latency_ms": 0}, "max_latency_ms: "),
        ({"max_message_bytes": 5_000_000}, "max_message_bytes: "),
        (
            {"url": "ws://example.com", "certificate_expiry": {"days": 3}},
            "certificate_expiry: needs a URL that starts with wss://",
        ),
        ({"body": "x"}, "body: unknown key"),
    ],
)
def test_a_mistake_is_told_with_its_place(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parsed(**keys)
    assert str(refused.value).startswith(told)


def test_what_is_sent_is_text_or_json() -> None:
    assert parsed().message is None
    assert parsed(send="ping ü").message == "ping ü"
    assert parsed(send={"id": 1, "params": ["ü"]}).message == '{"id":1,"params":["ü"]}'
    assert parsed(send=[]).message == "[]"


@pytest.mark.parametrize("send", ["s3cr3t", {"token": "s3cr3t"}, ["s3cr3t"]])
def test_what_may_be_secret_is_sealed_and_opened(send: Any) -> None:
    keys = Keyring((SecretStr("bGlnaHRob3VzZS10ZXN0cy0wMDAwMDAwMDAwMDAwMDA="),))
    config = parsed(send=send, headers={"Authorization": "s3cr3t"})
    sealed = configs.seal(config, keys)
    assert "s3cr3t" not in str(sealed)
    assert parse_config(MonitorType.WEBSOCKET, sealed, keys) == config


def test_people_see_the_address_without_its_query() -> None:
    assert parsed(url="wss://example.com/v1?token=s3cr3t").target() == "wss://example.com/v1?…"


@pytest.mark.parametrize(
    ("keys", "message", "wrong"),
    [
        ({}, b"anything", None),
        ({"contains": "b"}, b"abc", None),
        ({"contains": "x"}, b"abc", "the message lacks the expected text"),
        ({"regex": "^a.c$"}, b"abc", None),
        ({"regex": "^b"}, b"abc", "the message does not match the pattern"),
        ({"regex": "c$"}, b"a" * 100_000 + b"c", None),
        ({"json_path": {"$.a": {">": 1}}}, b'{"a": 2}', None),
        ({"json_path": {"$.a": {">": 2}}}, b'{"a": 2}', "$.a is 2, expected more than 2"),
        ({"json_path": {"$.a": 1}}, b"no json", "the message is not JSON"),
        ({"json_schema": {"type": "array"}}, b"[]", None),
        ({"json_schema": {"type": "array"}}, b"{}", "json_schema "),
        ({"contains": "2", "json_path": {"$.a": 1}}, b'{"a": 2}', "$.a is 2, expected 1"),
    ],
)
async def test_a_message_must_be_all_that_is_asked(
    keys: dict[str, Any], message: bytes, wrong: str | None
) -> None:
    found = await MessageExpectation.model_validate(keys).message_fault(message)
    assert found is None if wrong is None else found is not None and found.startswith(wrong)
