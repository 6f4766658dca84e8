"""Of a plan of `subscriptions apply`: parents, which may be yet to be made, and windows."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from graphlib import CycleError, TopologicalSorter

from lighthouse.cli.wanted import Reader, Wanted
from lighthouse.errors import ConfigError
from lighthouse.model import Subscription
from lighthouse.store import applying
from lighthouse.store.applying import Key
from lighthouse.windows import Window, occurrence


class Relations:
    """What changes of parents and windows; `cancelled`: whatever the file does not name ends."""

    def __init__(self, wanted: Reader, seen: applying.Present, *, cancelled: bool) -> None:
        self._wanted, self._seen = wanted, seen
        named = {each.key for each in wanted.wanted}
        there = {each.id: (each.wallet_address, each.name) for each in seen.subscriptions}
        self._live = named | {key for key in there.values() if not cancelled or key in named}
        self._parents: dict[Key, Sequence[Key]] = {
            key: [there[parent] for parent in seen.parents.get(id_, ()) if parent in there]
            for id_, key in there.items()
        }

    def change(
        self, wanted: Wanted, found: Subscription | None, changes: applying.Changes
    ) -> list[str]:
        """Note what changes of one subscription; for people. Raises ConfigError."""
        return [
            *self._change_parents(wanted, found, changes),
            *self._change_windows(wanted, found, changes),
        ]

    def _change_parents(
        self, wanted: Wanted, found: Subscription | None, changes: applying.Changes
    ) -> list[str]:
        names = wanted.entry.parents
        if names is None:
            return []
        for index, name in enumerate(names):
            if (wanted.wallet, name) not in self._live:
                raise ConfigError(
                    "no subscription of this wallet has that name", f"parents.{index}"
                )
        parents = [(wanted.wallet, name) for name in dict.fromkeys(names)]
        before = self._parents.get(wanted.key, ())
        self._parents[wanted.key] = parents
        # One that has ended is there by its id alone.
        ended = found is not None and len(self._seen.parents.get(found.id, ())) > len(before)
        if set(parents) == set(before) and not ended:
            return []
        changes.parents.append((wanted.key, parents))
        if not names:
            return ["without parents"]
        return [f"parents: {', '.join(name for _, name in parents)}"]

    def check_circles(self) -> None:
        """Note a circle as a fault of an entry that closes it."""
        try:
            TopologicalSorter(self._parents).prepare()
        except CycleError as exc:
            circle: list[Key] = exc.args[1]
            for wanted in self._wanted.wanted:
                if wanted.entry.parents and wanted.key in circle:
                    names = " → ".join(name for _, name in reversed(circle))
                    with self._wanted.faults_of(wanted.path):
                        raise ConfigError(f"{names} is a circle", "parents") from None
                    break

    def _change_windows(
        self, wanted: Wanted, found: Subscription | None, changes: applying.Changes
    ) -> list[str]:
        if wanted.windows is None:
            return []
        now = datetime.now(UTC)
        missing: Counter[tuple[str, Window]] = Counter(wanted.windows)
        removed = []
        for own in () if found is None else self._seen.windows.get(found.id, ()):
            if missing[own.name, own.window] > 0:
                missing[own.name, own.window] -= 1
            else:
                removed.append(own)
        # What is over was removed when it ended, and the file may still tell of it.
        added = [one for one in missing.elements() if occurrence(one[1], now) is not None]
        changes.add_windows += [(wanted.key, *one) for one in added]
        changes.remove_windows += [own.id for own in removed]
        facts = []
        if added:
            facts.append(f"maintenance: {', '.join(name for name, _ in added)}")
        gone = [own.name for own in removed if own.name not in {name for name, _ in added}]
        if gone:
            facts.append(f"without maintenance: {', '.join(gone)}")
        return facts
