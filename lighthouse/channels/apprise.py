"""Everything else that the apprise library reaches through one URL, where the operator allows it.

The library sends in child processes (`lighthouse.apprised`), never here: its plugins block, each
with a network library of its own, and only a process can be guarded and killed as a whole. It tells
no more than whether it could deliver, so no failure of it ends a delivery or a channel.
"""

import asyncio
import json
import re
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from lighthouse.channels.config import ChannelConfig
from lighthouse.channels.http import PATIENCE_S, Http, failed, held, silent
from lighthouse.channels.templates import Message
from lighthouse.channels.texts import clean, clip, one_line
from lighthouse.configs import Secret
from lighthouse.errors import ConfigError, SettingsError
from lighthouse.model import AlertType, Answer, Severity
from lighthouse.settings import Settings, bare_environment

#: Child processes of one worker, each with one message under way and about 40 MB.
CHILDREN = 4
#: Seconds that judging a URL may take: the library's start, no network.
JUDGE_S = 20.0
#: Seconds after which a message that found no child free may come again.
COME_AGAIN_S = 2.0

TITLE_CHARS = 200
#: Of what a target sent. Services cut at 1,000 characters and more, and that would lose the rest.
QUOTED_CHARS = 600
BODY_CHARS = 1500

_SCHEME = re.compile(r"\A([a-z][a-z0-9+.-]*)://[^\s\x00-\x20\x7f]*\Z", re.IGNORECASE)

#: Services that work on the machine itself (its desktop, log, devices, files, programs) or only
#: name another place that says where to go.
_LOCAL = frozenset(
    {
        *("blink1", "dbus", "deltachat", "glib", "gnome", "kde", "macosx", "qt", "syslog"),
        *("vapid", "windows"),
    }
)
_INDIRECT = frozenset({"apprise", "apprises", "file", "memory", "text", "stdin"})

_KINDS = {Severity.CRITICAL: "failure", Severity.WARNING: "warning", Severity.INFO: "info"}


class AppriseConfig(ChannelConfig):
    """Where the messages go."""

    url: Secret = Field(
        repr=False, description="One URL of the apprise library, such as ntfy://host/topic."
    )

    @field_validator("url")
    @classmethod
    def _remote(cls, url: str) -> str:
        found = _SCHEME.fullmatch(url)
        if found is None:
            raise ValueError("is no URL, or holds a space or control character")
        scheme = found[1].lower()
        if scheme in _LOCAL:
            raise ValueError(f"{scheme}:// would work on this machine, not over the network")
        if scheme in _INDIRECT:
            raise ValueError(f"{scheme}:// only leads to other URLs; give the service's own")
        return url

    @property
    def foreign_host(self) -> str:
        """What stands for the host, which for many services is a token: it must not be read."""
        with suppress(ValueError):
            split = urlsplit(self.url)
            return sha256(f"{split.scheme} {split.hostname}".encode()).hexdigest()[:16]
        return ""


def installed(settings: Settings) -> None:
    """Make sure that the operator allows the type and has the library. Raises SettingsError."""
    if settings.apprise != "on":
        raise SettingsError("LIGHTHOUSE_APPRISE is not on; apprise channels need it")
    if not _there():
        raise SettingsError(
            "the package apprise is not installed; apprise channels need it:"
            " pip install 'lighthouse-monitor[apprise]'"
        )


def judge(config: AppriseConfig) -> None:
    """Ask the library whether it takes a URL; without one `installed` tells. Raises ConfigError."""
    if not _there():
        return
    child = Child()
    try:
        answer = child.ask({"url": config.url}, JUDGE_S)
    except OSError:
        raise ConfigError("apprise could not judge it", "url") from None
    finally:
        child.close()
    if not answer["ok"]:
        raise ConfigError(answer["why"], "url")


def _there() -> bool:
    return find_spec("apprise") is not None


async def send(http: Http, config: AppriseConfig, message: Message) -> Answer:
    """Have one message sent by a child, in its turn at the address."""
    job = {
        "url": config.url,
        "title": clip(one_line(message.title), TITLE_CHARS),
        "body": body(message),
        "kind": "success" if message.kind == AlertType.RECOVERY else _KINDS[message.severity],
    }
    async with http.turn(config.url, at_once=1) as refused:
        return refused if refused is not None else await http.keep(Children).send(job)


def body(message: Message) -> str:
    """The message in plain text, with what a target sent mentioning nobody."""
    facts = [
        f"{one_line(fact.label)}: {_quoted(fact.value) if fact.quoted else one_line(fact.value)}"
        for fact in message.facts
    ]
    end = f"\n\nLighthouse {message.reference}"
    parts = [clean(message.message).strip(), "\n".join(facts)]
    return clip("\n\n".join(part for part in parts if part), BODY_CHARS - len(end)) + end


def _quoted(text: str) -> str:
    cut = clip(clean(text).strip(), QUOTED_CHARS)
    # An invisible space, for services call everybody at @everyone and <!channel>.
    return cut.replace("@", "@\u200b").replace("<!", "<\u200b!")


class Children:
    """The children of one sender, each started when no other one is free. Not thread-safe."""

    def __init__(self, settings: Settings) -> None:
        allow = ",".join(map(str, settings.egress_allow))
        authorities = "" if settings.ca_file is None else str(settings.ca_file.absolute())
        self._argv = (allow, authorities)
        self._timeout_s = settings.alert_timeout_s
        self._slots = asyncio.Semaphore(CHILDREN)
        self._threads = ThreadPoolExecutor(CHILDREN, thread_name_prefix="apprise")
        self._idle: list[Child] = []
        self._busy: set[Child] = set()

    async def send(self, job: Mapping[str, Any]) -> Answer:
        """The answer of a child, within the timeout."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._slots.acquire()
        except TimeoutError:
            return held("waits for other messages through apprise", COME_AGAIN_S)
        child = self._free()
        self._busy.add(child)
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, child.send, job, self._timeout_s
            )
        except asyncio.CancelledError:
            child.kill()  # its thread hears of it at once
            raise
        finally:
            self._busy.discard(child)
            if child.alive:
                self._idle.append(child)
            self._slots.release()

    def _free(self) -> "Child":
        while self._idle:
            child = self._idle.pop()
            if child.alive:
                return child
            child.close()  # it died between two messages
        return Child(self._argv)

    def close(self) -> None:
        """End all of them."""
        for child in self._busy:
            child.kill()
        for child in self._idle:
            child.close()
        self._idle.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)


class Child:
    """One process that sends, one message at a time; started at its first job."""

    def __init__(self, argv: tuple[str, str] = ("", "")) -> None:
        self._argv = argv
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    @property
    def alive(self) -> bool:
        """Whether it may be asked again."""
        return self._process is not None and not self._closed and self._process.poll() is None

    def send(self, job: Mapping[str, Any], timeout_s: float) -> Answer:
        """What became of a message. A child that hangs or dies is not asked again."""
        try:
            answer = self.ask(job, timeout_s)
        except TimeoutError:
            self.close()
            return silent(f"no answer within {timeout_s:g} s")
        except OSError:
            self.close()
            return failed("the process that runs apprise ended")
        return Answer(ok=True, detail="taken") if answer["ok"] else failed(answer["why"])

    def ask(self, job: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Its answer to a job. Raises TimeoutError, and OSError when it ends or cannot start."""
        end = time.monotonic() + timeout_s
        process = self._process = self._process or self._start()
        if self._closed:  # meanwhile
            raise OSError("it was closed")
        if process.stdin is None or process.stdout is None:
            raise OSError("it has no pipes")
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
        output = select.poll()  # select() knows no descriptor above 1023
        output.register(process.stdout, select.POLLIN)
        line = bytearray()
        while not line.endswith(b"\n"):
            left_s = end - time.monotonic()
            if left_s <= 0 or not output.poll(left_s * 1000):
                raise TimeoutError
            chunk = process.stdout.read1(65536)  # type: ignore[attr-defined]
            if not chunk:
                raise OSError("it ended")
            line += chunk
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "lighthouse.apprised", *self._argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=bare_environment(),
            start_new_session=True,
        )

    def kill(self) -> None:
        """End it beside a thread that asks it, which then closes it."""
        self._closed = True
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End it, whatever it is doing."""
        self.kill()
        if self._process is None:
            return
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
