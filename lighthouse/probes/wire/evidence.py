"""What an outcome tells of its target beside the judgement: its addresses and its certificate.

Certificates are read only where somebody may be told of them, and each only once: reading one
takes 15 to 30 µs, a fiftieth of an HTTPS check.
"""

import hashlib
import ssl
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cryptography import x509

from lighthouse.alerting import MOST_CERTIFICATE_DAYS
from lighthouse.model import Certificate, CheckStatus, Outcome, Reason
from lighthouse.probes.wire.faults import one_line
from lighthouse.probes.wire.transport import HttpResponse, TransportError

#: Addresses of one outcome: a name with more is served by machines without number.
MOST_ADDRESSES = 8

#: A certificate that ends sooner than this is told with a success, too: no alert goes out earlier.
SOON = timedelta(days=MOST_CERTIFICATE_DAYS)

#: Characters of a subject or issuer.
_NAME_CHARS = 200

#: Certificates that are remembered, about 500 bytes each: the targets of one worker that are in
#: the last third of the 90 days for which public authorities give certificates away.
_REMEMBERED = 8192

# By digest. Judging runs in threads, too: two that meet read a certificate twice, and no more.
_read_already: OrderedDict[bytes, Certificate] = OrderedDict()


def addresses(first: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """Addresses in their order, each once, and no more than are told."""
    return tuple(dict.fromkeys((*first, *others)))[:MOST_ADDRESSES]


def answered_from(found: HttpResponse) -> tuple[str, ...]:
    """Where an answer came from, and what else the name stood for."""
    return addresses(() if found.address is None else (found.address,), found.addresses)


def certificate(
    given: bytes | None, ends: datetime | None, *, bad: bool, now: datetime | None = None
) -> Certificate | None:
    """A target's certificate (PEM or DER) for its outcome; None where nobody needs to see it.

    `bad`: the check is no success.
    """
    if given is None:
        return None
    if not bad and (ends is None or ends - (now or datetime.now(UTC)) >= SOON):
        return None
    key = hashlib.sha256(given).digest()
    known = _read_already.get(key)
    if known is None:
        known = _read(given, ends)
        if known is not None:
            _read_already[key] = known
            if len(_read_already) > _REMEMBERED:
                _read_already.popitem(last=False)
    return known


def _read(given: bytes, ends: datetime | None) -> Certificate | None:
    subject = issuer = ""
    try:
        der = given
        if given.startswith(b"-----"):
            der = ssl.PEM_cert_to_DER_cert(given.decode("ascii").strip())
    except ValueError:
        return None
    try:
        parsed = x509.load_der_x509_certificate(der)
        ends = parsed.not_valid_after_utc
        subject = one_line(parsed.subject.rfc4514_string(), _NAME_CHARS)
        issuer = one_line(parsed.issuer.rfc4514_string(), _NAME_CHARS)
    except (ValueError, x509.InvalidVersion):  # OpenSSL reads what stricter parsers do not
        if ends is None:
            return None
    return Certificate(
        fingerprint=hashlib.sha256(der).hexdigest(),
        expires_at=ends,
        subject=subject,
        issuer=issuer,
    )


def told(outcome: Outcome, found: HttpResponse) -> Outcome:
    """An outcome that turned bad after `http` had judged it, with what is told of its target."""
    bad = outcome.status is not CheckStatus.SUCCESS
    return replace(
        outcome,
        addresses=answered_from(found) if bad else (),
        certificate=certificate(found.certificate, found.cert_expires_at, bad=bad),
    )


def misled(found: HttpResponse, reason: Reason, message: str) -> TransportError:
    """An answer that leads nowhere, with what is known of whom it came from."""
    return TransportError(
        reason=reason,
        message=message,
        cert_expires_at=found.cert_expires_at,
        addresses=answered_from(found),
        certificate=found.certificate,
    )
