"""A fuzz run of the response path: mutated answers through a real socket, each judged and bounded.

`LIGHTHOUSE_TEST_FUZZ_SECONDS` makes it longer, `LIGHTHOUSE_TEST_FUZZ_SEED` repeats a run.
"""

import asyncio
import gzip
import os
import random
import time
from typing import Any
from uuid import uuid4

import psutil

from lighthouse.model import CheckStatus, MonitorType, Result
from lighthouse.probes import Prober, parse_config
from lighthouse.settings import load
from lighthouse.store.record import COLUMNS, copy_line
from tests.support.raw_target import raw_target

#: Seconds of a normal run; enough for some thousand answers.
SECONDS = float(os.environ.get("LIGHTHOUSE_TEST_FUZZ_SECONDS", "4"))
AT_ONCE = 24
#: What the process may grow by, in bytes: the transport's own budget and room for the heap.
MOST_GROWTH = 100 * 1024 * 1024

SEEDS = [
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"ok": [1,2]}',
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nspam\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.1 301 Moved\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://[::1]:1/\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.0 503 \xff\xfe\r\nRetry-After: -1\r\nSet-Cookie: a=b\r\n\r\nbody \x00 \xed\xa0\x80",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"x" * 10_000),
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-16\r\n\r\n\xff\xfea\x00",
    b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 5_000,
    b"HTTP/2 200\r\n\r\n",
]
SPLICES = [
    *(b"\r\n", b"\r\n\r\n", b"\x00", b"\xff" * 9, b"%00", b": ", b"\t", b" " * 300, b"\n"),
    *(b"Content-Length: 18446744073709551616\r\n", b"Content-Length: -1\r\n", b"9" * 40),
    *(b"Transfer-Encoding: chunked, gzip\r\n", b"Location: //\\\r\n", b"Location: http://\r\n"),
    *(b"\xed\xa0\x80", b"\xf0\x9f\x92\xa9", b'{"a":' * 400, b"1e999999", b"HTTP/1.1 "),
]
CONFIGS: list[dict[str, Any]] = [
    {},
    {"follow_redirects": True, "max_redirects": 3},
    {"body_validation": {"contains": "spam"}},
    {"body_validation": {"regex": "(a+)+$"}},
    {"body_validation": {"json_path": {"$.ok[0]": 1, "$..*": {"type": "number"}}}},
    {"body_validation": {"json_schema": {"type": "object", "required": ["ok"]}}},
    {"expected_headers": {"content-type": "application/json", "x": None}},
    {"max_latency_ms": 1, "valid_status_codes": ["1xx", 503]},
]


def mutated(chance: random.Random) -> bytes:
    """One answer, changed in a few places."""
    data = bytearray(chance.choice(SEEDS))
    for _ in range(chance.randrange(5)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0:
                data[at:at] = chance.choice(SPLICES)
            case 1:
                del data[at : at + chance.randrange(1, 20)]
            case 2:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 3:
                data[at:at] = data[: chance.randrange(1, 60)]
            case 4:
                data = data[:at]
        if not data:
            data = bytearray(b"\r")
    return bytes(data)


async def test_no_answer_raises_hangs_grows_or_cannot_be_stored() -> None:
    seed = int(os.environ.get("LIGHTHOUSE_TEST_FUZZ_SEED", str(random.randrange(2**32))))
    chance = random.Random(seed)
    print("LIGHTHOUSE_TEST_FUZZ_SEED =", seed)

    async def behave(
        request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        answer = mutated(chance)
        cut = chance.randrange(len(answer) + 1)
        writer.write(answer[:cut])
        await writer.drain()
        if chance.random() < 0.3:
            await asyncio.sleep(0)
        writer.write(answer[cut:])
        await writer.drain()

    judged: dict[CheckStatus, int] = {}
    process = psutil.Process()
    async with (
        raw_target(behave) as target,
        Prober(load({}, egress_allow="127.0.0.0/8")) as prober,
    ):
        configs = [
            parse_config(
                MonitorType.HTTP, {"url": target.url(), "retries": 0, "timeout": 1, **keys}
            )
            for keys in CONFIGS
        ]
        before = process.memory_info().rss
        ends = time.monotonic() + SECONDS

        async def lane() -> None:
            while time.monotonic() < ends:
                config = chance.choice(configs)
                begun = time.monotonic()
                found = await prober.probe(MonitorType.HTTP, config, 60)
                assert time.monotonic() - begun < 5
                judged[found.status] = judged.get(found.status, 0) + 1
                assert (found.status is CheckStatus.SUCCESS) == (found.reason is None), found
                assert found.status is not CheckStatus.ERROR, found
                assert found.message is None or found.message.isprintable(), found
                line = copy_line(Result.of(target_id, 1, found))
                assert line.count("\t") == len(COLUMNS) - 1
                assert line.count("\n") == 1
                line.encode()

        target_id = uuid4()
        await asyncio.gather(*(lane() for _ in range(AT_ONCE)))
        grown = process.memory_info().rss - before
    assert sum(judged.values()) > 200
    assert judged[CheckStatus.FAILURE] > 0
    assert judged[CheckStatus.SUCCESS] > 0
    assert grown < MOST_GROWTH
