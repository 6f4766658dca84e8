"""How a balance's history looks: in decimal units, and how long it lasts at the present burn."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lighthouse.chains import Burn, Coin, units
from lighthouse.cli.support import age, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lighthouse.model import Subscription


@dataclass(frozen=True, slots=True, kw_only=True)
class Purse:
    """What a subscription's values are counted in, and how they fall."""

    coin: Coin
    newest: datetime | None  #: the slot of the newest reading, which alone tells the burn
    burn: Burn | None

    def amount(self, value: int) -> str:
        """Decimal units; the smallest ones of a token whose decimals only its contract knows."""
        return units(value, self.coin.decimals or 0)

    def shown(self, value: int) -> str:
        """An amount for people."""
        what = (
            self.coin.symbol if self.coin.decimals is not None else f"units of {self.coin.symbol}"
        )
        return f"{self.amount(value)} {what}"

    def as_data(self, time: datetime, value: int) -> dict[str, Any]:
        """A balance as JSON has it. Amounts are texts; the burn is the newest reading's alone."""
        burn = self.burn if time == self.newest else None
        lasts = burn.lasts if burn else None
        return {
            "amount": self.amount(value),
            "symbol": self.coin.symbol,
            "decimals": self.coin.decimals,
            "burn_per_day": self.amount(burn.per_day) if burn else None,
            "lasts_seconds": round(lasts.total_seconds()) if lasts is not None else None,
            "runs_out_at": time + lasts if lasts is not None else None,
        }

    def outlook(self) -> str | None:
        """How long it lasts, in a line for people; None where it does not fall."""
        if self.burn is None or self.newest is None:
            return None
        falls = f"falls by {self.shown(self.burn.per_day)} a day"
        if self.burn.lasts is None:
            return f"{falls}: lasts for more than ten years"
        end = self.newest + self.burn.lasts
        return f"{falls}: lasts {age(self.newest, end)}, until {text(end)}"


def purse(found: "Subscription", readings: "Sequence[tuple[datetime, int]]") -> Purse:
    """What is known of a `balance` subscription's coin, and the burn of its readings."""
    from lighthouse import chains, settings

    config = found.target_config
    token = str(config.get("token") or chains.NATIVE)
    chain = chains.registry(settings.current().chains.get_secret_value()).get(str(config["chain"]))
    if chain is None:  # an operator's that is configured elsewhere
        coin = Coin(symbol=str(config["chain"]), decimals=None)
    else:
        coin = chains.coin(chain, token, config.get("decimals"))
    return Purse(
        coin=coin,
        newest=max((time for time, _ in readings), default=None),
        burn=chains.burn(readings),
    )
