"""Sends one message after another through apprise, as JSON lines on standard input ask for.

Each line is a job, {"url", "title", "body", "kind"} (without "kind" only the URL is judged), and is
answered by one line, {"ok", "why"}. Apprise's own words are dropped: they may hold the URL.
It ends when its input ends, whatever it is doing.

Usage: python -m lighthouse.apprised NETWORK,…|"" CA_FILE|"" - the networks that may be connected to
although private, and the authorities that are trusted beside the usual ones.
"""

import json
import logging
import os
import queue
import sys
import threading
from typing import Any, BinaryIO

from lighthouse.apprised.guard import LOCAL, Guard, networks, trust

UNKNOWN = "apprise knows no such service"
UNFIT = "the URL is not complete for its service"
UNSERVED = "the service needs a Python package that is not installed here"


class Sender:
    """Owns the library, which is loaded here for the first time."""

    def __init__(self, guard: Guard) -> None:
        from apprise import AppriseAsset
        from apprise.common import PersistentStoreMode

        logging.disable(logging.CRITICAL)
        self._guard = guard
        self._asset = AppriseAsset(
            storage_mode=PersistentStoreMode.MEMORY,
            allow_templates=False,
            service_timeout=0,  # the parent has the deadline
        )
        self._asset.async_mode = False
        self._asset.http_redirects = False
        self._asset.pgp_autogen = self._asset.pem_autogen = False
        self._asset.app_id = self._asset.app_desc = "Lighthouse"

    def do(self, job: dict[str, Any]) -> dict[str, Any]:
        """Judge a URL, or send; what the library raises is an answer too."""
        self._guard.refusal = ""
        try:
            answer = self._do(job)
        except Exception as exc:  # noqa: BLE001 - a plugin may raise anything; its text may hold the URL
            answer = {"ok": False, "why": f"apprise failed ({type(exc).__name__})"}
        if not answer["ok"] and self._guard.refusal:
            answer = {"ok": False, "why": self._guard.refusal}
        return answer

    def _do(self, job: dict[str, Any]) -> dict[str, Any]:
        from apprise import Apprise, AppriseAttachment, NotifyFormat
        from apprise.manager_plugins import NotificationManager

        url: str = job["url"]
        manager: Any = NotificationManager()  # type: ignore[no-untyped-call]
        scheme = url.partition("://")[0].lower()
        native = scheme in ("http", "https")
        if not native and scheme not in manager:
            return {"ok": False, "why": UNKNOWN}
        if not native and not manager[scheme].enabled:
            return {"ok": False, "why": UNSERVED}
        service = Apprise.instantiate(url, asset=self._asset)
        if service is None:
            return {"ok": False, "why": UNKNOWN if native else UNFIT}
        if not native and scheme not in _schemes(service):  # its parser read another one
            return {"ok": False, "why": UNKNOWN}
        files = [value for value in vars(service).values() if isinstance(value, AppriseAttachment)]
        if any(len(found) for found in files):
            return {"ok": False, "why": LOCAL}
        if "kind" not in job:
            return {"ok": True}
        sending = Apprise(asset=self._asset)
        sending.add(service)
        sent = sending.notify(
            title=job["title"],
            body=job["body"],
            notify_type=job["kind"],
            body_format=NotifyFormat.TEXT,
        )
        return {"ok": bool(sent), "why": "apprise could not deliver it"}


def _schemes(service: Any) -> set[str]:
    found: set[str] = set()
    for given in (service.protocol, service.secure_protocol):
        found.update((given,) if isinstance(given, str) else given or ())
    return found


def _read(lines: "queue.SimpleQueue[bytes]", source: BinaryIO) -> None:
    for line in source:
        lines.put(line)
    os._exit(0)  # the parent has gone; nobody hears what a plugin still does


def main(allow: str, ca_file: str) -> None:
    """Answer jobs until the input ends."""
    answers = os.fdopen(os.dup(1), "wb")  # apart from what a plugin prints
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(nothing, descriptor)
    guard = Guard(networks(allow))
    if ca_file:
        trust(ca_file)
    guard.install()
    sender = Sender(guard)
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines, sys.stdin.buffer), daemon=True).start()
    while True:
        answer = sender.do(json.loads(lines.get()))
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
