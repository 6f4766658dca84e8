"""The wheel is whole: installed apart from any checkout, it can lay and upgrade its database."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import psycopg
import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str, cwd: Path, **environment: str) -> str:
    """Standard output of a command that must succeed."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env={**env, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, for a build leaves files in its source; without a network."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("lighthouse", "migrations"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--no-index", "--wheel-dir", "dist", "."),
        cwd=source,
    )
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a virtual environment with the wheel and, read in place, what it needs."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"),
        *("--no-deps", "--no-index", str(wheel)),
        cwd=home,
    )
    (packages,) = home.glob("lib/python*/site-packages")
    # A plain path: the .pth files in there, and with them an editable Lighthouse, are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def test_the_wheel_holds_every_module_and_every_migration(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    wanted = {str(path.relative_to(ROOT)) for path in ROOT.glob("lighthouse/**/*.py")}
    wanted |= {
        f"lighthouse_migrations/{path.relative_to(ROOT / 'migrations')}"
        for pattern in ("**/*.py", "**/*.mako")
        for path in (ROOT / "migrations").glob(pattern)
    }
    assert wanted - packed == set()
    assert "lighthouse/py.typed" in packed


def test_what_is_installed_is_the_wheel_and_not_this_checkout(installed: Path) -> None:
    where = run(
        *(str(installed / "python"), "-c", "import lighthouse; print(lighthouse.__file__)"),
        cwd=installed,
    )
    assert Path(where.strip()).is_relative_to(installed.parent)


def test_an_installed_lighthouse_upgrades_its_database(installed: Path, database_url: str) -> None:
    for _ in range(2):  # the second time has nothing to do
        run(
            *(str(installed / "lighthouse"), "db", "upgrade"),
            cwd=installed,
            DATABASE_URL=database_url,
        )
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT version_num, to_regclass('check_history') IS NOT NULL FROM alembic_version"
        ).fetchone()
    newest = max(path.name[:4] for path in (ROOT / "migrations/versions").glob("[0-9]*.py"))
    assert row == (newest, True)
