"""The nouns that cross boundaries. Times named `slot` are integer milliseconds since the epoch.

A slot is a deterministic due time of a subscription and the primary key of its check's row, so a
check that is run twice meets its own row. Everything here is immutable and free of I/O.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid5

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: Namespace of event ids: uuid5 of (subscription, slot, alert type), stable over every redelivery.
EVENT_NAMESPACE = UUID("6c2f0c1e-0f5b-5a0e-9d7a-0b5e3f0a8f11")

#: `alert_history.channel_id` of an event that had no channel: keys hold no NULL.
NO_CHANNEL = UUID(int=0)

#: `alert_history.subscription_id` of events that concern the fleet itself.
OPERATOR = UUID(int=0)

#: The longest texts stored per check; more helps nobody and grows the history.
ERROR_MESSAGE_CHARS = 500
SNIPPET_CHARS = 1024
_INT32_MAX = 2**31 - 1


class MonitorType(StrEnum):
    HTTP = "http"
    WEBSOCKET = "websocket"
    BALANCE = "balance"
    CANARY = "canary"
    GRAPHQL = "graphql"


class Tier(StrEnum):
    FREE = "free"
    BASIC = "basic"
    STANDARD = "standard"
    PRO = "pro"
    ENTERPRISE = "enterprise"


class SubscriptionStatus(StrEnum):
    PENDING = "pending"
    ACTIVE = "active"
    PAUSED = "paused"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class CheckStatus(StrEnum):
    """`success`, `failure` and `timeout` judge the target; `error` and `missed` judge nothing."""

    SUCCESS = "success"
    FAILURE = "failure"
    TIMEOUT = "timeout"
    ERROR = "error"
    MISSED = "missed"

    @property
    def judged(self) -> bool:
        return self not in (CheckStatus.ERROR, CheckStatus.MISSED)

    @property
    def down(self) -> bool:
        return self in (CheckStatus.FAILURE, CheckStatus.TIMEOUT)


class Verdict(StrEnum):
    """What is believed of a target. `unknown` until something has been judged."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"


class ChannelType(StrEnum):
    DISCORD = "discord"
    TELEGRAM = "telegram"
    EMAIL = "email"
    SLACK = "slack"
    WEBHOOK = "webhook"
    SMS = "sms"
    APPRISE = "apprise"


class AlertType(StrEnum):
    DOWNTIME = "downtime"
    RECOVERY = "recovery"
    HIGH_LATENCY = "high_latency"
    LOW_BALANCE = "low_balance"
    CERTIFICATE_EXPIRY = "certificate_expiry"
    OPERATOR = "operator"  #: about the fleet itself, not about a target
    FLAPPING = "flapping"
    COVERAGE = "coverage"
    SUMMARY = "summary"  #: what an hour's limit withheld


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        return ("info", "warning", "critical").index(self.value)


class DeliveryState(StrEnum):
    """`pending` is the only state that is not an end state."""

    PENDING = "pending"
    SENT = "sent"
    GAVE_UP = "gave_up"
    MERGED = "merged"
    SUPPRESSED = "suppressed"
    CHANNEL_REMOVED = "channel_removed"


class Reason(StrEnum):
    """Why a check is not a success; stored in `check_history.error_code`.

    The first group blames the target (`failure` or `timeout`), the second the prober (`error`).
    """

    DNS_NOT_FOUND = "dns_not_found"
    CONNECTION_REFUSED = "connection_refused"
    CONNECTION_RESET = "connection_reset"
    UNREACHABLE = "unreachable"
    TLS_EXPIRED = "tls_expired"
    TLS_WRONG_HOST = "tls_wrong_host"
    TLS_SELF_SIGNED = "tls_self_signed"
    TLS_UNTRUSTED = "tls_untrusted"
    TLS_HANDSHAKE = "tls_handshake"
    PROTOCOL_ERROR = "protocol_error"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    FORBIDDEN_ADDRESS = "forbidden_address"
    STATUS_CODE = "status_code"
    HEADER = "header"
    BODY = "body"
    BODY_TOO_LARGE = "body_too_large"
    MAX_LATENCY = "max_latency"
    CERTIFICATE_EXPIRY = "certificate_expiry"
    HTTP_VERSION = "http_version"
    TOKEN = "token"  # noqa: S105 - no token, but that OAuth2 gave none
    CLOSED = "closed"  #: a WebSocket, by the server, with a code
    BALANCE_LOW = "balance_low"  #: only warned of: the check is a success
    BALANCE_CRITICAL = "balance_critical"
    TIMEOUT = "timeout"

    PROBER_RESOLVER = "prober_resolver"
    PROBER_NETWORK = "prober_network"
    PROBER_DESCRIPTORS = "prober_descriptors"
    PROBER_PORTS = "prober_ports"
    PROBER_MEMORY = "prober_memory"
    PROBER_PROXY = "prober_proxy"  #: the configured proxy failed: nothing is known of the target
    PROBER_CONFIG = "prober_config"
    PROBER_RPC = "prober_rpc"  #: a chain's RPC failed: nothing is known of the balance
    PROBER_CHAIN = "prober_chain"  #: the wrong chain, or no such token on it
    PROBER_BROWSER = "prober_browser"
    PROBER_BUG = "prober_bug"
    PROBER_UNPROVED = "prober_unproved"
    PROBER_UNCONFIRMED = "prober_unconfirmed"  #: another worker reached what this one did not
    UNSTORABLE = "unstorable"


def to_slot(moment: datetime) -> int:
    """A moment as integer milliseconds since the epoch, exactly (floats would round)."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


def from_slot(slot: int) -> datetime:
    """A slot as an aware UTC datetime."""
    return EPOCH + timedelta(milliseconds=slot)


def event_id(
    subscription_id: UUID,
    slot: int,
    alert_type: AlertType,
    about: AlertType = AlertType.DOWNTIME,
) -> UUID:
    """The identity of an event: the same for every worker that sees the same transition.

    `about` tells recoveries apart, of which one slot may bring several.
    """
    name = f"{subscription_id}:{slot}:{alert_type.value}"
    if alert_type is AlertType.RECOVERY and about is not AlertType.DOWNTIME:
        name += f":{about.value}"
    return uuid5(EVENT_NAMESPACE, name)


def storable(text: str | None, limit: int) -> str | None:
    """Text that PostgreSQL accepts: no NUL, no lone surrogate, at most `limit` characters."""
    if text is None:
        return None
    text = text[:limit]
    if text.isascii():
        return text.replace("\x00", "�") if "\x00" in text else text
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "�")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Phases of the last attempt, in ms; None where the phase did not happen.

    Each is the length of its own phase, not the time since the start; `ttfb_ms` is from the
    request's end to the first byte of the answer.
    """

    dns_ms: float | None = None
    tcp_ms: float | None = None
    tls_ms: float | None = None
    ttfb_ms: float | None = None


NO_TIMINGS = Timings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What a target showed of itself in TLS; told where it is refused or ends soon."""

    fingerprint: str  #: SHA-256 of its DER form, lower-case hex
    expires_at: datetime
    subject: str = ""  #: one line
    issuer: str = ""  #: one line


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Below which balances to warn and to alarm, in the smallest unit; None: never.

    What began below a bound ends at its `…_clear_at`, which lies as much higher as the
    configuration says, so that a balance on the bound does not begin and end it by turns.
    """

    alert_at: int | None = None
    critical_at: int | None = None
    alert_clear_at: int | None = None  #: set with `alert_at`, and not below it
    critical_clear_at: int | None = None  #: set with `critical_at`, and not below it


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What another worker found of a target right after this one called it down."""

    worker: str
    region: str | None
    status: CheckStatus
    reason: Reason | None
    message: str | None
    latency_ms: float | None
    http_status: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One assertion of a check and what was found: for people who look at a single check."""

    name: str  #: what was asserted: "status", "header content-type", "body $.status", …
    ok: bool
    found: str  #: one line, without secrets, at most 200 characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One part of a check that has several: a canary's step, a WebSocket's phase."""

    name: str
    status: CheckStatus | None  #: None: skipped
    latency_ms: float
    message: str | None = None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one probe found: the judgement without the slot that it belongs to."""

    status: CheckStatus
    reason: Reason | None = None  #: set unless success; with success, what it warns of
    message: str | None = None  #: one line for a person; set with `reason`
    latency_ms: float | None = None  #: the whole exchange of the last attempt
    http_status: int | None = None
    http_version: int | None = None  #: 10, 11, 20 or 30
    timings: Timings = NO_TIMINGS
    cert_expires_at: datetime | None = None
    value: int | None = None  #: a balance in the smallest unit
    bounds: Bounds | None = None  #: set with `value`
    certificate: Certificate | None = None  #: the target's own, if refused or soon to end
    addresses: tuple[str, ...] = ()  #: that its name stood for; kept unless success
    snippet: str | None = None  #: the beginning of the body; kept unless success
    attempts: int = 1
    findings: tuple[Finding, ...] = ()  #: filled only where somebody looks (`lighthouse check`)
    steps: tuple[Step, ...] = ()  #: of a check that has several parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """An outcome at its slot: one row of `check_history`, already storable.

    The last four fields are no columns: they are for the verdicts and incidents that it causes.
    """

    subscription_id: UUID
    slot: int  #: ms since the epoch
    status: CheckStatus
    http_status: int | None = None
    latency_ms: float | None = None
    error_message: str | None = None
    error_code: str | None = None
    timings: Timings = NO_TIMINGS
    response_snippet: str | None = None
    http_version: int | None = None
    cert_expires_at: datetime | None = None
    value: int | None = None
    attempts: int = 1
    delay_ms: int = 0
    region: str | None = None
    bounds: Bounds | None = None
    certificate: Certificate | None = None
    addresses: tuple[str, ...] = ()
    confirmation: Confirmation | None = None

    @classmethod
    def of(
        cls,
        subscription_id: UUID,
        slot: int,
        outcome: Outcome,
        *,
        delay_ms: int = 0,
        region: str | None = None,
    ) -> "Result":
        """Bind an outcome to its slot and make every field storable."""
        success = outcome.status is CheckStatus.SUCCESS
        return cls(
            subscription_id=subscription_id,
            slot=slot,
            status=outcome.status,
            http_status=_within(outcome.http_status, 0, 32767),
            latency_ms=_milliseconds(outcome.latency_ms),
            error_message=None
            if outcome.reason is None
            else storable(outcome.message, ERROR_MESSAGE_CHARS),
            error_code=None if outcome.reason is None else outcome.reason.value,
            timings=outcome.timings,
            response_snippet=None if success else storable(outcome.snippet, SNIPPET_CHARS),
            http_version=outcome.http_version,
            cert_expires_at=outcome.cert_expires_at,
            value=outcome.value,
            attempts=min(outcome.attempts, 32767),
            delay_ms=min(max(delay_ms, 0), _INT32_MAX),
            region=region,
            bounds=outcome.bounds,
            certificate=outcome.certificate,
            addresses=() if success else outcome.addresses,
        )


def _within(number: int | None, low: int, high: int) -> int | None:
    return number if number is not None and low <= number <= high else None


def _milliseconds(number: float | None) -> float | None:
    if number is None or not math.isfinite(number) or number < 0:
        return None
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A row of `subscriptions` with its owner's wallet."""

    id: UUID
    wallet_address: str
    name: str
    target_type: MonitorType
    target_config: Mapping[str, Any]
    tier: Tier
    check_interval_seconds: int
    status: SubscriptionStatus
    payment_tx_hash: str | None
    payment_chain: str | None
    payment_amount_usdc: int | None  #: millionths of a USDC
    created_at: datetime
    activated_at: datetime | None
    expires_at: datetime | None
    cancelled_at: datetime | None
    metadata: Mapping[str, Any]
    alerting: Mapping[str, Any] = field(default_factory=dict)  #: alerting.Alerting, as given


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A row of `alert_channels`."""

    id: UUID
    subscription_id: UUID
    channel_type: ChannelType
    channel_config: Mapping[str, Any]
    enabled: bool
    min_severity: Severity
    metadata: Mapping[str, Any] = field(default_factory=dict)
    escalate_after_s: int = 0  #: hears only of what lasts so long and nobody has acknowledged

    @property
    def language(self) -> str:
        return str(self.metadata.get("language", "en"))

    @property
    def timezone(self) -> str:
        """The IANA name of the zone that its messages' times are told in."""
        return str(self.metadata.get("timezone", "UTC"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What is true of an alert when it is due. Times are PostgreSQL's."""

    now: datetime
    created_at: datetime
    held: str | None = None  #: why it waited until now
    holdable: bool = False  #: of a target: maintenance and parents hold it
    begins: bool = False  #: it tells of an incident that began or grew worse
    reminder: bool = False
    reminds: bool = False  #: the owner wants reminders
    escalates: bool = False  #: the channel hears of what lasts and nobody has acknowledged
    uncertain: bool = False  #: it may have been told: a courier tried, or died with it
    closed: bool = False  #: the incident has ended
    acknowledged: bool = False
    watched: bool = True  #: the subscription has not ended
    paused: bool = False
    maintenance_until: datetime | None = None
    down_parent: str | None = None  #: a parent's name
    unsure_parent: bool = False  #: the check that decides between parent and child is to come
    changed_since: bool = False  #: the target has changed again
    still_until: datetime | None = None  #: a flapping target must hold still until then
    limited: bool = False  #: alerts of this hour are being withheld


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One event on its way to one channel: a claimed row of `alert_history`.

    `channel` is None when the channel has gone since the event.
    """

    event_id: UUID
    channel_id: UUID
    slot: int  #: of the check that made the event, ms since the epoch
    subscription_id: UUID
    subscription_name: str
    alert_type: AlertType
    severity: Severity
    title: str
    message: str
    context: Mapping[str, Any]  #: facts for templates: target, reason, http_status, since, ...
    attempt: int  #: of this try, from 1
    lease_token: UUID
    created_at: datetime
    age_s: float  #: since the first try, by PostgreSQL's clock
    channel: Channel | None
    circumstances: Circumstances
    incident_id: UUID | None = None
    opened_at: datetime | None = None  #: of the incident
    whole: bool = False  #: nobody was told that it began: tell the whole story


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a channel's service said to one try."""

    ok: bool
    detail: str  #: one line, without secrets: "204", "HTTP 503 …", "timed out"
    permanent: bool = False  #: trying again cannot help (404, 410, a malformed address)
    retry_after_s: float | None = None  #: the service's own wish
    gone: bool = False  #: the address has ceased to exist: nothing may be sent there any more
    tried: bool = True  #: False: held back before anything was sent
    unreadable: bool = False  #: the stored configuration cannot be read: the operator's matter
    silent: bool = False  #: no connection, or no answer in time: what is wrong is the host


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What a service publishes as its limit: one message costs so many seconds of its turn."""

    key: str  #: what is limited: a chat, a bot, a number, an address
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Whether a message may go to its address."""

    mine: bool
    wait_s: float  #: before it goes when the turn is mine, else before it may ask again
