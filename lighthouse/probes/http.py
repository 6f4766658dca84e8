"""The `http` monitor: one request, its redirects, and a judgement of what came back.

`judge` and `next_hop` are the rules and touch nothing; `probe` is all that does I/O.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from lighthouse import urls
from lighthouse.model import CheckStatus, Finding, Outcome, Reason, Timings
from lighthouse.probes.http_config import (
    MEBIBYTE,
    SNIPPET_BYTES,
    VERSIONS,
    BodyValidation,
    HttpConfig,
)
from lighthouse.probes.http_tokens import Tokens
from lighthouse.probes.judging import matching
from lighthouse.probes.judging.assertions import SHORT_BYTES, code_range, headers_fault
from lighthouse.probes.judging.work import in_turn
from lighthouse.probes.wire import evidence
from lighthouse.probes.wire.equipment import Equipment
from lighthouse.probes.wire.transport import HttpRequest, HttpResponse, Transport, TransportError

__all__ = ["MEBIBYTE", "BodyValidation", "HttpConfig", "Way", "allowed", "blame", "expiry_fault"]
__all__ += ["explain", "fetched", "is_long", "judge", "next_hop", "probe", "too_late"]

#: A pattern runs in a thread on bodies longer than this, in bytes: RE2 lets go of the interpreter,
#: and the loop would stand still for milliseconds otherwise.
_LONG_BODY_BYTES = 64 * 1024

_REDIRECTS = frozenset({301, 302, 303, 307, 308})

#: How people write the transport's numbers.
_VERSION_NAMES = {10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2", 30: "HTTP/3"}

_DAY = timedelta(days=1)


async def probe(equipment: Equipment, config: HttpConfig, timeout_s: float) -> Outcome:
    """One attempt, redirects included, over within `timeout_s`."""
    found = await fetched(equipment, config, timeout_s)
    if equipment.explain:
        return await in_turn(_looked_at, config, found)
    if is_long(config, found):
        return await in_turn(judge, config, found)
    return judge(config, found)


async def fetched(
    equipment: Equipment, config: HttpConfig, timeout_s: float
) -> HttpResponse | TransportError:
    """What came in the end, redirects and tokens included, before anything is judged."""
    if config.oauth2 is not None:
        return await _with_token(equipment, config, timeout_s)
    found = await equipment.transport.exchange(config.request, timeout_s)
    if isinstance(found, HttpResponse) and found.location is not None and config.follow_redirects:
        return await _followed(equipment.transport, config, config.request, found, timeout_s)
    return found


async def _with_token(
    equipment: Equipment, config: HttpConfig, timeout_s: float
) -> HttpResponse | TransportError:
    """The exchange with a token; with a new one where a kept one is refused."""
    oauth2 = config.oauth2
    assert oauth2 is not None  # noqa: S101 - the caller's condition
    tokens = equipment.own(Tokens, Tokens)
    deadline = time.monotonic() + timeout_s
    while True:
        token = await tokens.get(oauth2, config.request, max(deadline - time.monotonic(), 0.001))
        if isinstance(token, TransportError):
            return token
        headers = (*config.request.headers, ("Authorization", f"Bearer {token.text}"))
        request = replace(config.request, headers=headers)
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return TransportError(reason=Reason.TIMEOUT, message=too_late(timeout_s, 0))
        found = await equipment.transport.exchange(request, left_s)
        if isinstance(found, TransportError):
            return found
        if found.status == 401 and 401 not in config.accepted:
            tokens.forget(oauth2, config.request)
            if token.kept and deadline > time.monotonic():
                continue
        if found.location is not None and config.follow_redirects:
            left_s = deadline - time.monotonic() + found.total_ms / 1000
            return await _followed(equipment.transport, config, request, found, left_s)
        return found


async def _followed(
    transport: Transport,
    config: HttpConfig,
    request: HttpRequest,
    first: HttpResponse,
    timeout_s: float,
) -> HttpResponse | TransportError:
    """What the redirects lead to; each hop is an exchange within what is left of one deadline."""
    found: HttpResponse | TransportError = first
    deadline = time.monotonic() + timeout_s - first.total_ms / 1000
    way = Way(total_ms=first.total_ms, timings=first.timings)
    hops = 0
    while isinstance(found, HttpResponse) and found.location is not None:
        following = next_hop(request, found)
        if following is None:
            break
        if isinstance(following, TransportError):
            found = following
            break
        if not allowed(config, request, following):
            break
        if hops >= config.max_redirects:
            told = f"more than {config.max_redirects} redirects"
            found = evidence.misled(found, Reason.TOO_MANY_REDIRECTS, told)
            break
        hops += 1
        request = following
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            told = too_late(timeout_s, hops - 1)
            found = evidence.misled(found, Reason.TIMEOUT, told)
            break
        found = await transport.exchange(request, left_s)
        if isinstance(found, TransportError) and found.reason is Reason.PROBER_CONFIG:
            # It worked before: what libcurl cannot use is the address that the target gave.
            found = replace(
                found, reason=Reason.PROTOCOL_ERROR, message="the redirect's address is no URL"
            )
        way = way.plus(found)
    return way.over(found)


def allowed(config: HttpConfig, request: HttpRequest, following: HttpRequest) -> bool:
    """Whether the configuration lets a redirect be followed."""
    match config.follow_redirects:
        case "same_origin":
            return urls.parts(following.url) == urls.parts(request.url)
        case "same_host":
            return following.host == request.host
    return bool(config.follow_redirects)


def too_late(timeout_s: float, redirects: int) -> str:
    """For people: redirects took all the time."""
    return f"no final answer within {timeout_s:g} s, after {redirects} redirects"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """The time that all hops of a redirected exchange took together."""

    total_ms: float
    timings: Timings

    def plus(self, hop: HttpResponse | TransportError) -> "Way":
        mine, its = self.timings, hop.timings
        return Way(
            total_ms=self.total_ms + (hop.total_ms or 0.0),
            timings=Timings(
                dns_ms=_sum(mine.dns_ms, its.dns_ms),
                tcp_ms=_sum(mine.tcp_ms, its.tcp_ms),
                tls_ms=_sum(mine.tls_ms, its.tls_ms),
                ttfb_ms=_sum(mine.ttfb_ms, its.ttfb_ms),
            ),
        )

    def over(self, last: HttpResponse | TransportError) -> HttpResponse | TransportError:
        return replace(last, total_ms=self.total_ms, timings=self.timings)


def _sum(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return one if other is None else other
    return one + other


def next_hop(request: HttpRequest, answer: HttpResponse) -> HttpRequest | TransportError | None:
    """The request that a redirect asks for; None when the answer is none to follow.

    To another origin nothing of the user's goes along, neither headers nor body: any of them
    may be a credential.
    """
    if answer.status not in _REDIRECTS or answer.location is None:
        return None
    try:
        url = urls.join(request.url, answer.location)
    except ValueError as exc:
        return evidence.misled(answer, Reason.PROTOCOL_ERROR, f"the redirect's address {exc}")
    origin = urls.parts(url)
    method, headers, body = request.method, request.headers, request.body
    if method != "HEAD" and (
        answer.status == 303 or (answer.status in (301, 302) and method == "POST")
    ):
        method, body = "GET", None
    special = request.special
    if origin != urls.parts(request.url):
        headers, body = (), None
        if special is not None and special.certificate is not None:
            special = replace(special, certificate=None, key=None)
    elif body is None:
        headers = tuple(pair for pair in headers if pair[0].lower() != "content-type")
    return replace(
        request,
        url=url,
        host=origin[1],
        port=origin[2],
        numeric=urls.is_numeric(origin[1]),
        method=method,
        headers=headers,
        body=body,
        special=special,
    )


def is_long(config: HttpConfig, found: HttpResponse | TransportError) -> bool:
    """Whether the judgement belongs in a thread."""
    wanted = config.body_validation
    if wanted is None or not isinstance(found, HttpResponse):
        return False
    if wanted.given and (wanted.expensive or len(found.body) > SHORT_BYTES):
        return True
    return len(found.body) > _LONG_BODY_BYTES


def _looked_at(config: HttpConfig, found: HttpResponse | TransportError) -> Outcome:
    return replace(judge(config, found), findings=explain(config, found))


def judge(
    config: HttpConfig, found: HttpResponse | TransportError, now: datetime | None = None
) -> Outcome:
    """What an exchange means for its target."""
    if isinstance(found, TransportError):
        return Outcome(
            status=blame(found.reason),
            reason=found.reason,
            message=found.message,
            latency_ms=found.total_ms,
            timings=found.timings,
            cert_expires_at=found.cert_expires_at,
            certificate=evidence.certificate(found.certificate, found.cert_expires_at, bad=True),
            addresses=found.addresses,
        )
    reason: Reason | None = None
    message = None
    for _, broken, wrong in _assertions(config, found):
        if wrong is not None:
            reason, message = broken, wrong
            break
    status = CheckStatus.SUCCESS if reason is None else CheckStatus.FAILURE
    if reason is None and config.certificate_expiry is not None:
        message = expiry_fault(
            config.certificate_expiry.days, found.cert_expires_at, now or datetime.now(UTC)
        )
        if message is not None:
            reason = Reason.CERTIFICATE_EXPIRY
            if config.certificate_expiry.severity == "failure":
                status = CheckStatus.FAILURE
    bad = status is not CheckStatus.SUCCESS
    certificate = None
    if found.certificate is not None:
        certificate = evidence.certificate(
            found.certificate, found.cert_expires_at, bad=bad, now=now
        )
    return Outcome(
        status=status,
        reason=reason,
        message=message,
        latency_ms=found.total_ms,
        http_status=found.status,
        http_version=found.version,
        timings=found.timings,
        cert_expires_at=found.cert_expires_at,
        certificate=certificate,
        addresses=evidence.answered_from(found) if bad else (),
        snippet=matching.text(found.body[:SNIPPET_BYTES], found.content_type) if bad else None,
    )


def explain(
    config: HttpConfig, found: HttpResponse | TransportError, now: datetime | None = None
) -> tuple[Finding, ...]:
    """Each assertion and what was found: for people who look at a single check."""
    if isinstance(found, TransportError):
        return ()
    findings: list[Finding] = []
    for name, _, wrong in _assertions(config, found):
        if name == "body" and config.body_validation is not None:
            findings += _body_findings(config.body_validation, found)
        else:
            findings.append(_finding(name, wrong, _told(name, found)))
    if config.certificate_expiry is not None:
        now = now or datetime.now(UTC)
        wrong = expiry_fault(config.certificate_expiry.days, found.cert_expires_at, now)
        findings.append(_finding("certificate expiry", wrong, _days_told(found, now)))
    return tuple(findings)


def _finding(name: str, wrong: str | None, told: str) -> Finding:
    return Finding(name=name[:200], ok=wrong is None, found=(wrong or told)[:200])


def _told(name: str, found: HttpResponse) -> str:
    match name.partition(" ")[0]:
        case "status":
            return str(found.status)
        case "http_version":
            return _VERSION_NAMES.get(found.version or 0, "unknown")
        case "latency":
            return f"{found.total_ms:.1f} ms"
        case "header":
            values = found.headers.get(name.partition(" ")[2].lower(), ())
            return matching.one_line(", ".join(values)) if values else "absent"
    return "as expected"


def blame(reason: Reason) -> CheckStatus:
    """The status of a check that ends for a reason."""
    if reason is Reason.TIMEOUT:
        return CheckStatus.TIMEOUT
    return CheckStatus.ERROR if reason.value.startswith("prober_") else CheckStatus.FAILURE


def _assertions(
    config: HttpConfig, found: HttpResponse
) -> Iterator[tuple[str, Reason, str | None]]:
    """Each assertion's name, the reason if it is broken, and what is wrong with it or None."""
    wrong = None
    if found.status not in config.accepted:
        wanted = ", ".join(_shown_codes(entry) for entry in config.valid_status_codes)
        wrong = f"status {found.status}, expected {wanted}"
    yield "status", Reason.STATUS_CODE, wrong
    if config.http_version is not None:
        wrong = None
        if found.version != VERSIONS[config.http_version]:
            came = _VERSION_NAMES.get(found.version or 0, "another version")
            wrong = f"answered in {came}, expected HTTP/{config.http_version}"
        yield "http_version", Reason.HTTP_VERSION, wrong
    for name, comparison in config.expected_headers.items():
        yield f"header {name}", Reason.HEADER, headers_fault(name, comparison, found.headers)
    if config.body_validation is not None:
        wrong, reason = _body_fault(config.body_validation, found), Reason.BODY
        if wrong is not None and found.truncated:
            reason = Reason.BODY_TOO_LARGE
            wrong = f"{wrong} in its first {config.max_body_bytes} bytes, and it is longer"
        yield "body", reason, wrong
    if config.max_latency_ms is not None:
        wrong = None
        if found.total_ms > config.max_latency_ms:
            wrong = f"took {found.total_ms:.1f} ms, expected at most {config.max_latency_ms} ms"
        yield "latency", Reason.MAX_LATENCY, wrong
    if config.latency_ms is not None:
        wrong = config.latency_ms.fault(round(found.total_ms, 3))
        if wrong is not None:
            wrong = f"the latency in ms {wrong}"
        yield "latency", Reason.MAX_LATENCY, wrong


def expiry_fault(days: int, ends: datetime | None, now: datetime) -> str | None:
    """What is wrong with a certificate that ends then, where so many days are wanted."""
    if ends is None:
        return "the expiry of the certificate could not be read"
    if ends - now >= days * _DAY:
        return None
    if ends <= now:
        return f"the certificate expired on {ends:%Y-%m-%d}"
    return f"the certificate expires in {(ends - now) / _DAY:.1f} days, on {ends:%Y-%m-%d}"


def _days_told(found: HttpResponse, now: datetime) -> str:
    ends = found.cert_expires_at
    return "unknown" if ends is None else f"{(ends - now) / _DAY:.1f} days left"


def _body_fault(wanted: BodyValidation, found: HttpResponse) -> str | None:
    body = matching.utf8(found.body, found.content_type)
    for fault in (_text_fault(wanted, body), _pattern_fault(wanted, body)):
        if fault is not None:
            return fault
    return wanted.body_fault(body) if wanted.given else None


def _text_fault(wanted: BodyValidation, body: bytes) -> str | None:
    if wanted.contains is None or wanted.contains.encode() in body:
        return None
    return "the body lacks the expected text"


def _pattern_fault(wanted: BodyValidation, body: bytes) -> str | None:
    if wanted.regex is None or matching.compile_pattern(wanted.regex).search(body):
        return None
    return "the body does not match the pattern"


def _body_findings(wanted: BodyValidation, found: HttpResponse) -> Iterator[Finding]:
    body = matching.utf8(found.body, found.content_type)
    if wanted.contains is not None:
        yield _finding("body contains", _text_fault(wanted, body), "found")
    if wanted.regex is not None:
        yield _finding("body regex", _pattern_fault(wanted, body), "found")
    if wanted.given:
        yield from wanted.body_findings(body)


def _shown_codes(entry: int | str) -> str:
    codes = code_range(entry)
    return str(codes[0]) if len(codes) == 1 else f"{codes[0]}–{codes[-1]}"
