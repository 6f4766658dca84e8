"""The guard of the process that apprise runs in: what code in there can do, and what it cannot."""

import subprocess
import sys
from pathlib import Path

import pytest

BEGIN = """
import os, socket, sqlite3, subprocess, sys
from pathlib import Path
from lighthouse.apprised.guard import Guard, networks
guard = Guard(networks("127.0.0.1/32"))
guard.install()
def udp(): return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
"""


def run(code: str, directory: Path) -> str:
    """What happened to a line of code under the guard."""
    program = f"""{BEGIN}
try:
    {code}
except PermissionError as exc:
    assert str(exc) == guard.refusal
    os.write(1, b"refused: " + guard.refusal.encode())
except Exception as exc:
    os.write(1, type(exc).__name__.encode())
else:
    os.write(1, b"done")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(
    "code",
    [
        "open('secret.key').read()",
        "open('/etc/passwd').read()",
        "open('/proc/self/environ', 'rb').read()",
        "open(f'{sys.prefix}/../secret.key').read()",
        "os.open('/etc/passwd', os.O_RDONLY)",
        "Path('new').touch()",
        "open(f'{sys.prefix}/new', 'w')",
        "os.open('new', os.O_CREAT | os.O_WRONLY)",
        "os.remove('secret.key')",
        "os.rename('secret.key', 'other')",
        "sqlite3.connect('new')",
        "subprocess.run(['true'])",
        "os.system('true')",
        "os.execv('/bin/true', ['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.fork()",
        "socket.socket(socket.AF_UNIX).connect('/run/dbus')",
        "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', '/dev/log')",
        "__import__('ctypes').CDLL('libc.so.6')",
        "__import__('syslog').syslog('x')",
    ],
)
def test_nothing_of_the_host_is_touched(tmp_path: Path, code: str) -> None:
    (tmp_path / "secret.key").write_text("s3cr3t")
    assert run(code, tmp_path) == "refused: the service would work on this machine"
    assert [path.name for path in tmp_path.iterdir()] == ["secret.key"]


@pytest.mark.parametrize(
    "code",
    [
        "socket.socket().connect(('127.0.0.2', 9))",
        "socket.socket().connect_ex(('127.0.0.2', 9))",
        "socket.create_connection(('127.0.0.2', 9))",
        "socket.socket(socket.AF_INET6).connect(('::1', 9))",
        "socket.socket(socket.AF_INET6).connect(('::ffff:127.0.0.1', 9))",
        "udp().sendto(b'x', ('127.0.0.2', 9))",
        "udp().sendto(b'x', 0, ('127.0.0.2', 9))",
        "udp().sendmsg([b'x'], [], 0, ('127.0.0.2', 9))",
        "udp().connect(('127.0.0.2', 9))",
        "__import__('_socket').socket().connect(('127.0.0.2', 9))",
        "socket.getaddrinfo = lambda *a: [(2, 1, 6, '', ('127.0.0.2', 9))];"
        " socket.socket().connect(('rebound.example', 9))",
    ],
)
def test_every_way_to_a_forbidden_address_is_refused(tmp_path: Path, code: str) -> None:
    found = run(code, tmp_path)
    kind = "IPv4-mapped" if "ffff" in code else "loopback"
    assert found == f"refused: the address may not be connected to ({kind})"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("socket.socket().connect(('127.0.0.1', 1))", "ConnectionRefusedError"),
        ("assert socket.socket().connect_ex(('localhost', 1)) == 111", "done"),
        ("assert udp().sendto(b'x', ('localhost', 9)) == 1", "done"),
        ("assert udp().sendmsg([b'x'], [], 0, ('localhost', 9)) == 1", "done"),
        ("import zoneinfo, asyncio; zoneinfo.ZoneInfo('Europe/Madrid')", "done"),
        ("import asyncio; asyncio.run(asyncio.sleep(0))", "done"),
        ("import ssl; ssl.create_default_context()", "done"),
        ("import mimetypes; mimetypes.guess_type('a.png')", "done"),
    ],
)
def test_what_is_allowed_works(tmp_path: Path, code: str, found: str) -> None:
    assert run(code, tmp_path) == found
