"""`lighthouse up`: servers, schema, beat, workers and Flower on this machine, kept running."""

import asyncio
import errno
import shlex
import shutil
import signal
import socket
import sys
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import click
from pydantic import SecretStr
from rich.console import Console
from rich.live import Live

from lighthouse.errors import LighthouseError, LocalError
from lighthouse.local import certificates, demo, inbox, secret_key, servers, targets
from lighthouse.local.processes import Program
from lighthouse.local.screen import FRAME_LINES, View, render
from lighthouse.local.supervisor import Supervisor
from lighthouse.probes.wire.curl import find_ca_file
from lighthouse.schedule.client import check_server
from lighthouse.sealing import Keyring
from lighthouse.settings import Settings, current, variable
from lighthouse.store import history, metrics, migrate
from lighthouse.store.pool import Pool, open_pool, reach

#: How often the table is read anew, in seconds.
_REFRESH_S = 1.0
#: How often it is printed when nobody looks at a terminal, in seconds.
_SNAPSHOT_S = 5.0
#: Columns of a table that goes into a file or pipe.
_PIPE_WIDTH = 140
#: What Celery needs beyond the probes' own time to end.
_CELERY_STOP_S = 15.0
_FLOWER_PORT = 5555


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line asked for."""

    demo: bool
    data_dir: Path
    workers: int


@click.command("up")
@click.option("--demo", is_flag=True, help="Also run a small service, and watch it.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".lighthouse"),
    show_default=True,
    help="Where the embedded servers keep their data, and all logs are.",
)
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True)
def up(demo: bool, data_dir: Path, workers: int) -> None:
    """Run everything on this machine, until Ctrl-C.

    PostgreSQL and Redis are embedded, unless DATABASE_URL and REDIS_URL name others.
    """
    options = Options(demo=demo, data_dir=data_dir, workers=workers)
    try:
        asyncio.run(_Up(options, current()).run())
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LocalError(f"the disk is full; free some space at {data_dir}") from exc
        raise LocalError(f"{data_dir} cannot be used: {exc}") from exc


def _refuse_what_ended(database_url: str, directory: Path) -> None:
    """Raise LocalError for a server of this directory, which cannot be running: we hold it."""
    if f"{directory.resolve()}/" in unquote(database_url):
        raise LocalError(
            f"DATABASE_URL comes of an earlier fleet in {directory}, as its env file had it;"
            " open a new terminal"
        )


class _Up:
    """One run of the command."""

    def __init__(self, options: Options, settings: Settings) -> None:
        self._options, self._settings = options, settings
        self._stopping = asyncio.Event()
        self._asked_at = 0.0
        self._title = ""

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._ask)
        with servers.locked(self._options.data_dir) as directory:
            self._supervisor = Supervisor(directory / "logs")
            try:
                async with AsyncExitStack() as stack:
                    await self._run(directory, stack)
            finally:
                await self._supervisor.stop()

    def _ask(self) -> None:
        """End; asked again a moment later (not by the same key press), end at once."""
        if not self._stopping.is_set():
            self._asked_at = time.monotonic()
            self._stopping.set()
        elif time.monotonic() - self._asked_at > 1.0:
            self._supervisor.hurry()

    async def _run(self, directory: Path, stack: AsyncExitStack) -> None:
        environment = await self._servers(directory)
        if self._stopping.is_set():
            return
        found: targets.Targets | None = None
        mails: inbox.Mailbox | None = None
        if self._options.demo:
            bundle = Path(find_ca_file(self._settings.ca_file))
            served, authorities = certificates.issue(directory, bundle)
            found = await stack.enter_async_context(targets.serving(served))
            if not self._settings.smtp_url:  # else mails are the user's, and none is made up
                mails = await stack.enter_async_context(
                    inbox.receiving(directory / "mails", found.inbox)
                )
                environment[variable("smtp_url")] = mails.url
                environment[variable("smtp_from")] = self._settings.smtp_from or inbox.SENDER
            if not self._settings.reference_targets:
                environment[variable("reference_targets")] = found.reference_url
            environment["LIGHTHOUSE_CA_FILE"] = str(authorities)
            environment["LIGHTHOUSE_EGRESS_ALLOW"] = ",".join(
                [*map(str, self._settings.egress_allow), "127.0.0.0/8"]
            )
        if not self._settings.secret_keys:
            environment[variable("secret_keys")] = secret_key.kept(directory)
        if "plans" not in self._settings.model_fields_set:
            environment["LIGHTHOUSE_PLANS"] = "off"  # who runs all of it sells nothing
        self._note(directory, environment, stack)
        # Before targets and servers: it still hears and writes what its last probes find.
        stack.push_async_callback(self._supervisor.stop, frozenset(self._fleet(environment)))
        pool = await stack.enter_async_context(
            open_pool(environment["DATABASE_URL"], maximum=2, application="lighthouse-up")
        )
        if found is not None:
            given = environment.get(variable("secret_keys"))
            keys = [SecretStr(given)] if given else self._settings.secret_keys
            await demo.subscribe(pool, found, Keyring(keys), mails=mails is not None)
            stack.push_async_callback(_pause, pool)
        await self._show(pool, found, mails)

    async def _servers(self, directory: Path) -> dict[str, str]:
        """Servers that answer and a schema that is ours; the URLs, for the fleet."""
        logs, settings = directory / "logs", self._settings
        urls = {
            "DATABASE_URL": settings.database_url.get_secret_value(),
            "REDIS_URL": settings.redis_url.get_secret_value(),
        }
        _refuse_what_ended(urls["DATABASE_URL"], directory)
        embedded: list[tuple[str, servers.Server]] = []
        if not urls["DATABASE_URL"]:
            embedded.append(("DATABASE_URL", servers.prepare_postgres(directory, logs=logs)))
        if not urls["REDIS_URL"]:
            embedded.append(("REDIS_URL", servers.prepare_redis(directory, logs=logs)))
        running = [
            (name, server, self._supervisor.add(server.program)) for name, server in embedded
        ]
        for name, server, process in running:
            # In a thread: after a crash a log is replayed first, and Ctrl-C is still heard.
            await asyncio.to_thread(servers.await_ready, server, process)
            urls[name] = server.url
        await reach(urls["DATABASE_URL"])
        await asyncio.to_thread(check_server, urls["REDIS_URL"])
        migrated = await asyncio.to_thread(
            migrate.upgrade, urls["DATABASE_URL"], settings.raw_history_days
        )
        if migrated.before != migrated.after:
            _say(f"The database's schema is now {migrated.after}")
        where = " and ".join(server.program.name for _, server in embedded)
        self._title = f"Lighthouse · {f'embedded {where}' if where else 'your servers'}"
        return urls

    def _note(self, directory: Path, environment: dict[str, str], stack: AsyncExitStack) -> None:
        """Leave the fleet's environment for the `lighthouse` commands of other terminals."""
        environment = {**_given(self._settings), **environment}
        path = directory / "env"
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(
            "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
        )
        stack.callback(path.unlink, missing_ok=True)
        command = (
            "lighthouse"
            if shutil.which("lighthouse")
            else str(Path(sys.executable).with_name("lighthouse"))
        )
        _say(f"In another terminal: . {shlex.quote(str(path))} && {shlex.quote(command)} status")

    def _fleet(self, environment: dict[str, str]) -> list[str]:
        """Start beat, workers and Flower; their names."""
        celery = (sys.executable, "-m", "celery", "-A", "lighthouse.fleet")
        stop_s = self._settings.shutdown_s + _CELERY_STOP_S

        names: list[str] = []

        def add(name: str, *argv: str) -> None:
            names.append(name)
            self._supervisor.add(
                Program(name=name, argv=(*celery, *argv), environment=environment, stop_s=stop_s)
            )

        add("beat", "beat")
        for number in range(1, self._options.workers + 1):
            name = f"worker-{number}"
            add(name, "worker", "-n", f"{name}@%h", "--without-gossip", "--without-mingle")
        port = _flower_port()
        add("flower", "flower", f"--address={targets.HOST}", f"--port={port}")
        workers = f"{self._options.workers} worker{'s' if self._options.workers > 1 else ''}"
        self._title += f" · beat, {workers} · Flower http://{targets.HOST}:{port}"
        return names

    async def _show(
        self, pool: Pool, found: targets.Targets | None, mails: inbox.Mailbox | None
    ) -> None:
        """Draw the table, and keep everything running, until asked to stop."""
        console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
        rows = max(5, console.height - FRAME_LINES) if console.is_terminal else 200
        view = View(title=self._title, mails="" if mails is None else str(mails.path))
        reader = _Reader(pool, view, rows)
        reading = asyncio.create_task(reader.run())
        live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        printed = 0.0
        try:
            if live is not None:
                live.start()
            while not self._stopping.is_set():
                self._supervisor.check()
                if reading.done():
                    reading.result()  # it never returns, so this raises what ended it
                view = replace(
                    reader.view,
                    alerts=None if found is None else tuple(found.inbox),
                    troubles=[*self._supervisor.troubles(), *reader.troubles],
                )
                now = time.monotonic()
                if live is not None:
                    live.update(render(view, datetime.now(UTC)), refresh=True)
                elif now - printed >= _SNAPSHOT_S and reader.reads:
                    console.print(render(view, datetime.now(UTC)))
                    printed = now
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), 0.5)
        finally:
            while not reading.done():
                # Until it is heard: Python 3.11's wait_for, which psycopg uses, may lose one.
                reading.cancel()
                await asyncio.wait([reading], timeout=0.5)
            if live is not None:
                live.stop()
            _say("Ending …")


class _Reader:
    """Reads the table's contents again and again; while that fails, the last ones stay."""

    def __init__(self, pool: Pool, view: View, limit: int) -> None:
        self.view = view
        self.troubles: list[str] = []
        self.reads = 0
        self._pool, self._limit = pool, limit

    async def run(self) -> None:
        while True:
            try:
                rows = await history.overview(self._pool, limit=self._limit)
                uptimes = await metrics.summaries(self._pool, [row.id for row in rows])
            except LighthouseError as exc:
                self.troubles = [str(exc)]
            else:
                self.view = replace(self.view, rows=rows, uptimes=uptimes)
                self.troubles = []
                self.reads += 1
            await asyncio.sleep(_REFRESH_S)


async def _pause(pool: Pool) -> None:
    with suppress(LighthouseError):  # the database has gone: the next run finds them active
        await demo.pause(pool)


def _given(settings: Settings) -> dict[str, str]:
    """The settings that we were given and by which commands judge as the fleet does; no secrets."""
    texts = {
        "plans": settings.plans,
        "egress_allow": ",".join(map(str, settings.egress_allow)),
        "ca_file": "" if settings.ca_file is None else str(settings.ca_file.absolute()),
        "raw_history_days": str(settings.raw_history_days),
        "alert_timeout_s": str(settings.alert_timeout_s),
    }
    return {
        variable(name): text for name, text in texts.items() if name in settings.model_fields_set
    }


def _flower_port() -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((targets.HOST, _FLOWER_PORT))
        except OSError:
            return servers.free_port()
    return _FLOWER_PORT


def _say(text: str) -> None:
    click.echo(text, err=True)
