"""Chains, exact amounts, levels and the burn of a balance."""

import json
import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from lighthouse import chains, configs
from lighthouse.chains import Level
from lighthouse.errors import ConfigError, SettingsError
from lighthouse.model import MonitorType
from lighthouse.probes import balance, parse_config
from lighthouse.sealing import Keyring

USDC = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)

# -- which chain, whose address ---------------------------------------------------------------


def test_the_known_chains_are_those_that_were_promised() -> None:
    assert {name: (c.chain_id, c.symbol, c.decimals) for name, c in chains.KNOWN.items()} == {
        "avalanche": (43114, "AVAX", 18),
        "avalanche_fuji": (43113, "AVAX", 18),
        "base": (8453, "ETH", 18),
        "base_sepolia": (84532, "ETH", 18),
        "polygon": (137, "POL", 18),
        "polygon_amoy": (80002, "POL", 18),
    }
    for chain in chains.KNOWN.values():
        assert chains.checked_urls(chain.rpc_urls)
        assert chain.usdc is None or chains.checked_address(chain.usdc) == chain.usdc


@pytest.mark.parametrize("given", [USDC, USDC.lower(), "0x" + USDC[2:].upper()])
def test_an_address_of_one_case_or_with_its_checksum_is_taken(given: str) -> None:
    assert chains.checked_address(given) == USDC


def test_a_mistyped_address_is_refused() -> None:
    with pytest.raises(ValueError, match="wrong checksum"):
        chains.checked_address(USDC.replace("bdA", "BdA"))
    for wrong in (USDC[:-1], USDC + "0", USDC[2:], "0x" + "g" * 40, USDC + "\n", ""):
        with pytest.raises(ValueError, match="is no address"):
            chains.checked_address(wrong)


def test_an_operator_adds_chains_and_gives_known_ones_other_rpcs() -> None:
    found = chains.registry(
        json.dumps(
            {
                "base": {"rpc_urls": ["https://rpc.example/key"]},
                "own": {
                    "chain_id": 5,
                    "symbol": "OWN",
                    "decimals": 6,
                    "rpc_urls": ["http://a/", "http://a/"],
                },
            }
        )
    )
    assert found["base"].rpc_urls == ("https://rpc.example/key",)
    assert (found["base"].chain_id, found["base"].usdc) == (8453, USDC)
    assert (found["own"].decimals, found["own"].rpc_urls) == (6, ("http://a/",))
    assert found["polygon"] is chains.KNOWN["polygon"]
    assert chains.registry("") is chains.KNOWN
    assert "key" not in repr(found)


@pytest.mark.parametrize(
    ("configured", "told"),
    [
        ("{s3cret", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "must be a JSON object"),
        ({"My Chain": {}}, "a name has other"),
        ({"own": 5}, "own: must be a JSON object"),
        ({"own": {"key": "s3cret"}}, "own: has a key other"),
        ({"own": {"symbol": "X", "rpc_urls": ["http://a/"]}}, "own: needs chain_id"),
        ({"own": {"chain_id": True, "symbol": "X", "rpc_urls": ["http://a/"]}}, "needs chain_id"),
        ({"own": {"chain_id": 5, "rpc_urls": ["http://a/"]}}, "own: needs symbol"),
        ({"own": {"chain_id": 5, "symbol": "X"}}, "own: needs rpc_urls"),
        ({"own": {"chain_id": 5, "symbol": "X", "rpc_urls": []}}, "own: rpc_urls must be 1 to"),
        ({"own": {"chain_id": 5, "symbol": "X", "rpc_urls": ["s3cret"]}}, "own: an RPC's URL"),
        ({"base": {"chain_id": 5}}, "base: has the chain_id 8453"),
        ({"base": {"decimals": 78}}, "base: has decimals"),
    ],
)
def test_a_wrong_setting_is_refused_without_repeating_it(configured: Any, told: str) -> None:
    text = configured if isinstance(configured, str) else json.dumps(configured)
    with pytest.raises(SettingsError, match=told) as refused:
        chains.registry(text)
    assert "s3cret" not in str(refused.value)


# -- amounts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (0.1, "0.1"),
        ("0.10", "0.10"),
        (5, "5"),
        (1e-7, "0.0000001"),
        (1e15, "1000000000000000"),
        (" 7 ", "7"),
        ("0." + "0" * 17 + "1", "0.000000000000000001"),
        (10**77, "1" + "0" * 77),
    ],
)
def test_amounts_are_read_exactly(given: Any, read: str) -> None:
    assert f"{chains.amount(given):f}" == read


@pytest.mark.parametrize(
    "given",
    [
        *(-1, "-1", "1e5", "nan", "", ".5", "1.", "1,5", "0x10", "٣", None, True, [], 10**78),
        *(float("inf"), float("nan"), 5e300, 0.1 + 0.2, Decimal("NaN")),
    ],
)
def test_what_is_no_amount_or_no_exact_one_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"must be|too many digits"):
        chains.amount(given)


def test_amounts_of_6_and_18_decimals_are_integers_of_the_smallest_unit() -> None:
    assert chains.base_units(Decimal("0.1"), 18) == 10**17
    assert chains.base_units(Decimal("0.1"), 6) == 100_000
    assert chains.base_units(Decimal("2.50"), 0) == 3  # 2 is below it, 3 is not
    assert chains.base_units(Decimal("0.0000001"), 6) == 1
    assert chains.units(10**17, 18) == "0.1"
    assert chains.units(1, 18) == "0.000000000000000001"
    assert chains.units(1_500_000, 6) == "1.5"
    assert (chains.units(20, 0), chains.units(0, 18), chains.units(-5, 1)) == ("20", "0", "-0.5")


@given(st.integers(0, chains.MOST), st.integers(0, chains.MOST_DECIMALS))
def test_a_balance_reads_back_from_its_decimal_units(value: int, decimals: int) -> None:
    assert chains.base_units(chains.amount(chains.units(value, decimals)), decimals) == value


@given(
    st.integers(0, 10**30),
    st.integers(0, 24),
    st.decimals(0, 10**9, allow_nan=False, places=9),
)
def test_a_balance_is_judged_as_the_exact_fraction_would_be(
    value: int, decimals: int, threshold: Decimal
) -> None:
    number = int(threshold.scaleb(9))
    below = value * 10**9 < number * 10**decimals
    threshold = Decimal(f"{threshold:f}")
    assert (chains.level(value, decimals, alert=threshold) is Level.WARNING) == below
    assert (chains.level(value, decimals, critical=threshold) is Level.CRITICAL) == below


@given(
    st.integers(0, chains.MOST_DECIMALS),
    st.decimals(0, 10**40, allow_nan=False, places=9),
    st.integers(0, 50),
)
def test_so_much_above_a_threshold_is_the_exact_fraction_rounded_up(
    decimals: int, threshold: Decimal, percent: int
) -> None:
    exact = Fraction(threshold) * (100 + percent) / 100 * 10**decimals
    threshold = Decimal(f"{threshold:f}")
    assert chains.base_units(threshold, decimals, percent) == math.ceil(exact)
    assert chains.base_units(threshold, decimals, percent) >= chains.base_units(threshold, decimals)


def test_a_balance_that_equals_a_threshold_is_not_below_it() -> None:
    def found(value: int) -> Level:
        return chains.level(value, 6, alert=Decimal("0.1"), critical=Decimal("0.03"))

    assert [found(value) for value in (100_000, 99_999, 30_000, 29_999, 0)] == [
        Level.OK,
        Level.WARNING,
        Level.WARNING,
        Level.CRITICAL,
        Level.CRITICAL,
    ]
    assert chains.level(0, 18) is Level.OK
    assert chains.level(0, 18, critical=Decimal(0)) is Level.OK


def test_coins_are_named_and_counted() -> None:
    base = chains.KNOWN["base"]
    assert chains.coin(base, "native") == chains.Coin(symbol="ETH", decimals=18)
    assert chains.coin(base, USDC.lower()) == chains.Coin(symbol="USDC", decimals=6)
    other = "0x" + "70" * 20
    assert chains.coin(base, other) == chains.Coin(symbol="0x7070…7070", decimals=None)
    assert chains.coin(base, other, 8).decimals == 8


# -- the burn ---------------------------------------------------------------------------------


def falling(*values: int) -> list[tuple[datetime, int]]:
    return [(START + number * HOUR, value) for number, value in enumerate(values)]


def test_a_steady_fall_lasts_as_long_as_it_takes_to_nothing() -> None:
    found = chains.burn(falling(100, 90, 80, 70))
    assert found == chains.Burn(per_day=240, lasts=timedelta(hours=7))
    assert chains.burn(falling(100, 90, 80, 70)[::-1]) == found


def test_what_does_not_fall_has_no_burn() -> None:
    for readings in (falling(), falling(5, 4), falling(5, 5, 5), falling(1, 2, 3, 4)):
        assert chains.burn(readings) is None
    assert chains.burn([(START, 5), (START, 4), (START, 3)]) is None


def test_a_top_up_is_set_aside_and_one_large_payment_does_not_bend_the_rest() -> None:
    topped = chains.burn(falling(100, 90, 80, 1080, 1070, 1060, 1050))
    assert topped is not None
    assert topped.per_day == pytest.approx(240, rel=0.2)
    paid = chains.burn(falling(*range(10_000, 9_900, -10), *range(5_000, 4_900, -10)))
    assert paid is not None
    assert paid.lasts is not None


def test_rare_payments_are_counted_by_their_mean() -> None:
    found = chains.burn(falling(*[1000] * 23, 760, 760))
    assert found == chains.Burn(per_day=240, lasts=timedelta(hours=76))


def test_a_balance_of_hundreds_of_years_is_not_said_to_run_out() -> None:
    found = chains.burn(falling(10**30, 10**30 - 1, 10**30 - 2))
    assert found == chains.Burn(per_day=24, lasts=None)
    empty = chains.burn(falling(20, 10, 0))
    assert empty is not None
    assert empty.lasts == timedelta(0)


# -- the configuration ------------------------------------------------------------------------

HOLDER = "0x" + "ab" * 20


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"chain": "mumbai"}, "chain: is no known chain; known are avalanche"),
        ({"address": "0xab"}, "address: is no address"),
        ({"token": "usdc"}, "token: is not native, and is no address"),
        ({"alert_threshold": -1}, "alert_threshold: must be a decimal number"),
        ({"alert_threshold": 0.1 + 0.2}, "alert_threshold: has too many digits"),
        ({"critical_threshold": "many"}, "critical_threshold: must be a decimal number"),
        ({"alert_threshold": 1, "critical_threshold": "1.1"}, "must not be above alert_threshold"),
        ({"decimals": 6}, "decimals go with a token"),
        ({"token": USDC, "decimals": 78}, "decimals"),
        ({"rpc_urls": []}, "rpc_urls"),
        ({"rpc_urls": ["ftp://a/s3cret"]}, "rpc_urls: an RPC's URL"),
        ({"hysteresis_percent": -1}, "hysteresis_percent"),
        ({"hysteresis_percent": 51}, "hysteresis_percent"),
        ({"hysteresis_percent": 2.5}, "hysteresis_percent"),
        ({"threshold": 5}, "threshold"),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_field(keys: Any, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config(MonitorType.BALANCE, {"chain": "base", "address": HOLDER, **keys})
    assert told in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_a_stored_configuration_keeps_amounts_exactly_and_rpcs_sealed() -> None:
    keys = Keyring([SecretStr("bGlnaHRob3VzZS10ZXN0cy0wMDAwMDAwMDAwMDAwMDA=")])
    given = {
        "chain": "base",
        "address": HOLDER,
        "token": "NATIVE",
        "alert_threshold": 0.1,
        "critical_threshold": "0.000000000000000001",
        "rpc_urls": ["https://rpc.example/v1/k3y"],
    }
    config = parse_config(MonitorType.BALANCE, given)
    stored = configs.seal(config, keys)
    assert stored["alert_threshold"] == "0.1"
    assert "k3y" not in json.dumps(stored)
    assert parse_config(MonitorType.BALANCE, stored, keys) == config
    assert config.target() == "base 0xABaBaBaBABabABabAbAbABAbABabababaBaBABaB"


def test_the_readmes_example_is_a_balance() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    section = readme.partition("### Monitor `balance`")[2].partition("\n### ")[0]
    example = json.loads(section.partition("```json\n")[2].partition("```")[0])
    assert parse_config(MonitorType.BALANCE, example).target().startswith("base 0x")
    for option in balance.BalanceConfig.model_fields.keys() - {"timeout", "retries"}:
        assert f"| `{option}` |" in section
