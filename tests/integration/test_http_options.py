"""What an `http` check may ask for beyond a plain request: each option against a real server."""

import asyncio
import base64
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from lighthouse.model import CheckStatus, MonitorType, Outcome, Reason
from lighthouse.probes import Prober, check_once, parse_config
from lighthouse.probes.wire import resolver as resolver_module
from lighthouse.settings import load
from tests.support.certificates import Authority, Certificate
from tests.support.modern_target import modern_target
from tests.support.proxies import http_proxy, socks_proxy
from tests.support.raw_target import HOST, Behaviour, answering, raw_target

JSON_TYPE = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Certificate:
    return authority.issue(HOST, "localhost")


@pytest.fixture
async def prober(authority: Authority) -> AsyncIterator[Prober]:
    settings = load({}, egress_allow="127.0.0.0/8,::1/128", ca_file=authority.ca_file)
    async with Prober(settings) as running:
        yield running


async def probed(prober: Prober, url: str, **keys: Any) -> Outcome:
    config = parse_config(MonitorType.HTTP, {"url": url, "retries": 0, "timeout": 5, **keys})
    return await prober.probe(MonitorType.HTTP, config, 60)


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Every name has these addresses."""
    families = {True: socket.AF_INET6, False: socket.AF_INET}
    found = [(families[":" in each], 1, 6, "", (each, 0)) for each in addresses]
    monkeypatch.setattr(resolver_module.socket, "getaddrinfo", lambda *_: found)


# -- assertions -------------------------------------------------------------------------------


@pytest.mark.option(
    "JsonExpectation.json_path", "JsonExpectation.json_schema", "HttpConfig.body_validation"
)
async def test_json_assertions_read_the_body_that_came(prober: Prober) -> None:
    body = json.dumps({"status": "ok", "items": [{"n": 1}, {"n": 20}]}).encode()
    wanted = {"json_path": {"$.status": "ok", "$.items[*].n": {"<": 10}}}
    async with raw_target(answering(200, body, JSON_TYPE)) as target:
        found = await probed(prober, target.url(), body_validation=wanted)
        assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.BODY)
        assert found.message == "$.items[*].n is 20, expected less than 10"
        wanted["json_path"]["$.items[*].n"] = {"<": 100}
        found = await probed(prober, target.url(), body_validation=wanted)
        assert found.status is CheckStatus.SUCCESS
        schema = {"properties": {"status": {"enum": ["up"]}}}
        found = await probed(prober, target.url(), body_validation={"json_schema": schema})
        assert found.message == 'json_schema $.status: "ok" is none of the array of 1'


@pytest.mark.option("HttpConfig.max_body_bytes")
async def test_a_body_that_is_no_json_is_a_failure_and_a_cut_one_too_large(prober: Prober) -> None:
    wanted = {"json_path": {"$.a": 1}}
    async with raw_target(answering(200, b"<html>")) as target:
        found = await probed(prober, target.url(), body_validation=wanted)
        assert found.reason is Reason.BODY
        assert found.message is not None
        assert found.message.startswith("the body is not JSON")
    async with raw_target(answering(200, b'{"a": 1, "b": "' + b"x" * 5000 + b'"}')) as target:
        found = await probed(prober, target.url(), body_validation=wanted, max_body_bytes=1024)
        assert found.reason is Reason.BODY_TOO_LARGE


@pytest.mark.option("HttpConfig.expected_headers", "HttpConfig.latency_ms")
async def test_headers_and_latency_are_compared(prober: Prober) -> None:
    async with raw_target(answering(headers={"X-Left": "7"})) as target:
        found = await probed(
            prober,
            target.url(),
            expected_headers={"X-Left": {">": 5}, "X-Debug": {"count": 0}},
            latency_ms={"<": 4000, ">": 0},
        )
        assert found.status is CheckStatus.SUCCESS
        found = await probed(prober, target.url(), expected_headers={"X-Left": {">": 7}})
        assert found.reason is Reason.HEADER
        assert found.message == 'header X-Left is "7", expected more than 7'
        found = await probed(prober, target.url(), latency_ms={"<": 0.001})
        assert found.reason is Reason.MAX_LATENCY


async def test_a_single_look_tells_each_assertion_and_a_fleets_check_does_not(
    prober: Prober,
) -> None:
    keys = {
        "retries": 0,
        "valid_status_codes": ["2xx"],
        "http_version": "1.1",
        "expected_headers": {"X-Left": "7"},
        "body_validation": {"contains": "o", "regex": "z"},
    }
    async with raw_target(answering(headers={"X-Left": "7"})) as target:
        config = parse_config(MonitorType.HTTP, {"url": target.url(), **keys})
        settings = load({}, egress_allow="127.0.0.0/8")
        found = await check_once(MonitorType.HTTP, config, settings)
        assert [(each.name, each.ok, each.found) for each in found.findings] == [
            ("status", True, "200"),
            ("http_version", True, "HTTP/1.1"),
            ("header X-Left", True, "7"),
            ("body contains", True, "found"),
            ("body regex", False, "the body does not match the pattern"),
        ]
        assert found.reason is Reason.BODY
        assert (await probed(prober, target.url(), **keys)).findings == ()


# -- who asks ---------------------------------------------------------------------------------


@pytest.mark.option("HttpConfig.basic_auth", "HttpConfig.bearer_token")
async def test_credentials_are_sent_as_the_header_says(prober: Prober) -> None:
    async with raw_target(answering()) as target:
        await probed(prober, target.url(), basic_auth={"username": "ann", "password": "ü:1"})
        await probed(prober, target.url(), bearer_token="abc.DEF-1")
        first, second = target.requests
    pair = base64.b64encode("ann:ü:1".encode())
    assert b"\r\nAuthorization: Basic " + pair + b"\r\n" in first
    assert b"\r\nAuthorization: Bearer abc.DEF-1\r\n" in second


async def test_credentials_stay_with_their_origin(prober: Prober) -> None:
    async with (
        raw_target(answering()) as other,
        raw_target(answering(302, b"", {"Location": other.url()})) as first,
    ):
        await probed(prober, first.url(), bearer_token="s3cret")
        assert b"s3cret" in first.requests[0]
        assert b"Authorization" not in other.requests[0]


@pytest.mark.option("HttpConfig.client_certificate")
async def test_a_client_certificate_opens_what_asks_for_one(
    prober: Prober, authority: Authority, certificate: Certificate
) -> None:
    mine = authority.issue("prober.example")
    pems = {"certificate": mine.cert_file.read_text(), "key": mine.key_file.read_text()}
    async with raw_target(answering(), certificate, clients=authority.ca_file) as target:
        found = await probed(prober, target.url(), client_certificate=pems)
        assert found.status is CheckStatus.SUCCESS
        found = await probed(prober, target.url())  # asyncio's servers close without an alert
        assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.CONNECTION_RESET)
        assert target.requests[1:] == []


async def test_a_server_that_asks_for_a_client_certificate_is_understood(
    prober: Prober, authority: Authority, certificate: Certificate
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert_file, certificate.key_file)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.ca_file)
    with socket.create_server((HOST, 0)) as server:

        def refuse() -> None:
            connection, _ = server.accept()
            connection.settimeout(5)
            with connection.dup() as kept:  # a closed socket with unread input would be reset
                with suppress(OSError):
                    context.wrap_socket(connection, server_side=True)
                while kept.recv(4096):
                    pass

        refusing = asyncio.create_task(asyncio.to_thread(refuse))
        found = await probed(prober, f"https://{HOST}:{server.getsockname()[1]}/")
        await refusing
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.TLS_HANDSHAKE)
    assert found.message is not None
    assert "certificate required" in found.message


async def test_a_client_certificate_is_not_shown_to_another_origin(
    prober: Prober, authority: Authority, certificate: Certificate
) -> None:
    mine = authority.issue("prober.example")
    pems = {"certificate": mine.cert_file.read_text(), "key": mine.key_file.read_text()}
    async with raw_target(answering(), certificate, clients=authority.ca_file) as strict:
        location = {"Location": strict.url()}
        async with raw_target(answering(302, b"", location), certificate) as first:
            found = await probed(prober, first.url(), client_certificate=pems)
            assert found.reason is Reason.CONNECTION_RESET
            assert strict.requests == []


# -- tokens -----------------------------------------------------------------------------------


def granting(tokens: list[str], expires_in: int = 3600) -> Behaviour:
    """A server of tokens, which gives out the next one each time."""
    left = iter(tokens)

    async def behave(*args: Any) -> None:
        answer = {"access_token": next(left), "token_type": "Bearer", "expires_in": expires_in}
        await answering(200, json.dumps(answer).encode(), JSON_TYPE)(*args)

    return behave


def knowing(*tokens: str) -> Behaviour:
    """A target that lets in who has one of the tokens."""

    async def behave(request: bytes, *rest: Any) -> None:
        good = any(f"Authorization: Bearer {token}\r\n".encode() in request for token in tokens)
        await answering(200 if good else 401)(request, *rest)

    return behave


def client(url: str, **more: str) -> dict[str, str]:
    return {"token_url": url, "client_id": "me", "client_secret": "s3 cret", **more}


@pytest.mark.option("HttpConfig.oauth2", "OAuth2.scope", "OAuth2.audience")
async def test_a_token_is_fetched_once_and_kept_while_it_lasts(prober: Prober) -> None:
    async with raw_target(granting(["t1"])) as tokens, raw_target(knowing("t1")) as target:
        oauth2 = client(tokens.url("/token"), scope="read all", audience="api")
        checks = (probed(prober, target.url(), oauth2=oauth2) for _ in range(4))
        for found in await asyncio.gather(*checks):
            assert found.status is CheckStatus.SUCCESS
        (asked,) = tokens.requests
    head, _, body = asked.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /token ")
    assert b"Authorization: Basic " + base64.b64encode(b"me:s3+cret") in head
    assert body == b"grant_type=client_credentials&scope=read+all&audience=api"


@pytest.mark.option("OAuth2.send_as")
async def test_a_token_that_ends_soon_is_not_kept_and_the_body_may_carry_the_secret(
    prober: Prober,
) -> None:
    async with (
        raw_target(granting(["t1", "t2"], expires_in=20)) as tokens,
        raw_target(knowing("t1", "t2")) as target,
    ):
        oauth2 = client(tokens.url(), send_as="body")
        for _ in range(2):
            found = await probed(prober, target.url(), oauth2=oauth2)
            assert found.status is CheckStatus.SUCCESS
        assert len(tokens.requests) == 2
        assert b"client_id=me&client_secret=s3+cret" in tokens.requests[0]
        assert b"Authorization" not in tokens.requests[0]


async def test_a_kept_token_that_is_refused_is_replaced_at_once(prober: Prober) -> None:
    allowed = ["t1"]

    async def behave(*args: Any) -> None:
        await knowing(*allowed)(*args)

    async with raw_target(granting(["t1", "t2"])) as tokens, raw_target(behave) as target:
        oauth2 = client(tokens.url())
        assert (await probed(prober, target.url(), oauth2=oauth2)).http_status == 200
        allowed[:] = ["t2"]
        assert (await probed(prober, target.url(), oauth2=oauth2)).http_status == 200
        allowed[:] = []
        found = await probed(prober, target.url(), oauth2=oauth2)
        assert found.reason is Reason.TOKEN  # the server of tokens has no more to give


async def test_without_a_token_the_check_is_a_failure_with_a_reason_of_its_own(
    prober: Prober,
) -> None:
    refusal = answering(401, b'{"error": "invalid_client"}', JSON_TYPE)
    async with raw_target(refusal) as tokens, raw_target(answering()) as target:
        found = await probed(prober, target.url(), oauth2=client(tokens.url()))
        assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.TOKEN)
        assert found.message == "no token: its server answered 401, invalid_client"
        assert target.connections == 0


async def test_the_servers_address_of_tokens_is_guarded(authority: Authority) -> None:
    settings = load({}, egress_allow="127.0.0.1/32")
    async with (
        raw_target(granting(["t1"])) as tokens,
        raw_target(answering()) as target,
        Prober(settings) as prober,
    ):
        inward = tokens.url(host="127.0.0.2")
        found = await probed(prober, target.url(), oauth2=client(inward))
        assert found.reason is Reason.FORBIDDEN_ADDRESS
        assert (tokens.connections, target.connections) == (0, 0)


# -- proxies ----------------------------------------------------------------------------------


@pytest.mark.option("HttpConfig.proxy", "ProxyConfig.username", "ProxyConfig.password")
async def test_a_plain_and_an_encrypted_target_through_an_http_proxy(
    prober: Prober, certificate: Certificate
) -> None:
    async with (
        http_proxy() as proxy,
        raw_target(answering()) as plain,
        raw_target(answering(), certificate) as encrypted,
    ):
        way = {"url": proxy.url, "username": "me", "password": "pw"}
        for target in (plain, encrypted):
            found = await probed(prober, target.url(), proxy=way)
            assert found.status is CheckStatus.SUCCESS
            assert target.connections == 1
        assert proxy.asked == [plain.url(), f"{HOST}:{encrypted.port}"]
        assert proxy.credentials == [b"Basic " + base64.b64encode(b"me:pw")] * 2
        assert (await probed(prober, plain.url())).status is CheckStatus.SUCCESS
        assert len(proxy.asked) == 2  # the same handle goes directly again


async def test_a_target_through_an_encrypted_proxy(
    prober: Prober, certificate: Certificate
) -> None:
    async with http_proxy(certificate) as proxy, raw_target(answering(), certificate) as target:
        found = await probed(prober, target.url(), proxy={"url": proxy.url})
        assert found.status is CheckStatus.SUCCESS
        assert proxy.asked == [f"{HOST}:{target.port}"]


async def test_a_socks_proxy_is_told_the_address_or_the_name(
    prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, HOST)
    async with (
        socks_proxy(password=True) as here,
        socks_proxy("socks5h") as there,
        raw_target(answering()) as target,
    ):
        url = target.url(host="name.example")
        way = {"url": here.url, "username": "me", "password": "pw"}
        assert (await probed(prober, url, proxy=way)).status is CheckStatus.SUCCESS
        assert here.asked == [f"{HOST}:{target.port}"]
        assert here.credentials == [b"me:pw"]
        assert (await probed(prober, url, proxy={"url": there.url})).status is CheckStatus.SUCCESS
        assert there.asked == [f"name.example:{target.port}"]


async def test_a_proxys_own_failure_says_nothing_of_the_target(prober: Prober) -> None:
    with socket.create_server((HOST, 0)) as server:
        closed = f"http://{HOST}:{server.getsockname()[1]}"
    async with raw_target(answering()) as target, http_proxy(refuse=407) as refusing:
        for url in (closed, refusing.url, closed.replace("http:", "socks5:")):
            found = await probed(prober, target.url(), proxy={"url": url})
            assert (found.status, found.reason) == (CheckStatus.ERROR, Reason.PROBER_PROXY), url
        assert target.connections == 0


async def test_what_a_proxy_says_of_the_target_is_the_targets(
    prober: Prober, certificate: Certificate
) -> None:
    async with http_proxy(refuse=502) as proxy, raw_target(answering(), certificate) as target:
        found = await probed(prober, target.url(), proxy={"url": proxy.url})
        assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.UNREACHABLE)
    async with socks_proxy(reply=5) as proxy, raw_target(answering()) as target:
        found = await probed(prober, target.url(), proxy={"url": proxy.url})
        assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.CONNECTION_REFUSED)


@pytest.mark.parametrize("scheme", ["http", "https", "socks5", "socks5h"])
async def test_no_proxy_leads_to_a_forbidden_address(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, "169.254.169.254")
    settings = load({}, egress_allow="127.0.0.1/32")
    async with http_proxy() as proxy, Prober(settings) as prober:
        way = {"url": f"{scheme}://{HOST}:{proxy.port}"}
        for url in ("http://127.0.0.2/", "http://169.254.169.254/", "http://name.example/"):
            found = await probed(prober, url, proxy=way)
            assert found.reason is Reason.FORBIDDEN_ADDRESS
        assert proxy.asked == []


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks5h"])
async def test_a_proxy_at_a_forbidden_address_is_not_used(scheme: str) -> None:
    settings = load({}, egress_allow="127.0.0.1/32")
    async with http_proxy() as proxy, raw_target(answering()) as target:
        async with Prober(settings) as prober:
            way = {"url": f"{scheme}://127.0.0.2:{proxy.port}"}
            found = await probed(prober, target.url(), proxy=way)
        assert found.reason is Reason.FORBIDDEN_ADDRESS
        assert proxy.asked == []


# -- versions ---------------------------------------------------------------------------------


@pytest.mark.option("HttpConfig.ip_version")
async def test_only_the_chosen_version_of_ip_is_used(
    prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with raw_target(answering()) as target:
        url = target.url(host="name.example")
        resolving(monkeypatch, "::1", HOST)
        assert (await probed(prober, url, ip_version=4)).status is CheckStatus.SUCCESS
        assert (await probed(prober, url, ip_version=6)).status is not CheckStatus.SUCCESS
        assert target.connections == 1
        resolving(monkeypatch, "::1")
        found = await probed(prober, url, ip_version=4)
        assert (found.reason, found.message) == (
            Reason.DNS_NOT_FOUND,
            "name.example has no IPv4 address",
        )


async def test_a_redirect_to_the_other_version_of_ip_is_not_followed(prober: Prober) -> None:
    async with raw_target(answering(302, b"", {"Location": "http://[::1]:1/"})) as target:
        found = await probed(prober, target.url(), ip_version=4)
        assert found.message == "::1 has no IPv4 address"


@pytest.mark.parametrize(("version", "number"), [("1.1", 11), ("2", 20), ("3", 30)])
async def test_the_demanded_version_of_http_is_spoken(
    prober: Prober, certificate: Certificate, version: str, number: int
) -> None:
    async with modern_target(certificate, "h3", "h2", "http/1.1") as port:
        found = await probed(prober, f"https://{HOST}:{port}/", http_version=version)
        assert (found.status, found.http_version) == (CheckStatus.SUCCESS, number)
        assert found.cert_expires_at == certificate.ends
        found = await probed(prober, f"https://{HOST}:{port}/")
        assert found.http_version == 20  # the best of 1.1 and 2


async def test_http_2_in_clear_text_is_spoken_where_it_is_demanded(prober: Prober) -> None:
    async with modern_target(None) as port:
        found = await probed(prober, f"http://{HOST}:{port}/", http_version="2")
        assert (found.status, found.http_version) == (CheckStatus.SUCCESS, 20)


@pytest.mark.option("HttpConfig.http_version")
async def test_another_version_than_the_demanded_one_is_a_failure(
    prober: Prober, certificate: Certificate
) -> None:
    async with modern_target(certificate, "http/1.1") as port:
        found = await probed(prober, f"https://{HOST}:{port}/", http_version="2")
        assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.HTTP_VERSION)
        assert found.message == "answered in HTTP/1.1, expected HTTP/2"
        found = await probed(prober, f"https://{HOST}:{port}/", http_version="3", timeout=1)
        assert found.status in (CheckStatus.FAILURE, CheckStatus.TIMEOUT)


@pytest.mark.parametrize(
    ("names", "how", "reason"),
    [
        ((HOST,), {"starts": timedelta(days=-9), "lasts": timedelta(days=8)}, Reason.TLS_EXPIRED),
        (("other.example",), {}, Reason.TLS_WRONG_HOST),
        ((HOST,), {"self_signed": True}, Reason.TLS_SELF_SIGNED),
    ],
)
async def test_over_http_3_a_refused_certificate_has_its_reason_and_its_expiry_too(
    prober: Prober, authority: Authority, names: tuple[str], how: dict[str, Any], reason: Reason
) -> None:
    broken = authority.issue(*names, **how)
    async with modern_target(broken, "h3", "h2") as port:
        found = await probed(prober, f"https://{HOST}:{port}/", http_version="3")
        assert (found.status, found.reason) == (CheckStatus.FAILURE, reason)
        assert found.cert_expires_at == broken.ends


async def test_http_3_reaches_no_forbidden_address(
    authority: Authority, certificate: Certificate
) -> None:
    settings = load({}, ca_file=authority.ca_file)
    async with modern_target(certificate, "h3", "h2") as port, Prober(settings) as prober:
        found = await probed(prober, f"https://{HOST}:{port}/", http_version="3")
        assert found.reason is Reason.FORBIDDEN_ADDRESS


# -- redirects, methods, certificates ---------------------------------------------------------


@pytest.mark.option("HttpConfig.follow_redirects")
async def test_a_redirect_policy_decides_which_are_followed(prober: Prober) -> None:
    async with raw_target(answering()) as other:

        async def behave(request: bytes, *rest: Any) -> None:
            if request.startswith(b"GET /end "):
                await answering()(request, *rest)
            else:
                location = "/end" if b"/here" in request else other.url()
                await answering(302, b"", {"Location": location})(request, *rest)

        async with raw_target(behave) as target:
            here, away = target.url("/here"), target.url("/away")
            for policy, url, status in (
                (True, away, 200),
                (False, here, 302),
                ("same_origin", here, 200),
                ("same_origin", away, 302),
                ("same_host", away, 200),  # another port
                ("same_host", target.url("/away", host="localhost"), 302),
            ):
                found = await probed(prober, url, follow_redirects=policy)
                assert found.http_status == status, (policy, url)


@pytest.mark.option("HttpConfig.method")
async def test_a_head_request_gets_no_body(prober: Prober) -> None:
    async with raw_target(answering(200, b"")) as target:
        found = await probed(prober, target.url(), method="HEAD")
        assert found.status is CheckStatus.SUCCESS
        assert target.requests[0].startswith(b"HEAD / ")


@pytest.mark.option("HttpConfig.certificate_expiry", "CertificateExpiry.severity")
async def test_a_certificate_that_ends_soon_is_a_failure_or_a_warning(
    prober: Prober, authority: Authority
) -> None:
    soon = authority.issue(HOST, lasts=timedelta(days=8))
    async with raw_target(answering(), soon) as target:
        found = await probed(prober, target.url(), certificate_expiry={"days": 14})
        assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.CERTIFICATE_EXPIRY)
        assert found.message is not None
        assert found.message.startswith("the certificate expires in 7.0 days, on ")
        warning = {"days": 14, "severity": "warning"}
        found = await probed(prober, target.url(), certificate_expiry=warning)
        assert (found.status, found.reason) == (CheckStatus.SUCCESS, Reason.CERTIFICATE_EXPIRY)
        found = await probed(prober, target.url(), certificate_expiry={"days": 6})
        assert (found.status, found.reason) == (CheckStatus.SUCCESS, None)


async def test_an_expired_certificate_is_told_even_where_none_is_verified(
    prober: Prober, authority: Authority
) -> None:
    past = authority.issue(HOST, starts=timedelta(days=-9), lasts=timedelta(days=8))
    async with raw_target(answering(), past) as target:
        keys: dict[str, Any] = {"certificate_expiry": {"days": 1}, "verify_tls": False}
        found = await probed(prober, target.url(), **keys)
        assert found.reason is Reason.CERTIFICATE_EXPIRY
        assert found.cert_expires_at == past.ends
