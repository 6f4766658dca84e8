"""The demo's mail server: what it keeps, and how many."""

import mailbox
import socket
from collections import deque
from email.message import EmailMessage
from pathlib import Path

import aiosmtplib
import pytest

from lighthouse.local import inbox
from lighthouse.local.targets import Received


def mail(subject: str) -> EmailMessage:
    found = EmailMessage()
    found["From"], found["To"], found["Subject"] = "a@lighthouse.example", inbox.ADDRESS, subject
    found["Message-ID"] = "<event.channel@lighthouse.example>"
    found.set_content("Hola\n")
    return found


async def put(port: int, subject: str) -> None:
    await aiosmtplib.send(mail(subject), hostname="127.0.0.1", port=port, start_tls=False)


async def test_a_mail_is_kept_as_a_file_and_told_with_its_subject(tmp_path: Path) -> None:
    received: deque[Received] = deque()
    async with inbox.receiving(tmp_path / "mails", received) as running:
        await put(running.port, "Está caído")
    (told,) = received
    assert (told.title, told.how, told.event_id) == ("Está caído", "mail", "event")
    (path,) = (tmp_path / "mails" / "new").iterdir()
    assert path.suffix == ".eml"
    (kept,) = mailbox.Maildir(tmp_path / "mails", create=False)
    assert kept.get_payload().strip() == "Hola"  # type: ignore[union-attr]


async def test_the_oldest_mails_give_way_those_that_were_read_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MOST_MAILS", 3)
    async with inbox.receiving(tmp_path, deque()) as running:
        for number in range(2):
            await put(running.port, str(number))
        for path in (tmp_path / "new").iterdir():
            path.rename(tmp_path / "cur" / f"{path.name}:2,S")
        for number in range(2, 5):
            await put(running.port, str(number))
    assert sorted(kept["Subject"] for kept in mailbox.Maildir(tmp_path)) == ["2", "3", "4"]


async def test_two_demos_have_a_port_each_and_leave_none(tmp_path: Path) -> None:
    async with (
        inbox.receiving(tmp_path / "1", deque()) as first,
        inbox.receiving(tmp_path / "2", deque()) as second,
    ):
        assert first.port != second.port
    for port in (first.port, second.port):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
