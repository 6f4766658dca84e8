"""The transport port over aiohttp: what libcurl is measured against, and nothing else."""

import socket
import ssl
import time
from pathlib import Path

import aiohttp

from lighthouse.addresses import Network, forbidden
from lighthouse.model import Reason, Timings
from lighthouse.probes.wire.transport import HttpRequest, HttpResponse, TransportError


class AiohttpTransport:
    """A fresh connection an exchange, the guard where the socket is made, phases by trace hooks."""

    def __init__(self, *, allow: tuple[Network, ...], ca_file: Path) -> None:
        self._allow = allow
        connector = aiohttp.TCPConnector(
            force_close=True,
            limit=0,
            use_dns_cache=False,
            ssl=ssl.create_default_context(cafile=str(ca_file)),
            socket_factory=self._socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[_traced()],
            headers={"Accept-Encoding": "identity"},
        )

    def _socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, target = info
        if forbidden(target[0], self._allow) is not None:
            raise PermissionError("forbidden address")
        opened = socket.socket(family, kind, protocol)
        opened.setblocking(False)
        return opened

    async def exchange(
        self, request: HttpRequest, timeout_s: float
    ) -> HttpResponse | TransportError:
        begun = time.monotonic()
        marks: dict[str, float] = {}
        try:
            async with self._session.request(
                request.method,
                request.url,
                headers=request.headers,
                data=request.body,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s, ceil_threshold=60),
                trace_request_ctx=marks,
            ) as response:
                answered = time.monotonic()
                body = await response.content.read(request.max_body_bytes)
                version = response.version
        except TimeoutError:
            return TransportError(reason=Reason.TIMEOUT, message="timed out")
        except (aiohttp.ClientError, OSError) as exc:
            return TransportError(reason=Reason.PROTOCOL_ERROR, message=str(exc))
        connected = marks.get("connected", begun)
        return HttpResponse(
            status=response.status,
            version=version.major * 10 + version.minor if version else None,
            body=body[: request.keep_body_bytes],
            truncated=len(body) == request.max_body_bytes,
            total_ms=(time.monotonic() - begun) * 1000,
            timings=Timings(
                tcp_ms=(connected - begun) * 1000, ttfb_ms=(answered - connected) * 1000
            ),
            content_type=response.headers.get("Content-Type"),
            location=response.headers.get("Location"),
        )

    async def close(self) -> None:
        await self._session.close()


def _traced() -> aiohttp.TraceConfig:
    async def connected(_session: aiohttp.ClientSession, context: object, _params: object) -> None:
        context.trace_request_ctx["connected"] = time.monotonic()  # type: ignore[attr-defined]

    traced = aiohttp.TraceConfig()
    traced.on_connection_create_end.append(connected)
    return traced
