"""The README's example: `eth_subscribe` to a chain's new heads, against a double and a real EVM."""

import asyncio
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from lighthouse.model import CheckStatus, MonitorType, Outcome, Reason
from lighthouse.probes import check_once, parse_config
from lighthouse.settings import load
from tests.support import evm
from tests.support.raw_target import raw_target
from tests.support.websocket_target import frame, received, upgrading

README = Path(__file__).parents[2] / "README.md"


def example() -> dict[str, Any]:
    """What the README shows."""
    shown = re.search(r"```json\n(\{[^`]*eth_subscribe[^`]*)```", README.read_text())
    assert shown is not None
    return dict(json.loads(shown[1]))


async def probed(url: str, **keys: Any) -> Outcome:
    given = {**example(), "url": url, "retries": 0, "timeout": 10, **keys}
    config = parse_config(MonitorType.WEBSOCKET, given)
    return await check_once(MonitorType.WEBSOCKET, config, load({}, egress_allow="127.0.0.0/8"))


async def test_new_heads_are_awaited_behind_the_answer_to_the_subscription() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, asked = await received(reader)
        assert json.loads(asked)["method"] == "eth_subscribe"
        writer.write(frame('{"jsonrpc":"2.0","id":1,"result":"0x1"}'))
        head = {"subscription": "0x1", "result": {"number": "0x2a", "hash": "0x" + "ab" * 32}}
        note = {"jsonrpc": "2.0", "method": "eth_subscription", "params": head}
        writer.write(frame(json.dumps(note)))
        await received(reader)

    async with raw_target(upgrading(talk)) as target:
        found = await probed(target.url().replace("http", "ws", 1))
    assert found.status is CheckStatus.SUCCESS


if "anvil" in evm.kinds():  # always in CI; elsewhere where npm is

    async def test_new_heads_of_a_real_chain_arrive() -> None:
        async with evm.running("anvil") as chain:
            url = chain.url.replace("http", "ws", 1)
            still = await probed(url, timeout=1)

            async def mine() -> None:
                while True:
                    await chain.call("evm_mine")
                    await asyncio.sleep(0.1)

            mining = asyncio.create_task(mine())
            found = await probed(url)
            mining.cancel()
            with suppress(asyncio.CancelledError):
                await mining
        assert found.status is CheckStatus.SUCCESS
        assert [step.name for step in found.steps] == ["tcp", "handshake", "message"]
        # A chain that stands still answers the subscription, and no more.
        assert (still.status, still.reason) == (CheckStatus.FAILURE, Reason.BODY)
