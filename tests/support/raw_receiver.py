"""A webhook receiver in a process of its own, fast enough to be no limit: it keeps what it took.

python -m tests.support.raw_receiver FILE
"""

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

import uvloop

ANSWER = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"


class RawReceiver:
    """Starts one and reads its file."""

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory()
        self._file = Path(self._directory.name) / "messages"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.raw_receiver", str(self._file)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.base = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.communicate()
        self._directory.cleanup()

    def messages(self) -> list[tuple[str, str]]:
        """The key and the body of each message, in the order in which they came."""
        lines = self._file.read_text().splitlines()
        return [(key, body) for key, _, body in (line.partition("\t") for line in lines)]


class _Connection(asyncio.Protocol):
    """One request; an answer is given when the message is in the file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's derives from none

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, found, body = self._seen.partition(b"\r\n\r\n")
        if not found:
            return
        lines = (line.partition(b": ") for line in head.split(b"\r\n")[1:])
        headers = {name.lower(): value for name, _, value in lines}
        if len(body) < int(headers[b"content-length"]):
            return
        self._file.write(headers[b"webhook-id"] + b"\t" + body.replace(b"\n", b" ") + b"\n")
        self._file.flush()
        self._transport.write(ANSWER)
        self._transport.close()


async def serve(file: IO[bytes]) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(file), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with Path(sys.argv[1]).open("ab") as messages:
        uvloop.run(serve(messages))
