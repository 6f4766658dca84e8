"""The demo's mailbox: a mail server on loopback, which keeps all mails in a Maildir of .eml files.

It relays nothing: whatever it is given, to whomever, ends in this one mailbox.
"""

import asyncio
import contextlib
import mailbox
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email import message_from_bytes, policy
from pathlib import Path
from typing import TYPE_CHECKING

from lighthouse.errors import LocalError
from lighthouse.local.targets import HOST, Received

if TYPE_CHECKING:
    from aiosmtpd.smtp import SMTP, Envelope, Session

#: Whom the demo's mails are for and from: .example belongs to nobody.
ADDRESS = "inbox@lighthouse.example"
SENDER = "Lighthouse <alerts@lighthouse.example>"
#: Tried first, so that other terminals' settings outlast a restart; then any free port.
PORT = 18025
#: Mails that are kept; the oldest give way.
MOST_MAILS = 500
#: Ours are of a few thousand bytes.
MOST_BYTES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Mailbox:
    """The running mail server, and where its mails are kept."""

    port: int
    path: Path

    @property
    def url(self) -> str:
        return f"smtp://{HOST}:{self.port}"


@contextlib.asynccontextmanager
async def receiving(path: Path, received: deque[Received]) -> AsyncIterator[Mailbox]:
    """Take mails on the running loop until the block ends, noting each. Raises LocalError."""
    try:
        from aiosmtpd.smtp import SMTP
    except ImportError as exc:
        raise LocalError(
            "the demo's mail server is not installed: pip install 'lighthouse-monitor[local]'"
        ) from exc
    handler = _Handler(path, received)
    loop = asyncio.get_running_loop()

    def protocol() -> SMTP:
        return SMTP(handler, hostname="lighthouse.example", data_size_limit=MOST_BYTES)

    try:
        server = await loop.create_server(protocol, HOST, PORT)
    except OSError:
        try:
            server = await loop.create_server(protocol, HOST, 0)
        except OSError as exc:
            raise LocalError(f"the demo's mail server cannot listen: {exc.strerror}") from exc
    try:
        yield Mailbox(port=server.sockets[0].getsockname()[1], path=path)
    finally:
        server.close()


class _Handler:
    """Keeps each mail before the server says that it was taken."""

    def __init__(self, path: Path, received: deque[Received]) -> None:
        self._path, self._received = path, received
        for part in ("tmp", "new", "cur"):  # Maildir makes them only together with the directory
            (path / part).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._mails = mailbox.Maildir(path, create=False)
        self._one = asyncio.Lock()  # a Maildir object is not thread-safe

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self,
        server: "SMTP",  # noqa: ARG002
        session: "Session",  # noqa: ARG002
        envelope: "Envelope",
    ) -> str:
        content = envelope.original_content or b""
        async with self._one:
            try:
                await asyncio.to_thread(self._keep, content)
            except OSError as exc:  # a full disk: the sender tries again
                return f"452 4.3.1 the mail cannot be kept: {exc.strerror}"
        mail = message_from_bytes(content, policy=policy.default)
        self._received.append(
            Received(
                at=datetime.now(UTC),
                title=str(mail["Subject"] or ""),
                severity="",
                how="mail",
                event_id=str(mail["Message-ID"] or "").strip("<>").partition(".")[0],
            )
        )
        return "250 2.0.0 taken"

    def _keep(self, content: bytes) -> None:
        name = self._mails.add(content)
        kept = self._path / "new" / name
        kept.rename(kept.with_name(f"{name}.eml"))  # for programs that know a mail by that
        there = sorted(
            (file.stat().st_mtime_ns, file)
            for folder in ("new", "cur")
            for file in (self._path / folder).iterdir()
        )
        for _, file in there[:-MOST_MAILS]:
            file.unlink(missing_ok=True)
