"""What the commands share: reading arguments, opening the database, printing tables and JSON."""

import asyncio
import json
import logging
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from uuid import UUID

import click

from lighthouse.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from lighthouse.sealing import Keyring
    from lighthouse.store.pool import Pool

T = TypeVar("T")

#: Larger than any configuration, smaller than any accident.
_LARGEST_CONFIG_BYTES = 1_048_576

#: Columns of a table that goes into a file or pipe: wide enough that nothing is cut.
_PIPE_WIDTH = 240

#: A length of time as people write it, and what its unit is in seconds.
_LENGTH = re.compile(r"([0-9]{1,9})(s|m|h|d)?")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def json_config(value: str, field: str = "config") -> dict[str, Any]:
    """The object that `--config` or such gives: JSON, or @FILE (@- is standard input).

    Raises ConfigError with the position of the fault.
    """
    text = _read(value[1:], field) if value.startswith("@") else value
    try:
        found = json.loads(text, object_pairs_hook=_without_twins, parse_constant=_no_constant)
    except json.JSONDecodeError as exc:
        raise ConfigError(
            f"not JSON: {exc.msg} at line {exc.lineno} column {exc.colno}", field
        ) from None
    except RecursionError:
        raise ConfigError("nested too deeply", field) from None
    except ValueError as exc:  # a number of thousands of digits
        raise ConfigError(f"not JSON: {exc}", field) from None
    if not isinstance(found, dict):
        raise ConfigError(f"must be a JSON object, such as {_SUCH_AS[field]}", field)
    return found


#: What an option's object may look like.
_SUCH_AS = {"config": '{"url": "https://example.com"}', "alerting": '{"failures_to_down": 2}'}


def _read(name: str, field: str) -> str:
    try:
        if name == "-":
            data = sys.stdin.buffer.read(_LARGEST_CONFIG_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(_LARGEST_CONFIG_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"cannot read {name}: {exc.strerror}", field) from None
    if len(data) > _LARGEST_CONFIG_BYTES:
        raise ConfigError(f"{name} is larger than {_LARGEST_CONFIG_BYTES} bytes", field)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{name} is not UTF-8 at byte {exc.start}", field) from None


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise ConfigError("the key is there twice", twin)
    return found


def _no_constant(name: str) -> NoReturn:
    raise ConfigError(f"not JSON: {name} is no JSON number", "config")


def moment(value: str) -> datetime:
    """An ISO time with its zone. Raises UsageError."""
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise UsageError(f"{value[:40]!r} is no time with a zone, such as 2026-12-31T00:00:00Z")
    return found.astimezone(UTC)


def seconds(value: str, field: str) -> int:
    """A length of time in seconds: 90s, 15m, 2h, 3d, or plain seconds. Raises UsageError."""
    found = _LENGTH.fullmatch(value.strip())
    if found is None:
        raise UsageError(
            f"{field}: {value[:40]!r} is no length of time, such as 90s, 15m, 2h, 3d or 300"
        )
    return int(found[1]) * _UNITS[found[2] or "s"]


def length(number: float) -> str:
    """A number of seconds for people, exactly, in the largest fitting unit: 90 s, 15 min, 2 h."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if number and number % size == 0:
            return f"{number / size:.0f} {unit}"
    return f"{number:g} s"


def keyring() -> "Keyring":
    """The keys of LIGHTHOUSE_SECRET_KEYS, if any. Raises SettingsError."""
    from lighthouse import settings
    from lighthouse.sealing import Keyring

    return Keyring(settings.current().secret_keys)


def run(command: Callable[["Pool"], Awaitable[T]]) -> T:
    """Open the database, check it, and run the command on it.

    Raises SettingsError, StoreUnavailable naming the server, NotMigrated.
    """
    quiet_logs()

    async def with_pool() -> T:
        async with database() as pool:
            return await command(pool)

    return asyncio.run(with_pool())


def quiet_logs() -> None:
    """Log lines go to standard error and only from warnings on: standard output is data."""
    import structlog

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # What the pool would warn of is told by the error that follows.
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)


@asynccontextmanager
async def database() -> AsyncIterator["Pool"]:
    """A pool on DATABASE_URL whose server answers and whose schema is ours."""
    from lighthouse import settings
    from lighthouse.store.migrate import require_migrated
    from lighthouse.store.pool import open_pool, reach

    url = settings.current().require_database()
    await reach(url)
    async with open_pool(url, maximum=2, application="lighthouse-cli") as pool:
        await require_migrated(pool)
        yield pool


def print_json(value: Any) -> None:
    """Dataclasses become objects named like their fields; times are UTC with a Z."""
    import orjson

    options = orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS
    try:
        click.echo(orjson.dumps(value, default=_plain, option=options).decode())
    except TypeError:  # a configuration holds an integer beyond 64 bits
        click.echo(json.dumps(value, default=_plainer, indent=2, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        # Balances have up to 78 digits: as a JSON number a reader would round them.
        return format(value, "f")
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(type(value).__name__)


def _plainer(value: Any) -> Any:
    """What orjson writes by itself, in its forms."""
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, UUID):
        return str(value)
    return _plain(value)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "nothing there"
) -> None:
    """A table for people. Column names that end in `>` are aligned right.

    On a terminal that is too narrow for it, where words would be broken, each row is a block of
    lines instead.
    """
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        right = column.endswith(">")
        table.add_column(
            column.rstrip(">"),
            justify="right" if right else "left",
            no_wrap=right or column in ("id", "incident"),
            overflow="fold",
        )
    found = [tuple(row) for row in rows]
    for row in found:
        table.add_row(*map(_cell, row))
    if table.row_count == 0:
        click.echo(empty, err=True)
        return
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)
    unbounded = console.options.update(max_width=_PIPE_WIDTH * 10)
    if console.is_terminal and Measurement.get(console, unbounded, table).minimum > console.width:
        _print_blocks(console, [column.rstrip(">") for column in columns], found)
    else:
        console.print(table)


def _print_blocks(
    console: "Console", columns: Sequence[str], rows: Sequence[Sequence[object]]
) -> None:
    """Each row as lines of a name and a value; what is not there takes no line."""
    from rich.text import Text

    width = max(map(len, columns))
    for number, row in enumerate(rows):
        if number:
            console.print()
        for column, value in zip(columns, row, strict=True):
            if value is not None and value != "":
                name = Text(f"{column:<{width}}  ", style="bold")
                console.print(name.append_text(_cell(value)), soft_wrap=True)


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """One thing's facts, a line each."""
    known = [(name, text(value)) for name, value in facts if value is not None]
    width = max(len(name) for name, _ in known)
    for name, value in known:
        click.echo(f"{name:<{width}}  {value}")


#: How words of a state look on a terminal.
_STYLES = {
    "up": "green",
    "success": "green",
    "sent": "green",
    "down": "bold red",
    "failure": "red",
    "timeout": "red",
    "gave_up": "red",
    "critical": "red",
    "error": "yellow",
    "unknown": "yellow",
    "missed": "yellow",
}


def _cell(value: object) -> Any:
    from rich.text import Text

    shown = text(value)
    return Text(shown, style=_STYLES.get(shown, ""))


def text(value: object) -> str:
    """A value for people; characters that would steer a terminal are replaced."""
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.1f}"
    shown = str(value)
    if shown.isprintable():
        return shown
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "�" for c in " ".join(shown.split())
    )


def percent(ratio: float | None) -> str:
    """A ratio for people, never rounded up to 100."""
    if ratio is None:
        return "–"
    return f"{int(ratio * 100_000 + 1e-6) / 1000:.3f} %"


def age(since: datetime | None, now: datetime | None = None) -> str:
    """How long ago, in the largest fitting unit."""
    if since is None:
        return "–"
    seconds = ((now or datetime.now(UTC)) - since).total_seconds()
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
