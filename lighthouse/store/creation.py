"""Making subscriptions: user, plan's limits, payment, state row and schedule in one transaction."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import psycopg
from psycopg.types.json import Jsonb

from lighthouse import plans, slots
from lighthouse.alerting import stored_alerting
from lighthouse.errors import UsageError
from lighthouse.model import MonitorType, SubscriptionStatus, Tier, from_slot, to_slot
from lighthouse.store.epochs import now_ms
from lighthouse.store.parents import write_parents
from lighthouse.store.pool import Connection, Pool, translated

#: Subscriptions in these states count against the plan of their wallet.
LIVE = (SubscriptionStatus.PENDING, SubscriptionStatus.ACTIVE, SubscriptionStatus.PAUSED)

#: Chains that a payment may be made on. Free text would let one payment be spent twice.
PAYMENT_CHAINS = (
    "avalanche",
    "avalanche_fuji",
    "base",
    "base_sepolia",
    "polygon",
    "polygon_amoy",
)

#: Distance of the first checks of subscriptions that are made together, in ms: 500 a second.
SPACING_MS = 2.0

NAME_CHARS = 100

_WALLET = re.compile(r"0x[0-9a-fA-F]{40}")
_TX_HASH = re.compile(r"0x[0-9a-fA-F]{64}")
_PAYMENT_INDEX = "idx_subscriptions_payment"
_NAME_INDEX = "idx_subscriptions_name"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSubscription:
    """A subscription to be made. Its configuration has been validated by its probe."""

    wallet: str
    type: MonitorType
    config: Mapping[str, Any]
    interval_s: int
    worst_case_s: float  #: what all attempts of one check may take together
    tier: Tier = Tier.FREE
    name: str | None = None  #: made from the configuration when None
    payment_tx_hash: str | None = None
    payment_chain: str | None = None
    payment_amount_usdc: int | None = None  #: millionths of a USDC
    expires_at: datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    alerting: Mapping[str, Any] = field(default_factory=dict)  #: as lighthouse.alerting stores it
    parents: tuple[UUID, ...] = ()  #: while one of them is down its alerts are held


def wallet_address(text: str) -> str:
    """A wallet's address as it is stored: lower case. Raises UsageError."""
    if not _WALLET.fullmatch(text):
        raise UsageError(f"wallet: {text[:60]!r} is no address; it is 0x and 40 hex digits")
    return text.lower()


def default_name(monitor: MonitorType, config: Mapping[str, Any]) -> str:
    """A name for people: the host that is watched, or the type."""
    url = config.get("url")
    try:
        host = urlsplit(url).hostname if isinstance(url, str) else None
    except ValueError:
        host = None
    return (host or monitor.value)[:NAME_CHARS]


async def create_subscription(pool: Pool, new: NewSubscription, *, enforce_plans: bool) -> UUID:
    """Make one subscription, active, with an immediate first check; see `create_subscriptions`."""
    return (await create_subscriptions(pool, [new], enforce_plans=enforce_plans))[0]


async def create_subscriptions(
    pool: Pool,
    news: Sequence[NewSubscription],
    *,
    enforce_plans: bool,
    spacing_ms: float = SPACING_MS,
) -> list[UUID]:
    """Make all the subscriptions or none, in one transaction; their ids, in order.

    The first check is due at once, `spacing_ms` apart when there are many, but never later than
    the subscription's own grid. Raises UsageError (PlanError for a plan's limit).
    """
    if not news:
        return []
    with translated():
        async with pool.connection() as conn, conn.transaction():
            return await create_within(
                conn, news, enforce_plans=enforce_plans, spacing_ms=spacing_ms
            )


async def create_within(
    conn: Connection,
    news: Sequence[NewSubscription],
    *,
    enforce_plans: bool,
    spacing_ms: float = SPACING_MS,
) -> list[UUID]:
    """`create_subscriptions` in the caller's transaction."""
    wallets = [wallet_address(new.wallet) for new in news]
    for new in news:
        _check_fields(new)
    with mistakes_told():
        users = await lock_users(conn, wallets)
        owners = [users[wallet] for wallet in wallets]
        await _check_expiries(conn, news)
        if enforce_plans:
            await _check_plans(conn, news, owners)
        names = await _names(conn, news, wallets, owners)
        ids = await _insert(conn, news, owners, names, await now_ms(conn), spacing_ms)
    for id_, new in zip(ids, news, strict=True):
        if new.parents:
            await write_parents(conn, id_, new.parents)
    return ids


@contextmanager
def mistakes_told() -> Iterator[None]:
    """What the database refuses because of the caller's values is the caller's mistake."""
    try:
        yield
    except psycopg.errors.UniqueViolation as exc:
        if exc.diag.constraint_name == _PAYMENT_INDEX:
            raise UsageError("payment_tx: this payment has already bought a subscription") from exc
        if exc.diag.constraint_name == _NAME_INDEX:
            raise UsageError("name: this wallet already has a subscription of that name") from exc
        raise
    except psycopg.DataError as exc:  # NUL and lone surrogates; all else has been validated
        raise UsageError(f"config: cannot be stored: {exc.diag.message_primary}") from exc


def _check_fields(new: NewSubscription) -> None:
    plans.check_interval(new.interval_s)
    plans.check_fits(new.worst_case_s, new.interval_s)
    if new.name is not None:
        check_name(new.name)
    if (new.payment_tx_hash is None) != (new.payment_chain is None):
        raise UsageError("payment: a transaction and its chain are given together or not at all")
    if new.payment_tx_hash is not None and not _TX_HASH.fullmatch(new.payment_tx_hash):
        raise UsageError("payment_tx: a transaction hash is 0x and 64 hex digits")
    if new.payment_chain is not None and new.payment_chain not in PAYMENT_CHAINS:
        raise UsageError(
            f"payment_chain: {new.payment_chain[:30]!r} is none of {', '.join(PAYMENT_CHAINS)}"
        )
    if new.payment_amount_usdc is not None:
        if new.payment_tx_hash is None:
            raise UsageError("payment_usdc: an amount needs its transaction and chain")
        if not 0 <= new.payment_amount_usdc < 2**63:
            raise UsageError("payment_usdc: the amount is out of range")
    if new.expires_at is not None and new.expires_at.tzinfo is None:
        raise UsageError("expires_at: the time needs a time zone, such as 2026-01-31T00:00:00Z")


def check_name(name: str) -> None:
    """Refuse what cannot be a subscription's name. Raises UsageError."""
    if not name.strip() or len(name) > NAME_CHARS or not name.isprintable():
        raise UsageError(f"name: 1 to {NAME_CHARS} printable characters")


#: Locks the owners' rows until the transaction ends (in wallet order, so two never deadlock):
#: counting and inserting behind the lock cannot pass a plan's limit together.
_UPSERT_USERS = """
INSERT INTO users (wallet_address)
SELECT wallet FROM unnest(%s::text[]) AS wallet ORDER BY wallet
ON CONFLICT (wallet_address) DO UPDATE SET last_seen_at = clock_timestamp()
RETURNING wallet_address, id
"""


async def lock_users(conn: Connection, wallets: Sequence[str]) -> dict[str, UUID]:
    """Lock the owners' rows, made if need be, until the transaction ends; their ids by wallet."""
    cursor = await conn.execute(_UPSERT_USERS, (sorted(set(wallets)),))
    return dict(await cursor.fetchall())


async def _check_expiries(conn: Connection, news: Sequence[NewSubscription]) -> None:
    ends = [new.expires_at for new in news if new.expires_at is not None]
    if ends and to_slot(min(ends)) <= await now_ms(conn):
        raise UsageError("expires_at: the time has already passed")


async def _check_plans(
    conn: Connection, news: Sequence[NewSubscription], owners: Sequence[UUID]
) -> None:
    cursor = await conn.execute(
        "SELECT user_id, count(*) FROM subscriptions"
        " WHERE user_id = ANY(%s) AND status = ANY(%s::subscription_status[]) GROUP BY user_id",
        (list(set(owners)), [status.value for status in LIVE]),
    )
    live = Counter(dict(await cursor.fetchall()))
    for new, owner in zip(news, owners, strict=True):
        plans.check_subscription(new.tier, new.type, new.interval_s, live[owner])
        live[owner] += 1


async def _names(
    conn: Connection,
    news: Sequence[NewSubscription],
    wallets: Sequence[str],
    owners: Sequence[UUID],
) -> list[str]:
    """Each one's name, unique among its wallet's live ones. The owners' rows are locked."""
    wanted = [new.name or default_name(new.type, new.config) for new in news]
    live = [status.value for status in LIVE]
    cursor = await conn.execute(
        "SELECT s.user_id, s.name FROM subscriptions s JOIN"
        " (SELECT DISTINCT * FROM unnest(%s::uuid[], %s::text[])) AS w (user_id, name)"
        " USING (user_id, name) WHERE s.status = ANY(%s::subscription_status[])",
        (list(owners), wanted, live),
    )
    taken = set(await cursor.fetchall())
    pairs = list(zip(news, owners, wanted, strict=True))
    if any(new.name is None and (owner, name) in taken for new, owner, name in pairs):
        cursor = await conn.execute(
            "SELECT user_id, name FROM subscriptions"
            " WHERE user_id = ANY(%s) AND status = ANY(%s::subscription_status[])",
            (list(set(owners)), live),
        )
        taken = set(await cursor.fetchall())
    names: list[str | None] = [None] * len(news)
    # Names that were chosen come before those that can give way.
    for index, new in enumerate(news):
        if new.name is not None:
            if (owners[index], new.name) in taken:
                raise UsageError(
                    f"name: wallet {wallets[index]} already has a subscription {new.name!r}"
                )
            taken.add((owners[index], new.name))
            names[index] = new.name
    suffixes: Counter[tuple[UUID, str]] = Counter()
    for index, new in enumerate(news):
        if new.name is None:
            key = (owners[index], wanted[index])
            name = wanted[index]
            while (owners[index], name) in taken:
                suffixes[key] += 1
                name = f"{wanted[index]}-{suffixes[key] + 1}"
            taken.add((owners[index], name))
            names[index] = name
    return [name for name in names if name is not None]


async def _insert(
    conn: Connection,
    news: Sequence[NewSubscription],
    owners: Sequence[UUID],
    names: Sequence[str],
    now: int,
    spacing_ms: float,
) -> list[UUID]:
    ids = [uuid4() for _ in news]
    created = from_slot(now)
    async with conn.cursor() as cursor:
        async with cursor.copy(
            "COPY subscriptions (id, user_id, name, target_type, target_config, tier,"
            " check_interval_seconds, status, payment_tx_hash, payment_chain, payment_amount_usdc,"
            " created_at, activated_at, expires_at, metadata, alerting) FROM STDIN"
        ) as copy:
            for id_, owner, name, new in zip(ids, owners, names, news, strict=True):
                await copy.write_row(
                    (
                        id_,
                        owner,
                        name,
                        new.type.value,
                        Jsonb(dict(new.config)),
                        new.tier.value,
                        new.interval_s,
                        SubscriptionStatus.ACTIVE.value,
                        new.payment_tx_hash.lower() if new.payment_tx_hash else None,
                        new.payment_chain,
                        new.payment_amount_usdc,
                        created,
                        created,
                        new.expires_at,
                        Jsonb(dict(new.metadata)),
                        Jsonb(dict(new.alerting)),
                    )
                )
        async with cursor.copy(
            "COPY subscription_state (subscription_id, latency_warn_ms) FROM STDIN"
        ) as copy:
            for id_, new in zip(ids, news, strict=True):
                await copy.write_row((id_, _warn_ms(new.alerting)))
        async with cursor.copy(
            "COPY schedule_epochs (subscription_id, interval_ms, phase_ms, first_slot) FROM STDIN"
        ) as copy:
            for index, (id_, new) in enumerate(zip(ids, news, strict=True)):
                interval = new.interval_s * 1000
                phase = slots.phase(id_, interval)
                first = min(now + int(index * spacing_ms), slots.next_slot(now, interval, phase))
                await copy.write_row((id_, interval, phase, first))
    return ids


def _warn_ms(alerting: Mapping[str, Any]) -> float | None:
    latency = stored_alerting(alerting).latency
    return None if latency is None else latency.warn_ms


# Nothing else ends slowness that is no longer looked for.
_NOT_SLOW = """
WITH state AS (
    UPDATE subscription_state SET latency_warn_ms = %(warn_ms)s,
           slow = slow AND %(warn_ms)s::real IS NOT NULL
     WHERE subscription_id = %(id)s
)
UPDATE incidents SET closed_at = greatest(clock_timestamp(), opened_at + interval '1 ms')
 WHERE subscription_id = %(id)s AND kind = 'high_latency' AND closed_at IS NULL
   AND %(warn_ms)s::real IS NULL
"""


async def write_alerting(
    conn: Connection, subscription_id: UUID, alerting: Mapping[str, Any]
) -> None:
    """Put another policy in force, as lighthouse.alerting stores it; psycopg's errors pass."""
    await conn.execute(
        "UPDATE subscriptions SET alerting = %s WHERE id = %s",
        (Jsonb(dict(alerting)), subscription_id),
    )
    await conn.execute(_NOT_SLOW, {"id": subscription_id, "warn_ms": _warn_ms(alerting)})
