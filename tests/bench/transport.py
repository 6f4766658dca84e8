"""libcurl against aiohttp: checks per CPU-second of the probing process alone.

Run as ``python -m tests.bench.transport --seconds 5``. Both transports stand behind the product's
port and are judged by the product's rules; every check opens a fresh connection, and HTTPS makes a
full handshake. The target runs in another process on another core, and only the prober's CPU time
counts. nginx is the target where it is installed, a small server of our own elsewhere.
blackbox_exporter and OpenSSL's own handshakes are measured beside them where they are installed.
"""

import argparse
import asyncio
import json
import os
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import uvloop

from lighthouse.addresses import forbidden
from lighthouse.model import CheckStatus, MonitorType
from lighthouse.probes import http, parse_config
from lighthouse.probes.wire.curl import CurlTransport
from lighthouse.probes.wire.equipment import Equipment
from lighthouse.probes.wire.transport import Transport
from lighthouse.settings import load
from tests.bench.aiohttp_transport import AiohttpTransport
from tests.support.certificates import Authority

BODY = b"<!doctype html><title>ok</title>" + b"." * 480
HOST = "127.0.0.1"

#: Exchanges at the same time: what a worker has in flight when its targets answer quickly.
CONCURRENCY = 64

#: What lies between two chunks of an answer; one may begin in the middle of a line.
CHUNK = re.compile(rb"\r\n[0-9a-f]+\r\n")

NGINX = """
worker_processes 1; daemon off; pid {directory}/nginx.pid; error_log /dev/null;
events {{ worker_connections 4096; }}
http {{
    access_log off; client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
    ssl_certificate {cert}; ssl_certificate_key {key};
    ssl_session_cache off; ssl_session_tickets off;
    server {{
        listen {host}:{http}; listen {host}:{https} ssl;
        location / {{ default_type text/html; return 200 "{body}"; }}
    }}
}}
"""

BLACKBOX = """
modules:
  http_2xx:
    prober: http
    timeout: 5s
    http: {preferred_ip_protocol: ip4, tls_config: {ca_file: CA_FILE}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", action="store_true", help="figures only, as one JSON object")
    parser.add_argument("--child", nargs=3, metavar=("TRANSPORT", "URL", "CA"))
    options = parser.parse_args()
    if options.child:
        name, url, ca_file = options.child
        print(json.dumps(uvloop.run(_probe(name, url, Path(ca_file), options.seconds))))
        return
    figures = _measure(options.seconds)
    print(json.dumps(figures) if options.json else _table(figures))


def _measure(seconds: float) -> dict[str, dict[str, float]]:
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name, target(Path(name)) as (urls, ca_file):
        for scheme, url in urls.items():
            row = figures[scheme] = {}
            for transport in ("libcurl", "aiohttp"):
                row[transport] = _child(transport, url, ca_file, seconds)
            if shutil.which("prometheus-blackbox-exporter"):
                row["blackbox_exporter"] = blackbox(url, ca_file, seconds, Path(name))
        if shutil.which("openssl"):
            figures["https"]["openssl"] = openssl(urls["https"], seconds)
    return figures


def _table(figures: dict[str, dict[str, float]]) -> str:
    lines = ["checks per CPU-second of the probing process (in brackets: libcurl's multiple)"]
    for scheme, row in figures.items():
        cells = [
            f"{name} {rate:,.0f}"
            + ("" if name == "libcurl" else f" ({row['libcurl'] / rate:.2f}×)")
            for name, rate in row.items()
        ]
        lines.append(f"{scheme:>6}: " + "   ".join(cells))
    return "\n".join(lines)


# -- the prober's process ---------------------------------------------------------------------


def _child(name: str, url: str, ca_file: Path, seconds: float) -> float:
    command = [sys.executable, "-m", "tests.bench.transport", "--seconds", str(seconds)]
    done = subprocess.run(
        [*command, "--child", name, url, str(ca_file)],
        check=True,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: _pin(0),
    )
    return float(json.loads(done.stdout)["rate"])


async def _probe(name: str, url: str, ca_file: Path, seconds: float) -> dict[str, float]:
    settings = load({}, egress_allow="127.0.0.0/8", ca_file=ca_file)
    assert forbidden(HOST, settings.egress_allow) is None
    config = parse_config(MonitorType.HTTP, {"url": url})
    assert isinstance(config, http.HttpConfig)
    transport: Transport = (
        CurlTransport(allow=settings.egress_allow, ca_file=ca_file)
        if name == "libcurl"
        else AiohttpTransport(allow=settings.egress_allow, ca_file=ca_file)
    )
    equipment = Equipment(settings, transport)
    checks = 0
    ends = 0.0

    async def lane() -> None:
        nonlocal checks
        while time.monotonic() < ends:
            outcome = await http.probe(equipment, config, 10.0)
            if outcome.status is not CheckStatus.SUCCESS:
                raise SystemExit(f"{name} {url}: {outcome.reason}: {outcome.message}")
            checks += 1

    ends = time.monotonic() + min(1.0, seconds / 4)
    await asyncio.gather(*(lane() for _ in range(CONCURRENCY)))
    checks, before = 0, _cpu_s()
    ends = time.monotonic() + seconds
    await asyncio.gather(*(lane() for _ in range(CONCURRENCY)))
    spent = _cpu_s() - before
    await transport.close()
    return {"checks": checks, "cpu_s": spent, "rate": checks / spent}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _pin(core: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})


# -- what is probed ---------------------------------------------------------------------------


@contextmanager
def target(directory: Path) -> Iterator[tuple[dict[str, str], Path]]:
    """URLs by scheme, and the authority that signed the target's certificate."""
    authority = Authority(directory)
    certificate = authority.issue(HOST)
    ports = {"http": _free_port(), "https": _free_port()}
    if shutil.which("nginx"):
        conf = directory / "nginx.conf"
        conf.write_text(
            NGINX.format(
                directory=directory,
                cert=certificate.cert_file,
                key=certificate.key_file,
                host=HOST,
                body=BODY.decode(),
                **ports,
            )
        )
        command = ["nginx", "-e", "/dev/null", "-c", str(conf), "-p", str(directory)]
    else:
        command = [sys.executable, "-c", "from tests.bench.transport import serve; serve()"]
        command += [*map(str, ports.values()), str(certificate.cert_file)]
        command += [str(certificate.key_file)]
    with _running(command, core=1):
        for port in ports.values():
            _await_port(port)
        yield (
            {scheme: f"{scheme}://{HOST}:{port}/" for scheme, port in ports.items()},
            authority.ca_file,
        )


def serve() -> None:
    """The target where nginx is not installed."""
    http_port, https_port, cert_file, key_file = sys.argv[1:]
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)

    class Answer(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            if data.endswith(b"\r\n\r\n"):
                self.transport.write(answer)  # type: ignore[attr-defined]

    async def run() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert_file, key_file)
        loop = asyncio.get_running_loop()
        await loop.create_server(Answer, HOST, int(http_port), backlog=4096)
        await loop.create_server(Answer, HOST, int(https_port), ssl=context, backlog=4096)
        await asyncio.Event().wait()

    uvloop.run(run())


@contextmanager
def _running(command: list[str], core: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: _pin(core),
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        return int(server.getsockname()[1])


def _await_port(port: int) -> None:
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        with suppress(OSError), socket.create_connection((HOST, port), 1):
            return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


# -- what is compared with --------------------------------------------------------------------


def blackbox(
    url: str, ca_file: Path, seconds: float, directory: Path, rate: float | None = None
) -> float:
    """Probes per CPU-second of blackbox_exporter, asked for over kept connections.

    As fast as it can, or `rate` times a second: both it and a fleet pay for each time that they
    are woken, so at less than full load they must be compared at the same load.
    """
    conf, port = directory / "blackbox.yml", _free_port()
    conf.write_text(BLACKBOX.replace("CA_FILE", str(ca_file)))
    command = ["prometheus-blackbox-exporter", f"--config.file={conf}"]
    with _running([*command, f"--web.listen-address={HOST}:{port}"], core=0) as process:
        _await_port(port)
        uvloop.run(_ask(port, url, min(1.0, seconds / 4), rate))
        before = _cpu_of(process.pid)
        answers = uvloop.run(_ask(port, url, seconds, rate))
        return answers / (_cpu_of(process.pid) - before)


async def _ask(port: int, url: str, seconds: float, rate: float | None) -> int:
    begun = time.monotonic()
    ends = begun + seconds
    pause_s = CONCURRENCY / rate if rate else 0.0
    request = f"GET /probe?module=http_2xx&target={url} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()

    async def lane(number: int) -> int:
        answers = 0
        reader, writer = await asyncio.open_connection(HOST, port)
        due = begun + number * pause_s / CONCURRENCY
        while (now := time.monotonic()) < ends:
            if due > now:
                await asyncio.sleep(due - now)
            due += pause_s
            writer.write(request)
            await reader.readuntil(b"\r\n\r\n")
            body = await reader.readuntil(b"\r\n0\r\n\r\n")  # Go sends its metrics in chunks
            if b"\nprobe_success 1" not in CHUNK.sub(b"", body):
                raise SystemExit(f"blackbox_exporter did not succeed with {url}")
            answers += 1
        writer.close()
        return answers

    return sum(await asyncio.gather(*(lane(number) for number in range(CONCURRENCY))))


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def openssl(url: str, seconds: float) -> float:
    """Full handshakes per CPU-second of OpenSSL's own client."""
    place = url.removeprefix("https://").rstrip("/")
    command = ["openssl", "s_time", "-connect", place, "-new", "-time", str(max(1, int(seconds)))]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=lambda: _pin(0))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return int(done.stdout.partition(" connections in ")[0].split()[-1]) / spent


if __name__ == "__main__":
    main()
