"""What the configuration of an `http` monitor accepts, and how it refuses."""

import re
from typing import Any

import pytest

from lighthouse import probes
from lighthouse.errors import ConfigError
from lighthouse.model import MonitorType
from lighthouse.probes import json_schema, parse_config
from lighthouse.probes.http import HttpConfig

URL = "https://example.com/health"


def parsed(**config: Any) -> HttpConfig:
    found = parse_config(MonitorType.HTTP, {"url": URL, **config})
    assert isinstance(found, HttpConfig)
    return found


def refusal(**config: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_config(MonitorType.HTTP, {"url": URL, **config})
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_url_is_enough() -> None:
    config = parsed()
    assert config.request.method == "GET"
    assert config.accepted == frozenset(range(200, 300))
    assert (config.follow_redirects, config.verify_tls, config.retries) == (True, True, 1)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://example.com/", "url: must start with http:// or https://"),
        ("example.com", "url: must start with http:// or https://"),
        ("", "url: must start with http:// or https://"),
        ("https://", "url: has no host"),
        ("https:///path", "url: has no host"),
        ("http://:80/", "url: has no host"),
        ("http://example.com:99999/", "url: is no valid URL"),
        ("http://example.com:0/", "url: has port 0"),
        ("http://[::1/", "url: is no valid URL"),
        ("http://[::g]/", "url: is no valid URL"),
        ("http://exa mple.com/", "url: holds a space, a control character or a backslash"),
        ("http://example.com/\r\nX: y", "url: holds a space, a control character or a backslash"),
        ("http://good.com\\@evil.com/", "url: holds a space, a control character or a backslash"),
        ("http://-bad-.com/", "url: has an invalid host name"),
        ("http://a..b/", "url: has an invalid host name"),
        ("http://1.2.3.4.5/", "url: has an invalid IPv4 address as its host"),
        ("http://example.com/" + "a" * 5000, "url: is longer than 4096 characters"),
    ],
)
def test_a_url_that_cannot_be_probed_is_refused(url: str, message: str) -> None:
    assert str(refusal(url=url)) == message


def test_credentials_in_a_url_are_refused_without_repeating_them() -> None:
    error = refusal(url="https://admin:hunter2@example.com/")
    assert error.field == "url"
    assert "hunter2" not in str(error)
    assert "Authorization header" in str(error)


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("HTTPS://EXAMPLE.com", "https://example.com/"),
        ("http://example.com:80/a?b=c#frag", "http://example.com/a?b=c"),
        ("http://example.com.:8080/", "http://example.com:8080/"),
        ("http://münchen.example/ü?q=ü", "http://xn--mnchen-3ya.example/%C3%BC?q=%C3%BC"),
        ("http://example.com/a%20b", "http://example.com/a%20b"),
        ("http://127.1/", "http://127.0.0.1/"),
        ("http://0x7f000001/", "http://127.0.0.1/"),
        ("http://2130706433/", "http://127.0.0.1/"),
        ("http://[0:0::1]:81/", "http://[::1]:81/"),
    ],
)
def test_a_url_is_brought_into_one_form(url: str, normal: str) -> None:
    assert parsed(url=url).url == normal


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"tiemout": 5}, "tiemout"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"retries": 99}, "retries"),
        ({"method": "TRACE"}, "method"),
        ({"headers": {"X-Bad": "a\r\nHost: evil"}}, "headers"),
        ({"headers": {"X Bad": "a"}}, "headers"),
        ({"headers": {"Content-Length": "5"}}, "headers"),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "headers"),
        ({"headers": {"X-A": 5}}, "headers.X-A"),
        ({"headers": ["X-A"]}, "headers"),
        ({"valid_status_codes": []}, "valid_status_codes"),
        ({"valid_status_codes": [999]}, "valid_status_codes"),
        ({"valid_status_codes": ["2x"]}, "valid_status_codes"),
        ({"valid_status_codes": 200}, "valid_status_codes"),
        ({"max_latency_ms": 0}, "max_latency_ms"),
        ({"max_body_bytes": 10**9}, "max_body_bytes"),
        ({"expected_headers": {"bad name": "x"}}, "expected_headers"),
        ({"body_validation": {}}, "body_validation"),
        ({"body_validation": {"contains": "a", "xpath": "b"}}, "body_validation.xpath"),
        ({"body_validation": {"regex": "(unclosed"}}, "body_validation.regex"),
        ({"body_validation": {"regex": "(a)\\1"}}, "body_validation.regex"),
        ({"body_validation": {"regex": "((((a{100}){100}){10}))"}}, "body_validation.regex"),
        ({"body_validation": {"contains": ""}}, "body_validation.contains"),
        ({"body_validation": {"json_path": "$.a"}}, "body_validation.json_path"),
        ({"body_validation": "text"}, "body_validation"),
        ({"body": "x" * 70_000}, "body"),
        ({"body": 5}, "body"),
        ({"method": "HEAD", "body": "x"}, ""),
        ({"method": "HEAD", "body_validation": {"contains": "x"}}, ""),
    ],
)
def test_a_wrong_value_is_refused_with_its_field(config: dict[str, Any], field: str) -> None:
    assert refusal(**config).field == field


def test_a_missing_url_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^url: is required$"):
        parse_config(MonitorType.HTTP, {})


def test_a_refusal_never_repeats_a_header_value() -> None:
    error = refusal(headers={"Authorization": "Bearer s3cret\n"})
    assert "s3cret" not in str(error)


def test_a_type_that_is_not_built_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "MONITORS", {})
    with pytest.raises(ConfigError, match=r"^type: websocket checks are not built yet$"):
        parse_config(MonitorType.WEBSOCKET, {"url": "wss://example.com/"})


def test_status_codes_are_numbers_families_and_ranges() -> None:
    config = parsed(valid_status_codes=[204, "3XX", "500-502"])
    assert config.accepted == {204, *range(300, 400), 500, 501, 502}


def test_an_unset_timeout_always_fits_its_interval() -> None:
    for interval_s in (10, 30, 60, 86_400):
        for retries in range(6):
            config = parsed(retries=retries)
            assert config.timeout_s(interval_s) <= 10
            assert config.worst_case_s(interval_s) < interval_s


def test_a_set_timeout_counts_with_every_attempt() -> None:
    assert parsed(timeout=20, retries=2).worst_case_s(60) == pytest.approx(60.5)
    assert parsed(timeout=20, retries=0).worst_case_s(60) == 20


def test_a_json_body_is_sent_as_json() -> None:
    request = parsed(method="post", body={"a": [1, "ü"]}).request
    assert request.method == "POST"
    assert request.body == '{"a":[1,"ü"]}'.encode()
    assert ("Content-Type", "application/json") in request.headers


def test_the_target_is_shown_without_its_query() -> None:
    assert parsed(url="https://example.com/a?token=s3cret").target() == "https://example.com/a?…"


def test_the_body_is_kept_only_where_it_is_validated() -> None:
    assert parsed().request.keep_body_bytes == 1024
    validated = parsed(body_validation={"contains": "ok"}, max_body_bytes=4096)
    assert validated.request.keep_body_bytes == 4096


def test_the_schema_tells_every_key() -> None:
    schema = json_schema(MonitorType.HTTP)
    assert set(schema["properties"]) == set(HttpConfig.model_fields)
    assert schema["required"] == ["url"]
    assert schema["additionalProperties"] is False
    assert re.search("RE2", str(schema))


def test_a_body_that_is_nested_too_deeply_is_refused_before_anything_recurses_through_it() -> None:
    body: list[Any] = []
    for _ in range(50):
        body = [body]
    assert parsed(method="POST", body=body).request.body == b"[" * 51 + b"]" * 51
    for _ in range(50_000):
        body = [body]
    assert "nested more than 64 levels" in str(refusal(method="POST", body=body))
