"""A wallet for the demo's balance check, behind a chain's RPC: it pays steadily and is refilled."""

import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from lighthouse import chains
from lighthouse.model import MonitorType

_CHAIN = chains.KNOWN["base_sepolia"]
_ADDRESS = "0x" + "11" * 20

#: Refilled to `_FULL` this often, by the wall clock, and spent by `_PER_S`; in wei.
_REFILL_S = 1800
_FULL, _PER_S = 4 * 10**17, 2 * 10**14


def balance(now: float) -> int:
    """What it holds, in wei; `now` is of the Unix clock. It warns for the last 300 s of 1,800."""
    return _FULL - int(now) % _REFILL_S * _PER_S


def monitors(plain: str) -> Mapping[str, tuple[MonitorType, dict[str, Any]]]:
    """What watches it, by name; `plain` is the service's URL."""
    return {
        "wallet, balance": (
            MonitorType.BALANCE,
            {
                "chain": _CHAIN.name,
                "address": _ADDRESS,
                "alert_threshold": "0.1",
                "critical_threshold": "0.05",
                "rpc_urls": [f"{plain}/rpc"],
            },
        )
    }


def add_routes(application: web.Application) -> None:
    """Serve the chain's RPC at /rpc."""

    def answered(call: Mapping[str, Any]) -> dict[str, Any]:
        answer = {"jsonrpc": "2.0", "id": call.get("id")}
        match call.get("method"):
            case "eth_chainId":
                return {**answer, "result": hex(_CHAIN.chain_id)}
            case "eth_getBalance":
                return {**answer, "result": hex(balance(time.time()))}
        return {**answer, "error": {"code": -32601, "message": "the method does not exist"}}

    async def rpc(request: web.Request) -> web.Response:
        asked = await request.json()
        several = isinstance(asked, list)
        return web.json_response([answered(call) for call in asked] if several else answered(asked))

    application.router.add_post("/rpc", rpc)
