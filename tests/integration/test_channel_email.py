"""Mail against a real server: what arrives, and what its refusals and faults mean."""

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from lighthouse.channels import Sender, require_settings
from lighthouse.errors import SettingsError
from lighthouse.model import (
    AlertType,
    Answer,
    Channel,
    ChannelType,
    Circumstances,
    Delivery,
    Severity,
    to_slot,
)
from lighthouse.settings import Settings, load
from tests.support.certificates import Authority
from tests.support.mail import MailServer

AT = datetime(2026, 11, 24, 3, 45, 10, tzinfo=UTC)
EVENT, CHANNEL = UUID(int=1), UUID(int=2)
LOGIN = ("fleet@example.com", "p@ss/w:ord")
LOGIN_IN_URL = "fleet%40example.com:p%40ss%2Fw%3Aord@"

#: aiosmtpd knows STARTTLS only, and warns of logins under TLS from the first byte.
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")


def settings(server: MailServer, scheme: str = "smtp", login: str = "", **more: str) -> Settings:
    """No network is allowed: the operator's own mail server is not guarded."""
    return load(
        {
            "LIGHTHOUSE_SMTP_URL": f"{scheme}://{login}127.0.0.1:{server.port}",
            "LIGHTHOUSE_SMTP_FROM": '"Lighthouse, the fleet" <alerts@example.com>',
            "LIGHTHOUSE_ALERT_TIMEOUT_S": "5",
            **more,
        }
    )


def delivery(**changes: Any) -> Delivery:
    metadata = {"language": "en", **changes.pop("metadata", {})}
    values: dict[str, Any] = {
        "event_id": EVENT,
        "channel_id": CHANNEL,
        "slot": to_slot(AT),
        "subscription_id": UUID(int=3),
        "subscription_name": "Shop",
        "alert_type": AlertType.DOWNTIME,
        "severity": Severity.CRITICAL,
        "title": "stored title",
        "message": "expected 200, got 503",
        "context": {"name": "Shop", "reason": "status_code", "http_status": 503},
        "attempt": 1,
        "lease_token": uuid4(),
        "created_at": AT,
        "age_s": 0.0,
        "circumstances": Circumstances(now=AT, created_at=AT),
        "channel": Channel(
            id=CHANNEL,
            subscription_id=UUID(int=3),
            channel_type=ChannelType.EMAIL,
            channel_config={"to": "ops@example.org"},
            enabled=True,
            min_severity=Severity.INFO,
            metadata=metadata,
        ),
    }
    return Delivery(**{**values, **changes})


async def answer(ours: Settings, *deliveries: Delivery) -> Answer:
    async with Sender(ours) as sender:
        for each in deliveries or (delivery(),):
            found = await sender.send(each)
            assert "127.0.0.1" not in found.detail
            assert "ss/w" not in found.detail
            assert "\n" not in found.detail
    return found


def parts(server: MailServer) -> tuple[str, str]:
    """The text and the HTML of the only mail."""
    (mail,) = server.mails
    assert mail.get_content_type() == "multipart/alternative"
    text, page = mail.iter_parts()
    assert (text.get_content_type(), page.get_content_type()) == ("text/plain", "text/html")
    return text.get_content(), page.get_content()


def tls(directory: Path, name: str = "127.0.0.1") -> tuple[ssl.SSLContext, dict[str, str]]:
    """A server's context, and the setting that trusts it."""
    authority = Authority(directory)
    certificate = authority.issue(name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert_file, certificate.key_file)
    return context, {"LIGHTHOUSE_CA_FILE": str(authority.ca_file)}


async def test_a_downtime_arrives_as_text_and_as_html() -> None:
    async with MailServer() as server:
        found = await answer(settings(server))
    assert (found.ok, found.detail) == (True, "taken by the mail server")
    assert (server.senders, server.recipients) == (["alerts@example.com"], [["ops@example.org"]])
    (mail,) = server.mails
    assert mail["From"] == '"Lighthouse, the fleet" <alerts@example.com>'
    assert mail["To"] == "ops@example.org"
    assert mail["Subject"] == "Shop is down"
    assert mail["Date"].datetime == AT
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["List-Unsubscribe"] == (
        f"<mailto:alerts@example.com?subject=unsubscribe%20{CHANNEL}>"
    )
    text, page = parts(server)
    for shown in (text, page):
        assert "The check of 2026-11-24 03:45:10 UTC failed." in shown
        assert "expected 200, got 503" in shown
        assert "unexpected HTTP status" in shown
        assert str(EVENT) in shown


async def test_every_try_is_the_same_mail_byte_for_byte() -> None:
    async with MailServer() as server:
        await answer(settings(server), delivery(), delivery(attempt=7, age_s=900.0))
    first, second = server.raw
    assert first == second
    # In one piece, although longer than lines are folded at: receivers compare it as it is.
    assert f"\r\nMessage-ID: <{EVENT}.{CHANNEL}@example.com>\r\n".encode() in first


async def test_another_event_and_another_channel_have_message_ids_of_their_own() -> None:
    async with MailServer() as server:
        await answer(
            settings(server), delivery(), delivery(event_id=uuid4()), delivery(channel_id=uuid4())
        )
    assert len({mail["Message-ID"] for mail in server.mails}) == 3


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", "\u2028", "\x85", "\x0b", "\x00"])
async def test_no_text_of_a_target_makes_a_header(end: str) -> None:
    evil = f"Shop{end}Bcc: victim@example.net{end}{end}<b>body</b>"
    context = {"name": evil, "reason": evil, "http_status": 503}
    async with MailServer() as server:
        found = await answer(
            settings(server),
            delivery(subscription_name=evil, title=evil, message=evil, context=context),
        )
    assert found.ok
    assert server.recipients == [["ops@example.org"]]
    (mail,) = server.mails
    assert sorted(mail.keys()) == [
        *("Auto-Submitted", "Content-Type", "Date", "From", "List-Unsubscribe", "MIME-Version"),
        *("Message-ID", "Subject", "To"),
    ]
    assert mail["Subject"].startswith("Shop")
    assert mail["Subject"].endswith("<b>body</b> is down")


async def test_what_a_target_sent_is_text_in_the_html_and_does_not_end_the_mail() -> None:
    evil = (
        "<script>alert(1)</script><img src=x onerror='y'>&amp;\r\n.\r\nQUIT\r\n"
        '\u202egnp\u2066 "quoted" ñ 🔥'
    )
    async with MailServer() as server:
        assert (await answer(settings(server), delivery(message=evil))).ok
    text, page = parts(server)
    assert "<script>alert(1)</script>" in text
    assert "\n.\nQUIT\n" in text.replace("\r\n", "\n")
    assert '"quoted" ñ 🔥' in text
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&lt;img" in page
    assert "&amp;amp;" in page
    for shown in (text, page):
        assert "\u202e" not in shown
        assert "\u2066" not in shown
        assert str(EVENT) in shown.splitlines()[-1]


async def test_not_even_the_mail_s_own_boundary_in_a_target_s_text_ends_a_part() -> None:
    async with MailServer() as server:
        assert (await answer(settings(server))).ok
        boundary = server.mails[0].get_boundary()
        server.raw.clear()
        evil = f"before\r\n--{boundary}--\r\n--{boundary}\r\nContent-Type: text/html\r\n\r\nafter"
        assert (await answer(settings(server), delivery(message=evil))).ok
    assert server.mails[0].get_boundary() == boundary
    for shown in parts(server):
        assert f"--{boundary}--" in shown
        assert "after" in shown


async def test_long_texts_are_cut_and_no_line_is_longer_than_mail_allows() -> None:
    async with MailServer() as server:
        found = await answer(
            settings(server),
            delivery(message="x" * 50_000, subscription_name="名" * 400),
        )
    assert found.ok
    assert len(server.raw[0]) < 40_000
    assert max(len(line) for line in server.raw[0].split(b"\r\n")) <= 998
    assert len(server.mails[0]["Subject"]) <= 200


async def test_a_mail_is_in_the_channel_s_language_and_time_zone() -> None:
    metadata = {"language": "es", "timezone": "Europe/Madrid"}
    async with MailServer() as server:
        assert (await answer(settings(server), delivery(metadata=metadata))).ok
    assert server.mails[0]["Subject"] == "Shop está caído"
    text, page = parts(server)
    for shown in (text, page):
        assert "2026-11-24 04:45:10 CET" in shown
        assert "Estado HTTP" in shown


async def test_starttls_comes_before_the_login_and_the_mail(tmp_path: Path) -> None:
    context, ours = tls(tmp_path)
    async with MailServer(starttls=context, login=LOGIN) as server:
        found = await answer(settings(server, "smtp+starttls", LOGIN_IN_URL, **ours))
    assert found.ok
    assert server.users == [LOGIN[0]]
    assert server.encrypted == [True]


async def test_tls_from_the_first_byte_with_a_login(tmp_path: Path) -> None:
    context, ours = tls(tmp_path)
    async with MailServer(tls=context, login=LOGIN) as server:
        found = await answer(settings(server, "smtps", LOGIN_IN_URL, **ours))
    assert found.ok
    assert server.users == [LOGIN[0]]


async def test_a_server_without_starttls_gets_neither_password_nor_mail(tmp_path: Path) -> None:
    async with MailServer() as server:
        found = await answer(settings(server, "smtp+starttls", LOGIN_IN_URL))
    assert (found.ok, found.permanent) == (False, False)
    assert found.detail == "the mail server offers no STARTTLS"
    assert server.raw == []


async def test_a_server_without_a_login_gets_no_mail_from_a_user(tmp_path: Path) -> None:
    context, ours = tls(tmp_path)
    async with MailServer(starttls=context, no_auth=True) as server:
        found = await answer(settings(server, "smtp+starttls", LOGIN_IN_URL, **ours))
    assert (found.ok, found.permanent) == (False, False)
    assert found.detail == "the mail server offers no login"
    assert server.raw == []


@pytest.mark.parametrize("scheme", ["smtp+starttls", "smtps"])
async def test_a_certificate_that_is_not_trusted_gets_no_password(
    scheme: str, tmp_path: Path
) -> None:
    context, _ = tls(tmp_path)
    served: dict[str, Any] = {"starttls" if scheme == "smtp+starttls" else "tls": context}
    async with MailServer(login=LOGIN, **served) as server:
        found = await answer(settings(server, scheme, LOGIN_IN_URL))
    assert (found.ok, found.permanent) == (False, False)
    assert found.detail.startswith("TLS: the certificate is not valid (")
    assert (server.users, server.raw) == ([], [])


async def test_a_certificate_for_another_host_is_told_as_such(tmp_path: Path) -> None:
    context, ours = tls(tmp_path, "other.example")
    async with MailServer(starttls=context) as server:
        found = await answer(settings(server, "smtp+starttls", **ours))
    assert (found.permanent, found.detail) == (False, "TLS: the certificate is for another host")


async def test_a_wrong_password_is_the_operator_s_to_repair(tmp_path: Path) -> None:
    context, ours = tls(tmp_path)
    async with MailServer(starttls=context, login=LOGIN) as server:
        found = await answer(settings(server, "smtp+starttls", "someone:wrong@", **ours))
    assert (found.ok, found.permanent) == (False, False)
    assert found.detail == "the sender was refused: SMTP 535 5.7.8"
    assert server.raw == []


@pytest.mark.parametrize(
    ("verb", "reply", "detail", "permanent", "gone"),
    [
        ("MAIL", "451 4.7.1 greylisted", "the sender was refused: SMTP 451 4.7.1", False, False),
        ("MAIL", "550 5.7.1 not you", "the sender was refused: SMTP 550 5.7.1", False, False),
        ("RCPT", "450 4.2.0 try later ops@x", "SMTP 450 4.2.0", False, False),
        ("RCPT", "452 4.2.2 mailbox full", "SMTP 452 4.2.2", False, False),
        ("RCPT", "550 5.1.1 no such user ops@x", "SMTP 550 5.1.1", True, True),
        ("RCPT", "550 5.2.1 disabled", "SMTP 550 5.2.1", True, True),
        ("RCPT", "550 no such user", "SMTP 550", True, True),
        ("RCPT", "550 5.7.1 blocked by policy", "SMTP 550 5.7.1", True, False),
        ("RCPT", "552 5.2.2 mailbox full", "SMTP 552 5.2.2", True, False),
        ("DATA", "451 4.3.0 queue", "SMTP 451 4.3.0", False, False),
        ("DATA", "554 5.7.1 spam", "SMTP 554 5.7.1", True, False),
    ],
)
async def test_a_refusal_ends_what_it_speaks_of(
    verb: str, reply: str, detail: str, permanent: bool, gone: bool
) -> None:
    async with MailServer() as server:
        server.refuse[verb] = reply
        found = await answer(settings(server))
    assert (found.ok, found.detail) == (False, detail)
    assert (found.permanent, found.gone) == (permanent, gone)


async def test_a_connection_that_drops_after_the_mail_means_the_same_mail_again() -> None:
    async with MailServer() as server:
        server.cut_after_data = True
        lost = await answer(settings(server))
        server.cut_after_data = False
        again = await answer(settings(server), delivery(attempt=2))
    assert (lost.ok, lost.permanent) == (False, False)
    assert lost.detail == "the connection broke (SMTPServerDisconnected)"
    assert again.ok
    assert server.raw[0] == server.raw[1]


async def test_a_server_that_never_answers_is_left_at_the_deadline() -> None:
    async with MailServer() as server:
        server.silent = True
        found = await answer(settings(server, LIGHTHOUSE_ALERT_TIMEOUT_S="0.3"))
    assert (found.ok, found.permanent) == (False, False)
    assert found.detail == "no answer within 0.3 s"


async def test_a_server_that_is_not_there_is_tried_again() -> None:
    async with MailServer() as server:
        ours = settings(server)
    found = await answer(ours)
    assert (found.ok, found.permanent) == (False, False)
    assert found.detail == "the connection was refused"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("smtps://user@mail.example", "LIGHTHOUSE_SMTP_URL: names no password for the login"),
        ("smtp://user@mail.example", "LIGHTHOUSE_SMTP_URL: names no password for the login"),
        ("smtps://:word@mail.example", "LIGHTHOUSE_SMTP_URL: names no user for the login"),
        ("smtp://u:word@mail.example", "LIGHTHOUSE_SMTP_URL: smtp:// would send the password in"),
        ("http://mail.example", "LIGHTHOUSE_SMTP_URL: must start with one of smtp://,"),
        ("smtps://mail.example:x", "LIGHTHOUSE_SMTP_URL: is no valid URL"),
    ],
)
def test_a_wrong_mail_server_is_refused_in_one_line_without_its_password(
    url: str, told: str
) -> None:
    ours = load({"LIGHTHOUSE_SMTP_URL": url, "LIGHTHOUSE_SMTP_FROM": "alerts@example.com"})
    with pytest.raises(SettingsError) as caught:
        require_settings(ChannelType.EMAIL, ours)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)
    assert ":word" not in str(caught.value)
