"""What outcomes tell of their targets: addresses unless all is well, certificates near an end."""

import hashlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lighthouse.model import CheckStatus, MonitorType, Outcome, Reason
from lighthouse.probes import Prober, parse_config
from lighthouse.probes.wire import evidence
from lighthouse.probes.wire import resolver as resolver_module
from lighthouse.settings import load
from tests.support.certificates import Authority, Certificate
from tests.support.proxies import http_proxy, socks_proxy
from tests.support.raw_target import HOST, Target, answering, raw_target
from tests.support.websocket_target import frame, upgrading

SUCCESS, FAILURE = CheckStatus.SUCCESS, CheckStatus.FAILURE

#: Each monitor's scheme, and what it needs beside its URL.
KINDS: dict[str, dict[str, Any]] = {
    "http": {},
    "graphql": {"query": "{ a }"},
    "websocket": {},
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
async def prober(authority: Authority) -> AsyncIterator[Prober]:
    settings = load({}, egress_allow="127.0.0.0/8,::1/128", ca_file=authority.ca_file)
    async with Prober(settings) as running:
        yield running


async def probed(prober: Prober, kind: str, url: str, **keys: Any) -> Outcome:
    if kind == "websocket":
        url = url.replace("http", "ws", 1)
    given = {"url": url, "retries": 0, "timeout": 5, **KINDS.get(kind, {}), **keys}
    if kind == "canary":
        given = {
            "steps": [{"name": "one", "action": "GET", "url": url}],
            "retries": 0,
            "timeout": 5,
            **keys,
        }
    config = parse_config(MonitorType(kind), given)
    return await prober.probe(MonitorType(kind), config, 60)


def good(kind: str) -> Any:
    """A target that is a success for a kind of monitor."""
    return {
        "websocket": upgrading(frame("hi")),
        "graphql": answering(200, b'{"data": {"a": 1}}'),
    }.get(kind, answering())


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Every name has these addresses."""
    families = {True: socket.AF_INET6, False: socket.AF_INET}
    found = [(families[":" in each], 1, 6, "", (each, 0)) for each in addresses]
    monkeypatch.setattr(resolver_module.socket, "getaddrinfo", lambda *_: found)


def closed_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        return int(server.getsockname()[1])


def fingerprint(certificate: Certificate) -> str:
    pem = certificate.cert_file.read_text()
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


# -- addresses --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "canary"])
async def test_a_refused_connection_tells_all_that_the_name_stood_for(
    prober: Prober, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    port = closed_port()
    found = await probed(prober, kind, f"http://{HOST}:{port}/")
    assert (found.reason, found.addresses) == (Reason.CONNECTION_REFUSED, (HOST,))
    resolving(monkeypatch, "127.0.0.3", HOST, *(f"127.0.0.{n}" for n in range(10, 20)))
    found = await probed(prober, kind, f"http://name.example:{port}/")
    assert found.reason is Reason.CONNECTION_REFUSED
    assert len(found.addresses) == 8
    assert found.addresses[:3] == ("127.0.0.3", HOST, "127.0.0.10")


@pytest.mark.parametrize("kind", [*KINDS, "canary"])
async def test_a_wrong_answer_tells_first_whom_it_came_from(
    prober: Prober, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    resolving(monkeypatch, "127.0.0.3", HOST, "127.0.0.4")  # the target listens on HOST alone
    async with raw_target(answering(500)) as target:
        found = await probed(prober, kind, target.url(host="name.example"))
        assert found.reason is Reason.STATUS_CODE
        assert found.addresses == (HOST, "127.0.0.3", "127.0.0.4")
        resolving(monkeypatch, HOST, "127.0.0.4")
        found = await probed(prober, kind, target.url(host="name.example"))
        assert found.addresses == (HOST, "127.0.0.4")
        found = await probed(prober, kind, target.url())
        assert found.addresses == (HOST,)


@pytest.mark.parametrize("kind", [*KINDS, "canary"])
async def test_a_success_tells_no_address(prober: Prober, kind: str) -> None:
    async with raw_target(good(kind)) as target:
        found = await probed(prober, kind, target.url(host="localhost"))
    assert (found.status, found.addresses, found.certificate) == (SUCCESS, (), None)


async def test_what_only_graphql_finds_wrong_tells_them_too(prober: Prober) -> None:
    async with raw_target(answering(200, b'{"errors": [{"message": "no"}]}')) as target:
        found = await probed(prober, "graphql", target.url())
    assert (found.reason, found.addresses) == (Reason.BODY, (HOST,))


async def test_what_only_a_canary_finds_missing_tells_them_too(prober: Prober) -> None:
    async with raw_target(answering()) as target:
        step = {"name": "one", "action": "GET", "url": target.url(), "extract": {"A": "$.a"}}
        found = await probed(prober, "canary", "", steps=[step])
    assert (found.status, found.addresses) == (FAILURE, (HOST,))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_forbidden_address_is_told(
    prober: Prober, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    resolving(monkeypatch, "10.0.0.7")
    for host in ("10.0.0.7", "name.example"):
        found = await probed(prober, kind, f"http://{host}:1/")
        assert (found.reason, found.addresses) == (Reason.FORBIDDEN_ADDRESS, ("10.0.0.7",))


async def test_a_name_that_does_not_exist_stands_for_nothing(
    prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "no")

    monkeypatch.setattr(resolver_module.socket, "getaddrinfo", unknown)
    for kind in KINDS:
        found = await probed(prober, kind, "http://name.example/")
        assert (found.reason, found.addresses) == (Reason.DNS_NOT_FOUND, ())


async def test_an_answer_of_the_other_version_of_ip_is_told(
    prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, HOST)
    found = await probed(prober, "http", "http://name.example/", ip_version=6)
    assert (found.reason, found.addresses) == (Reason.DNS_NOT_FOUND, (HOST,))


async def test_redirects_that_do_not_end_tell_where_the_last_came_from(prober: Prober) -> None:
    for location in ("/", "http://["):
        async with raw_target(answering(302, headers={"Location": location})) as target:
            for kind in ("http", "canary"):
                found = await probed(prober, kind, target.url())
                assert (found.status, found.addresses) == (FAILURE, (HOST,)), location


async def test_a_proxys_address_is_not_told_as_the_targets(
    prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, "127.0.0.5")
    async with raw_target(answering(500)) as target:
        async with http_proxy() as proxy:
            found = await probed(prober, "http", target.url(), proxy={"url": proxy.url})
            assert (found.reason, found.addresses) == (Reason.STATUS_CODE, ())
        async with http_proxy(refuse=502) as proxy:
            url = target.url(host="name.example")
            found = await probed(prober, "http", url, proxy={"url": proxy.url})
            assert (found.status, found.addresses) == (FAILURE, ())
        async with socks_proxy(reply=5) as proxy:  # which is told the address that was found here
            found = await probed(prober, "http", url, proxy={"url": proxy.url})
            assert found.reason is Reason.CONNECTION_REFUSED
            assert found.addresses == ("127.0.0.5",)
    closed = {"url": f"http://{HOST}:{closed_port()}"}
    found = await probed(prober, "http", "http://127.0.0.5:1/", proxy=closed)
    assert (found.reason, found.addresses) == (Reason.PROBER_PROXY, ())


async def test_a_proxys_address_is_told_where_it_was_judged(prober: Prober) -> None:
    proxy = {"url": "http://10.0.0.9:3128"}
    found = await probed(prober, "http", "http://127.0.0.5:1/", proxy=proxy)
    assert (found.reason, found.addresses) == (Reason.FORBIDDEN_ADDRESS, ("10.0.0.9",))
    found = await probed(prober, "http", "http://10.0.0.7/", proxy=proxy)
    assert (found.reason, found.addresses) == (Reason.FORBIDDEN_ADDRESS, ("10.0.0.7",))


# -- certificates -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("issue", "reason"),
    [
        (lambda a: a.issue(HOST, self_signed=True, lasts=timedelta(days=900)), "tls_self_signed"),
        (
            lambda a: a.issue(HOST, starts=timedelta(days=-9), lasts=timedelta(days=8)),
            "tls_expired",
        ),
        (lambda a: a.issue("other.example", lasts=timedelta(days=900)), "tls_wrong_host"),
    ],
)
@pytest.mark.parametrize("kind", [*KINDS, "canary"])
async def test_a_refused_certificate_is_told(
    prober: Prober,
    authority: Authority,
    kind: str,
    issue: Callable[[Authority], Certificate],
    reason: str,
) -> None:
    certificate = issue(authority)
    async with raw_target(good(kind), certificate) as target:
        found = await probed(prober, kind, target.url())
    assert (found.reason, found.addresses) == (Reason(reason), (HOST,))
    assert found.certificate is not None
    assert found.certificate.fingerprint == fingerprint(certificate)
    assert found.certificate.expires_at == found.cert_expires_at == certificate.ends
    name = "other.example" if reason == "tls_wrong_host" else HOST
    assert found.certificate.subject == f"CN={name}"
    issuer = HOST if reason == "tls_self_signed" else "Test Authority"
    assert found.certificate.issuer == f"CN={issuer}"


@pytest.mark.parametrize("kind", [*KINDS, "canary"])
async def test_a_success_tells_a_certificate_that_ends_soon_and_reads_it_once(
    prober: Prober, authority: Authority, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = authority.issue(HOST, lasts=timedelta(days=20))
    readings = counted(monkeypatch)
    async with raw_target(good(kind), certificate) as target:
        for _ in range(3):
            found = await probed(prober, kind, target.url())
            assert (found.status, found.addresses) == (SUCCESS, ())
            assert found.certificate is not None
            assert found.certificate.fingerprint == fingerprint(certificate)
    assert len(readings) == 1


@pytest.mark.parametrize("kind", [*KINDS, "canary"])
async def test_a_success_does_not_even_read_a_certificate_far_from_its_end(
    prober: Prober, authority: Authority, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = authority.issue(HOST, lasts=timedelta(days=200))
    readings = counted(monkeypatch)
    async with raw_target(good(kind), certificate) as target:
        found = await probed(prober, kind, target.url())
    assert (found.status, found.certificate) == (SUCCESS, None)
    assert found.cert_expires_at == certificate.ends
    assert readings == []


def counted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every certificate that is read for an outcome."""
    found: list[bytes] = []
    read = evidence._read

    def noting(given: bytes, ends: Any) -> Any:
        found.append(given)
        return read(given, ends)

    monkeypatch.setattr(evidence, "_read", noting)
    return found


async def test_a_failure_over_tls_tells_any_certificate(
    prober: Prober, authority: Authority
) -> None:
    certificate = authority.issue(HOST, lasts=timedelta(days=200))
    async with raw_target(answering(500), certificate) as target:
        for kind in (*KINDS, "canary"):
            found = await probed(prober, kind, target.url())
            assert found.reason is Reason.STATUS_CODE
            assert found.certificate is not None
            assert found.certificate.fingerprint == fingerprint(certificate)


async def test_of_redirects_the_last_one_tells_its_certificate(
    prober: Prober, authority: Authority
) -> None:
    first, last = (authority.issue(HOST, lasts=timedelta(days=days)) for days in (20, 30))
    async with raw_target(answering(), last) as end:
        moved = answering(302, headers={"Location": end.url()})
        async with raw_target(moved, first) as start:
            found = await probed(prober, "http", start.url())
    assert found.certificate is not None
    assert found.certificate.fingerprint == fingerprint(last)


async def test_a_canary_tells_the_certificate_that_ends_first(
    prober: Prober, authority: Authority
) -> None:
    made = [authority.issue(HOST, lasts=timedelta(days=days)) for days in (50, 20, 200)]

    async def found(*targets: Target) -> Outcome:
        steps = [
            {"name": f"step {n}", "action": "GET", "url": target.url()}
            for n, target in enumerate(targets)
        ]
        return await probed(prober, "canary", "", steps=steps)

    async with (
        raw_target(answering(), made[0]) as one,
        raw_target(answering(), made[1]) as two,
        raw_target(answering(), made[2]) as far,
    ):
        outcome = await found(one, two, far)
        assert outcome.certificate is not None
        assert outcome.certificate.fingerprint == fingerprint(made[1])
        assert outcome.certificate.expires_at == outcome.cert_expires_at
        assert (await found(far)).certificate is None


async def test_an_encrypted_proxys_certificate_is_not_told_as_the_targets(
    prober: Prober, authority: Authority, tmp_path: Path
) -> None:
    between = authority.issue(HOST, lasts=timedelta(days=20))
    stranger = Authority(tmp_path, "Stranger").issue(HOST)
    async with raw_target(answering(), stranger) as target:
        async with http_proxy(between, refuse=502) as proxy:
            found = await probed(prober, "http", target.url(), proxy={"url": proxy.url})
            assert (found.certificate, found.cert_expires_at) == (None, None)
        async with http_proxy(between) as proxy:
            found = await probed(prober, "http", target.url(), proxy={"url": proxy.url})
            assert found.reason is Reason.TLS_UNTRUSTED
            assert found.certificate is not None
            assert found.certificate.fingerprint == fingerprint(stranger)
