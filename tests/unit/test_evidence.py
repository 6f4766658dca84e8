"""What is told of a target's certificate and addresses, and what is never read."""

import hashlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lighthouse.probes.wire import evidence
from lighthouse.probes.wire.evidence import addresses, certificate
from tests.support.certificates import Authority

NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "_read_already", type(evidence._read_already)())


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every certificate that is parsed."""
    found: list[bytes] = []
    parse = evidence.x509.load_der_x509_certificate

    def noting(der: bytes) -> Any:
        found.append(der)
        return parse(der)

    monkeypatch.setattr(evidence.x509, "load_der_x509_certificate", noting)
    return found


def issued(directory: Path, **keys: Any) -> tuple[bytes, datetime]:
    made = Authority(directory).issue("a.example", **keys)
    return made.cert_file.read_bytes(), made.ends


def test_a_certificate_is_told_by_its_fingerprint_its_end_and_its_names(tmp_path: Path) -> None:
    pem, ends = issued(tmp_path, lasts=timedelta(days=20))
    found = certificate(pem, ends, bad=False, now=NOW)
    assert found is not None
    der = ssl.PEM_cert_to_DER_cert(pem.decode())
    assert found.fingerprint == hashlib.sha256(der).hexdigest()
    assert found.expires_at == ends
    assert (found.subject, found.issuer) == ("CN=a.example", "CN=Test Authority")
    assert certificate(der, ends, bad=False, now=NOW) == found


@pytest.mark.parametrize(("days", "told"), [(-1, True), (29, True), (31, False), (200, False)])
def test_a_success_tells_a_certificate_only_near_its_end(
    tmp_path: Path, readings: list[bytes], days: int, told: bool
) -> None:
    pem, _ = issued(tmp_path)
    found = certificate(pem, NOW + timedelta(days=days), bad=False, now=NOW)
    assert (found is not None) is told
    assert len(readings) == told


def test_a_failure_tells_any_certificate(tmp_path: Path) -> None:
    pem, ends = issued(tmp_path, lasts=timedelta(days=900))
    assert certificate(pem, ends, bad=True) is not None
    assert certificate(pem, None, bad=True) is not None
    assert certificate(None, None, bad=True) is None


def test_a_certificate_is_read_once(tmp_path: Path, readings: list[bytes]) -> None:
    pem, ends = issued(tmp_path)
    first = certificate(pem, ends, bad=True)
    assert certificate(bytes(bytearray(pem)), ends, bad=False) is first
    assert len(readings) == 1


def test_only_so_many_certificates_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readings: list[bytes]
) -> None:
    monkeypatch.setattr(evidence, "_REMEMBERED", 2)
    (pem, ends), *others = (issued(tmp_path) for _ in range(3))
    for each, its in ((pem, ends), *others):
        certificate(each, its, bad=True)
    assert len(evidence._read_already) == 2
    certificate(pem, ends, bad=True)
    assert len(readings) == 4


def test_names_hold_no_control_characters_and_no_more_than_200(tmp_path: Path) -> None:
    pem, ends = issued(tmp_path, common_name="a\x1b[31m\nb\x85c‮")
    found = certificate(pem, ends, bad=True)
    assert found is not None
    assert found.subject == "CN=a [31m b c"
    long = evidence.one_line("x" * 500, evidence._NAME_CHARS)
    assert len(long) == 200


@pytest.mark.parametrize("der", [b"0\x03\x02\x01\x05", b"", b"nothing"])
def test_what_only_openssl_can_read_has_a_fingerprint_all_the_same(der: bytes) -> None:
    found = certificate(der, NOW, bad=True)
    assert found is not None
    assert found.fingerprint == hashlib.sha256(der).hexdigest()
    assert (found.expires_at, found.subject, found.issuer) == (NOW, "", "")
    assert certificate(der + b"?", None, bad=True) is None


def test_a_broken_pem_is_none() -> None:
    assert certificate(b"-----BEGIN CERTIFICATE-----\n%", NOW, bad=True) is None
    assert certificate(b"-----\xff", NOW, bad=True) is None


def test_addresses_are_told_once_in_their_order_and_eight_at_most() -> None:
    many = [f"192.0.2.{number}" for number in range(12)]
    assert addresses([many[5]], many) == (many[5], *many[:5], *many[6:8])
    assert addresses([], []) == ()
