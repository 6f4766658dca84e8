"""A certificate authority of the demo's own, so that its HTTPS targets verify like real ones."""

import os
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: Longer than anybody leaves a demo running.
_VALID = timedelta(days=365)


def issue(directory: Path, system_bundle: Path) -> tuple[Path, Path]:
    """Make a certificate for this machine's loopback, anew each time.

    Returns (certificate with key, bundle): the bundle holds the system's authorities and the one
    that signed, so other targets verify beside the demo's.
    """
    begins = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    ends = begins + _VALID
    signer = ec.generate_private_key(ec.SECP256R1())
    authority = _name("Lighthouse demo authority")
    root = (
        _builder(authority, authority, signer.public_key(), begins, ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [
        x509.IPAddress(IPv4Address("127.0.0.1")),
        x509.DNSName("localhost"),
    ]
    leaf = (
        _builder(_name("localhost"), authority, key.public_key(), begins, ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    served, bundle = directory / "certificate.pem", directory / "authorities.pem"
    pem = serialization.Encoding.PEM
    _write(
        served,
        leaf.public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    _write(bundle, system_bundle.read_bytes() + b"\n" + root.public_bytes(pem))
    return served, bundle


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    begins: datetime,
    ends: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )


def _write(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
