"""A real mail server on loopback (aiosmtpd), on the test's own loop, that misbehaves when told."""

import asyncio
import ssl
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from types import TracebackType
from typing import Any, Self

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


class MailServer:
    """Keeps each mail it takes in `mails`, and as bytes in `raw`.

    `refuse` maps a verb (MAIL, RCPT, DATA) to the reply that it gets instead; DATA's is the reply
    to the whole mail. `cut_after_data` drops the connection once a mail was taken, before the
    reply. `silent` never answers a mail. A `login` is offered and demanded, under TLS only.
    """

    def __init__(
        self,
        *,
        starttls: ssl.SSLContext | None = None,
        tls: ssl.SSLContext | None = None,
        login: tuple[str, str] | None = None,
        no_auth: bool = False,
    ) -> None:
        self._starttls = starttls
        self._tls = tls
        self._login = login
        self._no_auth = no_auth
        self.raw: list[bytes] = []
        self.senders: list[str] = []
        self.recipients: list[list[str]] = []
        self.encrypted: list[bool] = []
        self.users: list[str] = []
        self.refuse: dict[str, str] = {}
        self.cut_after_data = False
        self.silent = False
        self.port = 0

    @property
    def mails(self) -> list[EmailMessage]:
        found = [message_from_bytes(raw, policy=default) for raw in self.raw]
        return [mail for mail in found if isinstance(mail, EmailMessage)]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(
            self._protocol, "127.0.0.1", 0, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()

    def _protocol(self) -> SMTP:
        return SMTP(
            self,
            hostname="mail.test",
            tls_context=self._starttls,
            auth_required=self._login is not None,
            auth_require_tls=self._tls is None,
            auth_exclude_mechanism=("LOGIN", "PLAIN") if self._no_auth else None,
            authenticator=self._authenticate if self._login is not None else None,
        )

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        given = (data.login.decode(), data.password.decode())
        self.users.append(given[0])
        return AuthResult(success=given == self._login, handled=False)

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        options: list[str],
    ) -> str:
        if "MAIL" in self.refuse:
            return self.refuse["MAIL"]
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(  # noqa: N802
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        options: list[str],
    ) -> str:
        if "RCPT" in self.refuse:
            return self.refuse["RCPT"]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        if "DATA" in self.refuse:
            return self.refuse["DATA"]
        assert isinstance(envelope.content, bytes)
        self.raw.append(envelope.content)
        self.senders.append(envelope.mail_from or "")
        self.recipients.append(list(envelope.rcpt_tos))
        self.encrypted.append(session.ssl is not None or self._tls is not None)
        if self.silent:
            await asyncio.sleep(30)
        if self.cut_after_data:
            assert server.transport is not None
            server.transport.abort()
        return "250 2.0.0 taken"
