"""Email through the operator's mail server: text and HTML, one Message-ID for every try.

There is no endpoint yet that could unsubscribe with one click (RFC 8058), so List-Unsubscribe
names the sender's mailbox and the channel.
"""

import asyncio
import html
import re
import ssl
from dataclasses import dataclass
from email.errors import MessageError
from email.headerregistry import Address, HeaderRegistry, UnstructuredHeader
from email.message import EmailMessage
from email.policy import SMTP, Policy
from email.utils import parseaddr
from urllib.parse import quote, unquote, urlsplit

import aiosmtplib
from pydantic import Field, field_validator

from lighthouse.channels.config import ChannelConfig
from lighthouse.channels.http import Http, certificate_fault, connect_fault, failed, silent
from lighthouse.channels.templates import Message
from lighthouse.channels.texts import clean, clip, one_line
from lighthouse.errors import SettingsError
from lighthouse.model import AlertType, Answer, Severity
from lighthouse.settings import Settings
from lighthouse.urls import normalize_host

#: Mails under way at the same time: servers refuse who opens many connections.
AT_ONCE = 8
SUBJECT_CHARS = 200
TEXT_CHARS = 4000

_PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}
#: The part before the @, without quotes: nobody has a mailbox with them, and they hide things.
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_COLOURS = {Severity.CRITICAL: "#d83c3e", Severity.WARNING: "#e8a33d", Severity.INFO: "#3e7bd8"}
_GREEN = "#2d9d5c"

#: Enhanced status codes (RFC 3463) of a mailbox that is not there: 5.1.x and 5.2.1.
_NO_MAILBOX = re.compile(r"\A5\.(1\.(1|2|3|6|10)|2\.1)\b")
#: Replies to RCPT that say so without one.
_NO_MAILBOX_CODES = frozenset({550, 551, 553})
_ENHANCED = re.compile(r"\A[245]\.\d{1,3}\.\d{1,3}\b")


class _OneLine(UnstructuredHeader):
    """A header in one line: folded, a long URL would become an encoded word that nobody reads."""

    def fold(self, *, policy: Policy) -> str:
        return f"List-Unsubscribe: {self}{policy.linesep}"


_HEADERS = HeaderRegistry()
_HEADERS.map_to_type("list-unsubscribe", _OneLine)  # type: ignore[arg-type]
_POLICY = SMTP.clone(header_factory=_HEADERS)


class EmailConfig(ChannelConfig):
    """Who gets the mails."""

    to: str = Field(description="One mail address, such as ops@example.com.")

    @field_validator("to")
    @classmethod
    def _address(cls, to: str) -> str:
        return _checked(to)


def _checked(address: str) -> str:
    """An address with its domain in ASCII. Raises ValueError."""
    local, at, domain = address.rpartition("@")
    if not at or not _LOCAL.fullmatch(local) or len(local) > 64:
        raise ValueError("is no mail address")
    try:
        host = normalize_host(domain)
    except ValueError:
        raise ValueError("is no mail address: its domain is not valid") from None
    if "." not in host or ":" in host or host.replace(".", "").isdigit():
        raise ValueError("is no mail address: its domain is not valid")
    if len(local) + len(host) + 1 > 254:
        raise ValueError("is longer than 254 characters")
    return f"{local}@{host}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The operator's mail server."""

    scheme: str
    host: str
    port: int
    user: str | None
    password: str | None
    sender: Address


def server(settings: Settings) -> Server:
    """The mail server of the settings. Raises SettingsError with what is missing or wrong."""
    if settings.smtp_url is None:
        raise SettingsError(
            "LIGHTHOUSE_SMTP_URL is not set; email channels need it, as"
            " smtp+starttls://user:password@host:587"
        )
    if not settings.smtp_from:
        raise SettingsError(
            "LIGHTHOUSE_SMTP_FROM is not set; email channels need it, as alerts@example.com"
        )
    name, address = parseaddr(settings.smtp_from)
    try:
        sender = Address(display_name=one_line(name), addr_spec=_checked(address))
    except (ValueError, MessageError):
        raise SettingsError("LIGHTHOUSE_SMTP_FROM: is no mail address") from None
    try:
        split = urlsplit(settings.smtp_url.get_secret_value())
        host, port = split.hostname, split.port
    except ValueError:
        raise SettingsError("LIGHTHOUSE_SMTP_URL: is no valid URL") from None
    if split.scheme not in _PORTS or not host:
        raise SettingsError(
            f"LIGHTHOUSE_SMTP_URL: must start with one of {', '.join(f'{s}://' for s in _PORTS)}"
            " and name a host"
        )
    if split.password and split.scheme == "smtp":
        raise SettingsError(
            "LIGHTHOUSE_SMTP_URL: smtp:// would send the password in clear; use smtp+starttls://"
            " or smtps://"
        )
    if bool(split.username) != bool(split.password):
        lacking = "password" if split.username else "user"
        raise SettingsError(f"LIGHTHOUSE_SMTP_URL: names no {lacking} for the login")
    return Server(
        scheme=split.scheme,
        host=host,
        port=port or _PORTS[split.scheme],
        user=unquote(split.username) if split.username else None,
        password=unquote(split.password) if split.password else None,
        sender=sender,
    )


async def send(http: Http, config: EmailConfig, message: Message) -> Answer:
    """Hand one mail to the server and read its verdict; what bounces later is not read."""
    ours = server(http.settings)
    mail = compose_mail(ours.sender, config.to, message)
    async with http.turn(f"smtp {ours.host}:{ours.port}", at_once=AT_ONCE) as refused:
        if refused is not None:
            return refused
        return await _deliver(http, ours, config.to, mail)


async def _deliver(http: Http, ours: Server, to: str, mail: EmailMessage) -> Answer:
    client = aiosmtplib.SMTP(
        hostname=ours.host,
        port=ours.port,
        use_tls=ours.scheme == "smtps",
        start_tls=False,  # here below, where a server without it can be told from others
        tls_context=http.trust,
        local_hostname=ours.sender.domain,
        timeout=http.timeout_s,
    )
    try:
        async with asyncio.timeout(http.timeout_s):
            await client.connect()
            if ours.scheme == "smtp+starttls":
                await client.ehlo()
                if not client.supports_extension("starttls"):
                    return failed("the mail server offers no STARTTLS")
                await client.starttls()
            if ours.user is not None and ours.password is not None:
                await client.ehlo()
                if not client.supported_auth_methods:
                    return failed("the mail server offers no login")
                await client.login(ours.user, ours.password)
            await client.sendmail(ours.sender.addr_spec, [to], mail.as_bytes())
            return Answer(ok=True, detail="taken by the mail server")
    except TimeoutError:
        return silent(f"no answer within {http.timeout_s:g} s")
    except aiosmtplib.SMTPException as exc:
        return judge(exc)
    except ssl.SSLError as exc:
        return failed(f"TLS: {certificate_fault(exc)}")
    except OSError as exc:
        return silent(connect_fault(exc))
    finally:
        client.close()  # without QUIT's round trip: the mail is the server's already


def judge(exc: aiosmtplib.SMTPException) -> Answer:
    """What the mail server's refusal means for the delivery.

    Only what it says of the recipient ends a channel, only what it says of this mail ends a
    delivery; its opinion of the operator's account or connection is the operator's to repair.
    """
    match exc:
        case aiosmtplib.SMTPTimeoutError():
            return silent("no answer in time")
        case aiosmtplib.SMTPRecipientsRefused(recipients=[first, *_]):
            code, text = first.code, first.message
            told = _told(code, text)
            if code < 500:
                return failed(told)
            enhanced = _ENHANCED.match(text)
            gone = bool(_NO_MAILBOX.match(text)) if enhanced else code in _NO_MAILBOX_CODES
            return Answer(ok=False, detail=told, permanent=True, gone=gone)
        case aiosmtplib.SMTPSenderRefused() | aiosmtplib.SMTPAuthenticationError():
            return failed(f"the sender was refused: {_told(exc.code, exc.message)}")
        case aiosmtplib.SMTPDataError():
            return Answer(ok=False, detail=_told(exc.code, exc.message), permanent=exc.code >= 500)
        case aiosmtplib.SMTPResponseException():
            return failed(_told(exc.code, exc.message))
    cause = exc.__cause__
    if isinstance(cause, ssl.SSLError):
        return failed(f"TLS: {certificate_fault(cause)}")
    if isinstance(cause, OSError):
        return silent(connect_fault(cause))
    return failed(f"the connection broke ({type(exc).__name__})")


def _told(code: int, text: str) -> str:
    """A reply's numbers; its words may quote addresses or a login."""
    enhanced = _ENHANCED.match(text)
    return f"SMTP {code}" + (f" {enhanced[0]}" if enhanced else "")


def compose_mail(sender: Address, to: str, message: Message) -> EmailMessage:
    """The mail; the same for every try."""
    local, _, domain = to.rpartition("@")
    mail = EmailMessage(policy=_POLICY)
    mail["From"] = sender
    mail["To"] = Address(username=local, domain=domain)
    mail["Subject"] = clip(one_line(message.title), SUBJECT_CHARS)
    mail["Date"] = message.at
    mail["Message-ID"] = f"<{message.key}@{sender.domain}>"
    mail["Auto-Submitted"] = "auto-generated"
    channel = message.key.rpartition(".")[2]
    mailbox = quote(sender.addr_spec, safe="@")
    mail["List-Unsubscribe"] = f"<mailto:{mailbox}?subject=unsubscribe%20{channel}>"
    mail.set_content(text_part(message), cte="quoted-printable")
    mail.add_alternative(html_part(message), subtype="html", cte="quoted-printable")
    # A random one would differ at each try; =_ cannot stand in what is quoted-printable, so that no
    # text of a target ends a part.
    mail.set_boundary(f"=_lighthouse-{message.event_id}")
    return mail


def text_part(message: Message) -> str:
    """The mail in plain text."""
    facts = [f"{one_line(fact.label)}: {_cut(fact.value)}" for fact in message.facts]
    parts = [one_line(message.title), _cut(message.message), "\n".join(facts)]
    return "\n\n".join([*(part for part in parts if part), f"-- \nLighthouse {message.reference}"])


def html_part(message: Message) -> str:
    """The mail in HTML: no image, no link, nothing that is fetched."""
    colour = _GREEN if message.kind == AlertType.RECOVERY else _COLOURS[message.severity]
    rows = "".join(
        f'<tr><td style="padding:2px 12px 2px 0;color:#666;vertical-align:top">'
        f"{html.escape(one_line(fact.label))}</td>"
        f'<td style="white-space:pre-wrap;font-family:monospace">'
        f"{html.escape(_cut(fact.value))}</td></tr>"
        for fact in message.facts
    )
    return (
        '<!doctype html><html><body style="font-family:sans-serif;color:#222">'
        f'<h2 style="border-left:6px solid {colour};padding-left:10px">'
        f"{html.escape(one_line(message.title))}</h2>"
        f'<p style="white-space:pre-wrap">{html.escape(_cut(message.message))}</p>'
        f"<table>{rows}</table>"
        f'<p style="color:#999;font-size:12px">Lighthouse · {message.reference}</p>'
        "</body></html>"
    )


def _cut(text: str) -> str:
    return clip(clean(text).strip(), TEXT_CHARS)
