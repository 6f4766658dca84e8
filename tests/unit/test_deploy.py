"""What is deployed agrees with the code: compose files, image, units and the manual."""

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from pydantic import SecretStr

from lighthouse.__main__ import cli
from lighthouse.plans import PLANS
from lighthouse.probes.config import DEFAULT_TIMEOUT_S
from lighthouse.probes.http import HttpConfig
from lighthouse.settings import Settings, variable
from tests import conftest

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {variable(field) for field in Settings.model_fields}
COMPOSE = ("docker-compose.yml", "deploy/worker.compose.yml")
UNITS = ("lighthouse-beat.service", "lighthouse-worker@.service")


def text(path: str) -> str:
    return (ROOT / path).read_text()


def services(path: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(text(path))["services"]
    return found


def seconds(duration: str) -> int:
    match = re.fullmatch(r"(\d+)(s|m)", duration)
    assert match, duration
    return int(match[1]) * {"s": 1, "m": 60}[match[2]]


def ours(path: str) -> dict[str, dict[str, Any]]:
    """The services that run Lighthouse's image."""
    return {n: s for n, s in services(path).items() if "lighthouse" in s["image"]}


def longest_shutdown() -> float:
    flush = re.search(r"LAST_FLUSH_S = ([\d.]+)", text("lighthouse/fleet/engine.py"))
    assert flush
    return float(Settings.model_fields["shutdown_s"].default) + float(flush[1])


@pytest.mark.parametrize("path", COMPOSE)
def test_each_service_gets_every_setting_and_no_unknown_one(path: str) -> None:
    for name, service in ours(path).items():
        given = set(service["environment"]) - {"FLOWER_BASIC_AUTH"}
        assert given == SETTINGS, name


@pytest.mark.parametrize("path", COMPOSE)
def test_what_must_be_chosen_stops_the_start_when_it_is_missing(path: str) -> None:
    for name, default in re.findall(r"\$\{(\w+)(.*?)\}", text(path)):
        assert default.startswith((":-", ":?")), name
        if re.search("PASSWORD|URL|SECRET_KEYS", name):
            assert default.startswith(":?"), name


@pytest.mark.parametrize("path", COMPOSE)
def test_our_containers_are_read_only_and_without_privileges(path: str) -> None:
    for name, service in ours(path).items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        # Chromium's sandbox needs user namespaces, which Docker's filter forbids.
        filtered = ["seccomp:unconfined"] if name == "browser" else []
        assert service["security_opt"] == ["no-new-privileges:true", *filtered], name


@pytest.mark.parametrize("path", COMPOSE)
def test_workers_can_be_scaled(path: str) -> None:
    assert {"container_name", "ports", "hostname"}.isdisjoint(services(path)["worker"])


@pytest.mark.parametrize("path", COMPOSE)
def test_a_container_has_time_to_store_what_its_probes_found(path: str) -> None:
    for name, service in ours(path).items():
        assert seconds(service["stop_grace_period"]) > longest_shutdown(), name


def test_the_workers_of_compose_take_every_queue_between_them() -> None:
    taken: list[str] = []
    for service in ours(COMPOSE[0]).values():
        command = service["command"]
        if "worker" in command:
            taken += command[command.index("-Q") + 1].split(",")
    assert sorted(taken) == ["alerts", "browser", "checks", "maintenance"]
    assert services(COMPOSE[0])["browser"]["profiles"] == ["browser"]


def test_only_flower_is_published_and_only_to_this_host() -> None:
    published = {n: s["ports"] for n, s in services(COMPOSE[0]).items() if "ports" in s}
    assert list(published) == ["flower"]
    assert published["flower"][0].startswith("127.0.0.1:")


def test_everything_waits_for_the_migration() -> None:
    for name, service in ours(COMPOSE[0]).items():
        if name != "migrate":
            condition = service["depends_on"]["migrate"]["condition"]
            assert condition == "service_completed_successfully", name
    assert services(COMPOSE[0])["migrate"]["restart"] == "no"


def test_redis_keeps_what_it_is_given() -> None:
    command = " ".join(services(COMPOSE[0])["redis"]["command"])
    assert "--maxmemory-policy noeviction" in command
    assert "--appendonly yes" in command


def test_images_are_pinned_and_are_those_of_the_tests() -> None:
    postgres = services(COMPOSE[0])["postgres"]["image"]
    redis = services(COMPOSE[0])["redis"]["image"]
    assert (postgres, redis) == (conftest.POSTGRES_IMAGE, conftest.REDIS_IMAGE)
    version = re.fullmatch(r"timescale/timescaledb:(\d+)\.(\d+)\.(\d+)-pg\d+", postgres)
    assert version
    assert tuple(map(int, version.groups())) >= (2, 29, 1)
    assert re.fullmatch(r"redis:\d+\.\d+\.\d+-alpine", redis)


def test_postgres_preloads_what_status_reads_and_tells_nobody() -> None:
    postgres = services(COMPOSE[0])["postgres"]
    assert "-cshared_preload_libraries=timescaledb,pg_stat_statements" in postgres["command"]
    assert "-ctimescaledb.telemetry_level=off" in postgres["command"]
    assert postgres["environment"]["TIMESCALEDB_TELEMETRY"] == "off"


def test_the_image_runs_as_a_user_that_is_not_root() -> None:
    users = re.findall(r"^USER (\S+)$", text("deploy/Dockerfile"), re.MULTILINE)
    assert users
    assert all(int(user.split(":")[0]) > 0 for user in users)


def test_the_build_context_holds_what_the_image_copies() -> None:
    let_in = {line[1:] for line in text(".dockerignore").splitlines() if line.startswith("!")}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", text("deploy/Dockerfile"), re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == let_in
    assert all((ROOT / source).exists() for source in copied)


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_confined_and_has_time_to_end(unit: str) -> None:
    lines = text(f"deploy/systemd/{unit}").splitlines()
    for wanted in (
        "DynamicUser=yes",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "CapabilityBoundingSet=",
        "SystemCallFilter=@system-service",
        "EnvironmentFile=/etc/lighthouse/lighthouse.env",
    ):
        assert wanted in lines
    stop = next(line.split("=")[1] for line in lines if line.startswith("TimeoutStopSec="))
    assert int(stop) > longest_shutdown()


README = text("README.md")


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the first table below a heading: first cell without backticks to the others."""
    below = README.split(f"\n{heading}\n", 1)[1]
    match = re.search(r"^\|[- |]+\|\n((?:\|.*\|\n)+)", below, re.MULTILINE)
    assert match, heading
    rows = [[c.strip() for c in row.strip("|").split(" | ")] for row in match[1].splitlines()]
    return {row[0].replace("`", ""): row[1:] for row in rows}


def shown(default: object) -> str:
    return "–" if default in (None, "", (), SecretStr("")) else f"`{default}`"


def test_the_manual_lists_every_setting_with_its_default_and_no_other() -> None:
    listed = {name: cells[0] for name, cells in table("## Settings").items()}
    wanted = {
        variable(name): shown(field.default)
        for name, field in Settings.model_fields.items()
        if name not in ("database_url", "redis_url")
    }
    assert listed == {"DATABASE_URL": "required", "REDIS_URL": "required", **wanted}


def test_a_setting_is_marked_as_unused_exactly_when_nothing_uses_it() -> None:
    code = "\n".join(
        path.read_text()
        for path in (ROOT / "lighthouse").rglob("*.py")
        if path.name != "settings.py"
    )
    for name, cells in table("## Settings").items():
        field = name.lower().removeprefix("lighthouse_")
        used = field in ("database_url", "redis_url") or re.search(rf"\.{field}\b", code)
        assert bool(used) is not cells[-1].endswith("*"), name


def commands(group: click.Group, path: str = "lighthouse") -> set[str]:
    found: set[str] = set()
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        here = f"{path} {name}"
        if not isinstance(command, click.Group) or command.invoke_without_command:
            found.add(here)
        if isinstance(command, click.Group):
            found |= commands(command, here)
    return found


def named(cell: str) -> set[str]:
    """The commands of a cell such as `lighthouse db status` / `db url`."""
    first, *others = re.findall(r"`([^`]+)`", cell)
    words = [re.match(r"(?:[a-z]+(?:-[a-z]+)* ?)+", part) for part in (first, *others)]
    plain = [match[0].strip() for match in words if match]
    parts = plain[0].split()
    found = {plain[0]}
    for other in plain[1:]:
        short = other.split()
        # `db url` repeats its group, `show ID` leaves it out.
        keep = 1 if len(short) > 1 or len(parts) == 2 else 2
        found.add(" ".join([*parts[:keep], *short]))
    return found


def test_the_manual_names_every_command_and_no_other() -> None:
    below = README.split("\n## Commands\n", 1)[1].split("\n### ", 1)[0]
    rows = re.findall(r"^\| (`lighthouse .*?) \| ", below, re.MULTILINE)
    listed = set().union(*(named(row) for row in rows))
    assert listed == commands(cli)


def test_the_commands_in_the_manuals_examples_exist() -> None:
    known = commands(cli)
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL):
        for words in re.findall(r"\blighthouse ((?:[a-z]+ ?)+)", block):
            full = f"lighthouse {words.strip()}"
            assert any(full == name or full.startswith(f"{name} ") for name in known), full


def test_the_manuals_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", text("Makefile"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", README.replace("and make", ""))) <= targets


def test_the_manual_lists_every_option_of_the_http_monitor() -> None:
    listed = {
        name: cells[0]
        for cell, cells in table("### Monitor `http`").items()
        for name in cell.split(", ")
    }
    assert set(listed) == set(HttpConfig.model_json_schema()["properties"])
    assert listed["timeout"] == f"{DEFAULT_TIMEOUT_S:g}"
    for name in ("retries", "max_body_bytes"):
        assert listed[name] == str(HttpConfig.model_fields[name].default)


def test_the_manuals_plans_are_those_that_are_enforced() -> None:
    rows = table("### Plans")
    assert set(rows) == {tier.value for tier in PLANS}
    for tier, plan in PLANS.items():
        interval, number, *_ = rows[tier.value]
        assert interval == f"{plan.shortest_interval_s} s"
        assert number == str(plan.subscriptions or "no limit")


def test_the_manuals_house_shows_every_room() -> None:
    house = README.split("The house:", 1)[1].split("```")[1]
    rooms = {p.name for p in (ROOT / "lighthouse").glob("[a-z]*.py")}
    rooms |= {f"{p.parent.name}/" for p in (ROOT / "lighthouse").glob("*/__init__.py")}
    assert [room for room in sorted(rooms) if room not in house] == []
    drawn = re.findall(r"\b([a-z]+\.py)\b", house)
    assert set(drawn) <= rooms | {"__main__.py", "main__.py"}


def test_the_manual_names_the_files_that_exist() -> None:
    for path in re.findall(r"\b((?:deploy|tests|\.ci)/[\w./@*-]+\w)", README):
        assert list(ROOT.glob(path)), path
