"""A small client of Redis for the simulator: the product's own Lua, under a clock of the caller's.

redis-py takes longer for a call than Redis does, and the simulator makes hundreds of thousands.
Scripts ask for the time with TIME, which no server lets anybody set; here each call brings it.
"""

import socket
from collections.abc import Callable, Iterator
from hashlib import sha1
from types import TracebackType
from typing import Any, Self

import redis.exceptions

#: What a script says when it wants to know the time, and what it gets to read instead.
_TIME = "redis.call('TIME')"
_GIVEN_TIME = "{math.floor(tonumber(KEYS[1]) / 1000), tonumber(KEYS[1]) % 1000 * 1000}"


class Wire:
    """One connection, used by one thread."""

    def __init__(self, path: str, password: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._answers = self._socket.makefile("rb")
        self._known: set[str] = set()
        self.command("AUTH", password)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._answers.close()
        self._socket.close()

    def command(self, *parts: Any) -> Any:
        """Send a command; its answer as redis-py has it. Raises redis.exceptions.ResponseError."""
        packed = [b"*%d\r\n" % len(parts)]
        for part in parts:
            data = part if isinstance(part, bytes) else str(part).encode()
            packed.append(b"$%d\r\n%s\r\n" % (len(data), data))
        self._socket.sendall(b"".join(packed))
        return self._read()

    def script(self, text: str) -> str:
        """Load a script; the name by which `EVALSHA now …` runs it."""
        # A script with a clock of another kind would run by the server's time, unnoticed.
        assert text.count("'TIME'") == text.count(_TIME), "a script asks for the time otherwise"
        given = text.replace(_TIME, _GIVEN_TIME)
        name = sha1(given.encode()).hexdigest()
        if name not in self._known:
            self.command("SCRIPT", "LOAD", given)
            self._known.add(name)
        return name

    def _read(self) -> Any:
        line = self._answers.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._answers.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self._read() for _ in range(int(rest))]
        if kind == b"-":
            raise redis.exceptions.ResponseError(rest.decode())
        return rest


class Port:
    """What `Claims` asks of redis-py. `fault` may raise before a call, or after it was done."""

    def __init__(self, wire: Wire, now: Callable[[], int], fault: Callable[[bool], None]) -> None:
        self._wire = wire
        self._now = now
        self._fault = fault

    def _do(self, *parts: Any) -> Any:
        self._fault(False)
        answer = self._wire.command(*parts)
        self._fault(True)
        return answer

    def register_script(self, text: str) -> Callable[..., Any]:
        name = self._wire.script(text)

        def run(args: tuple[Any, ...] | list[Any] = ()) -> Any:
            return self._do("EVALSHA", name, 1, self._now(), *args)

        return run

    def get(self, key: str) -> Any:
        return self._do("GET", key)

    def zcard(self, key: str) -> Any:
        return self._do("ZCARD", key)

    def llen(self, key: str) -> Any:
        return self._do("LLEN", key)

    def hmget(self, key: str, fields: list[bytes]) -> Any:
        return self._do("HMGET", key, *fields)

    def zrem(self, key: str, member: str) -> Any:
        return self._do("ZREM", key, member)

    def zscan_iter(self, key: str, count: int) -> Iterator[tuple[bytes, bytes]]:
        return self._pairs(self._do("ZRANGE", key, 0, -1, "WITHSCORES"))

    def hscan_iter(self, key: str, count: int) -> Iterator[tuple[bytes, bytes]]:
        return self._pairs(self._do("HGETALL", key))

    def _pairs(self, flat: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
        return zip(flat[::2], flat[1::2], strict=True)

    def pipeline(self) -> "_Together":
        return _Together(self)


class _Together:
    """The few commands that `Claims` sends in one go."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._commands: list[tuple[Any, ...]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._commands.clear()

    def delete(self, *keys: str) -> None:
        self._commands.append(("DEL", *keys))

    def set(self, key: str, value: str) -> None:
        self._commands.append(("SET", key, value))

    def execute(self) -> None:
        for command in self._commands:
            self._port._do(*command)


class AsyncPort:
    """The same as `Leases` has it of redis.asyncio; nothing here ever waits."""

    def __init__(self, port: Port) -> None:
        self._port = port

    def register_script(self, text: str) -> Callable[..., Any]:
        script = self._port.register_script(text)

        async def run(args: tuple[Any, ...] | list[Any] = ()) -> Any:
            return script(args=args)

        return run

    async def hmget(self, key: str, fields: list[bytes]) -> Any:
        return self._port.hmget(key, fields)

    async def zrem(self, key: str, member: str) -> Any:
        return self._port.zrem(key, member)
