"""Real EVMs behind a JSON-RPC node of the test's own: py-evm everywhere, anvil where npm is.

In CI (the variable CI is set) anvil must be there. The token is a contract of a few instructions:
balanceOf and decimals of ERC-20, its whole supply its maker's, anything else reverted.
"""

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.rpc_double import HOST, RpcError, node

CHAIN_ID = 8453  #: what both say they are: base
ANVIL = "1.7.1"

#: The virtual environment's: `make clean` removes it with the rest.
_CACHE = Path(__file__).parents[2] / ".venv" / "npm"


def kinds() -> list[str]:
    """The EVMs that this machine has to test against."""
    wanted = shutil.which("npm") is not None or bool(os.environ.get("CI"))
    return ["py-evm", "anvil"] if wanted else ["py-evm"]


def token_code(supply: int, decimals: int) -> str:
    """The code that deploys a token."""
    returned = "60005260206000f3"  # MSTORE at 0, RETURN its 32 bytes
    balance = "5b60043554" + returned  # JUMPDEST, SLOAD of the address that is asked for
    told = f"5b60{decimals:02x}" + returned
    # The selector against both functions', which stand after these 32 bytes; else REVERT.
    head = f"60003560e01c806370a08231146020578063313ce5671460{32 + len(balance) // 2:02x}57600080fd"
    head = head[:-8] + "5b" * (32 - len(head) // 2) + head[-8:]
    runtime = head + balance + told
    size = f"60{len(runtime) // 2:02x}"
    return f"0x7f{supply:064x}3355{size}602f600039{size}6000f3{runtime}"


class Chain:
    """A running EVM: `url` is its node's, `owner` holds its coins and makes its tokens."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.owner = ""

    async def call(self, method: str, *params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.url, json=body) as answer,
        ):
            document = await answer.json()
        assert "result" in document, document
        return document["result"]

    async def send(self, **transaction: Any) -> dict[str, Any]:
        """A transaction of the owner's and its receipt."""
        hashed = await self.call("eth_sendTransaction", {"from": self.owner, **transaction})
        for _ in range(500):
            receipt = await self.call("eth_getTransactionReceipt", hashed)
            if receipt is not None:
                assert int(receipt["status"], 16) == 1, receipt
                return dict(receipt)
            await asyncio.sleep(0.02)
        raise AssertionError("the transaction was not mined")

    async def pay(self, address: str, value: int) -> None:
        await self.send(to=address, value=hex(value), gas="0x5208")

    async def deploy(self, supply: int, decimals: int) -> str:
        made = await self.send(data=token_code(supply, decimals), gas="0x30d40")
        return str(made["contractAddress"])


@asynccontextmanager
async def running(kind: str) -> AsyncIterator[Chain]:
    """A fresh chain for as long as the block runs."""
    if kind == "anvil":
        async with _anvil() as chain:
            yield chain
        return
    from web3 import EthereumTesterProvider

    provider = EthereumTesterProvider()
    # Here even a call costs its caller's coins; nodes take it for nothing.
    payer = provider.make_request("eth_accounts", [])["result"][0]  # type: ignore[arg-type]

    def answer(method: str, params: list[Any]) -> Any:
        if method == "eth_chainId":
            return hex(CHAIN_ID)
        if method == "eth_call":
            params = [{"from": payer, **params[0]}, *params[1:]]
        if method == "eth_sendTransaction":
            numbers = {key: int(params[0][key], 16) for key in ("gas", "value") if key in params[0]}
            params = [{**params[0], **numbers}]
        try:
            found: Any = provider.make_request(method, params)  # type: ignore[arg-type]
        except Exception as exc:  # what py-evm calls a revert
            raise RpcError(3, f"execution reverted: {exc}") from exc
        if "error" in found:
            error = found["error"]
            told = error if isinstance(error, str) else error.get("message", "")
            raise RpcError(-32000, str(told))
        return _json(found["result"])

    async with node(answer) as serving:
        chain = Chain(serving.url)
        chain.owner = payer
        yield chain


def _json(value: Any) -> Any:
    """py-evm's values as nodes write them."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return hex(value)
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if hasattr(value, "items"):
        return {_camel(key): _json(inner) for key, inner in value.items()}
    return [_json(inner) for inner in value]


def _camel(key: str) -> str:
    first, *others = key.split("_")
    return first + "".join(other.title() for other in others)


def _installed() -> Path:
    binary = _CACHE / "node_modules" / ".bin" / "anvil"
    if not binary.exists():
        assert shutil.which("npm"), "npm is missing: apt-get install npm"
        subprocess.run(
            [
                *("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(_CACHE)),
                f"@foundry-rs/anvil@{ANVIL}",
            ],
            check=True,
            timeout=180,
        )
    native = sorted(_CACHE.glob("node_modules/@foundry-rs/anvil-*/bin/anvil"))
    return native[0] if native else binary


@asynccontextmanager
async def _anvil() -> AsyncIterator[Chain]:
    binary = await asyncio.to_thread(_installed)
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(str(binary), "--host", HOST, "--port", str(port), "--chain-id", str(CHAIN_ID)),
        "--silent",
    )
    try:
        chain = Chain(f"http://{HOST}:{port}/")
        chain.url = f"http://{HOST}:{port}/"  # anvil knows no other path
        for _ in range(500):
            try:
                chain.owner = (await chain.call("eth_accounts"))[0]
                break
            except aiohttp.ClientError:
                await asyncio.sleep(0.03)
        yield chain
    finally:
        process.kill()
        await process.wait()
