"""Who a check is to its target: what is accepted, what is refused, and that no secret is shown."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lighthouse.errors import ConfigError
from lighthouse.model import MonitorType, Reason
from lighthouse.probes import parse_config
from lighthouse.probes.http import HttpConfig, next_hop
from lighthouse.probes.http_tokens import read_token
from lighthouse.probes.wire.transport import HttpRequest, HttpResponse, Special, TransportError
from tests.support.certificates import Authority

URL = "https://example.com/health"
PROXY = {"url": "http://proxy.example:3128"}
OAUTH2 = {"token_url": "https://id.example/token", "client_id": "me", "client_secret": "hunter2"}


def parsed(**config: Any) -> HttpConfig:
    found = parse_config(MonitorType.HTTP, {"url": URL, **config})
    assert isinstance(found, HttpConfig)
    return found


def refusal(**config: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(MonitorType.HTTP, {"url": URL, **config})
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"basic_auth": {"username": "a:b", "password": "hunter2"}}, "basic_auth.username: holds"),
        ({"basic_auth": {"username": "ann"}}, "basic_auth.password: is required"),
        ({"bearer_token": "hunter2\r\nX: y"}, "bearer_token: is no bearer token"),
        ({"bearer_token": "t", "oauth2": OAUTH2}, "give one of basic_auth, bearer_token"),
        (
            {"bearer_token": "t", "headers": {"authorization": "hunter2"}},
            "give one of basic_auth, bearer_token",
        ),
        ({"oauth2": {**OAUTH2, "token_url": "ftp://x"}}, "oauth2.token_url: must start with"),
        ({"oauth2": {**OAUTH2, "send_as": "query"}}, "oauth2.send_as: "),
        ({"client_certificate": {"certificate": "hunter2", "key": "hunter2"}}, "no PEM certif"),
        ({"proxy": {"url": "ftp://proxy.example"}}, "proxy.url: must start with http://"),
        ({"proxy": {"url": "http://me:hunter2@proxy.example"}}, "proxy.url: holds credentials"),
        ({"proxy": {"url": "http://proxy.example/path"}}, "proxy.url: has a path"),
        ({"proxy": {"url": "socks5://"}}, "proxy.url: has no host"),
        ({"proxy": PROXY, "http_version": "3"}, "HTTP/3 does not go through a proxy"),
        ({"proxy": PROXY, "ip_version": 4}, "ip_version is the proxy's to choose"),
        ({"ip_version": 5}, "ip_version: "),
        ({"url": "https://127.0.0.1/", "ip_version": 6}, "of the other ip_version"),
        ({"http_version": "1.0"}, "http_version: "),
        ({"url": "http://x.example/", "http_version": "3"}, "HTTP/3 needs a URL that starts"),
        (
            {"url": "http://x.example/", "certificate_expiry": {"days": 3}},
            "certificate_expiry need",
        ),
        ({"certificate_expiry": {"days": 0}}, "certificate_expiry.days: "),
        ({"certificate_expiry": {"days": 3, "severity": "loud"}}, "certificate_expiry.severity: "),
        ({"follow_redirects": "sometimes"}, "follow_redirects"),
        ({"latency_ms": {"under": 5}}, "latency_ms: knows no operator 'under'"),
        (
            {"expected_headers": {"X-A": {"matches": "("}}},
            "expected_headers.X-A.matches: is no RE2",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(config: dict[str, Any], message: str) -> None:
    assert message in refusal(**config)


def test_a_client_certificate_and_its_key_must_belong_together(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one, other = authority.issue("one.example"), authority.issue("other.example")
    certificate, key = one.cert_file.read_text(), one.key_file.read_text()
    good = parsed(client_certificate={"certificate": certificate, "key": key})
    assert good.request.special == Special(certificate=certificate.encode(), key=key.encode())
    assert key not in repr(good.request)
    for wrong, told in (
        (other.key_file.read_text(), "the key is not the certificate's"),
        ("hunter2", "the key is no unencrypted private key in PEM"),
    ):
        pair = {"certificate": certificate, "key": wrong}
        assert told in refusal(client_certificate=pair)


def test_a_plain_check_asks_for_nothing_special() -> None:
    assert parsed().request.special is None


@pytest.mark.parametrize(
    ("url", "kind", "host", "port"),
    [
        ("http://proxy.example", "http", "proxy.example", 80),
        ("HTTPS://proxy.example:8443/", "https", "proxy.example", 8443),
        ("socks5://127.1", "socks5", "127.0.0.1", 1080),
        ("socks5h://[::1]:9", "socks5h", "::1", 9),
    ],
)
def test_a_proxy_is_read_in_every_form(url: str, kind: str, host: str, port: int) -> None:
    special = parsed(proxy={"url": url, "username": "me", "password": "hunter2"}).special
    assert special is not None
    proxy = special.proxy
    assert proxy is not None
    assert (proxy.kind, proxy.host, proxy.port) == (kind, host, port)
    assert "hunter2" not in repr(special)


def test_a_client_certificate_does_not_follow_a_redirect_to_another_origin() -> None:
    special = Special(certificate=b"c", key=b"k", ip_version=4)
    request = HttpRequest(url=URL, host="example.com", port=443, special=special)
    answer = HttpResponse(status=302, version=11, body=b"", truncated=False, total_ms=1)
    for location, kept in (("https://example.com/x", b"c"), ("https://other.example/", None)):
        following = next_hop(request, HttpResponse(**{**_fields(answer), "location": location}))
        assert isinstance(following, HttpRequest)
        assert following.special is not None
        assert (following.special.certificate, following.special.ip_version) == (kept, 4)


def _fields(answer: HttpResponse) -> dict[str, Any]:
    return {name: getattr(answer, name) for name in answer.__dataclass_fields__}


# -- tokens -----------------------------------------------------------------------------------


def answered(body: object, status: int = 200) -> HttpResponse:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpResponse(status=status, version=11, body=raw, truncated=False, total_ms=1)


@pytest.mark.parametrize(
    ("expires_in", "kept_s"),
    [
        (3600, 3240),
        (60, 30),
        (20, 0),
        (-5, 0),
        ("3600", 3240),
        (None, 270),
        ("x", 270),
        (1e99, 77_760),
    ],
)
def test_a_token_is_kept_for_most_of_its_life(expires_in: object, kept_s: float) -> None:
    answer = {"access_token": "abc"} | ({} if expires_in is None else {"expires_in": expires_in})
    assert read_token(answered(answer)) == ("abc", kept_s)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (answered(b"<html>"), "the token's server answered without JSON"),
        (answered([]), "the token's server answered without a usable access_token"),
        (answered({"access_token": "a\r\nHost: x"}), "without a usable access_token"),
        (answered({"access_token": "a" * 20_000}), "without a usable access_token"),
        (answered({"access_token": 5}), "without a usable access_token"),
        (answered({"error": "invalid_scope"}, 400), "no token: its server answered 400, inv"),
        (answered({"error": "<b>\n"}, 400), "no token: its server answered 400"),
        (answered(b"", 302), "no token: its server answered 302"),
    ],
)
def test_an_answer_without_a_token_is_told_apart(answer: HttpResponse, message: str) -> None:
    found = read_token(answer)
    assert isinstance(found, TransportError)
    assert found.reason is Reason.TOKEN
    assert message in found.message
    assert "\n" not in found.message


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (Reason.CONNECTION_REFUSED, Reason.TOKEN),
        (Reason.TIMEOUT, Reason.TOKEN),
        (Reason.FORBIDDEN_ADDRESS, Reason.FORBIDDEN_ADDRESS),
        (Reason.PROBER_NETWORK, Reason.PROBER_NETWORK),
    ],
)
def test_the_probers_own_fault_on_the_way_to_a_token_stays_its_own(
    reason: Reason, told: Reason
) -> None:
    found = read_token(TransportError(reason=reason, message="m"))
    assert found == TransportError(reason=told, message="no token: m")


@given(st.binary(max_size=200), st.sampled_from([200, 400, 503]))
def test_no_answer_of_a_tokens_server_raises(body: bytes, status: int) -> None:
    read_token(answered(body, status))
