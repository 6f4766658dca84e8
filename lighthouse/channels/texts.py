"""Texts brought into what a service shows: nothing invisible, nothing too long."""

import unicodedata
from collections.abc import Callable

#: Unicode categories that show nothing or turn what follows around: controls, formats, surrogates.
_UNSEEN = frozenset({"Cc", "Cf", "Cs"})


def clean(text: str) -> str:
    """Text without control, format and bidirectional characters; line ends and tabs stay."""
    return "".join(
        character
        for character in text.replace("\r\n", "\n").replace("\r", "\n")
        if character in "\n\t" or unicodedata.category(character) not in _UNSEEN
    )


def one_line(text: str) -> str:
    """Clean text whose runs of space are one space each."""
    return " ".join(clean(text).split())


def utf16(text: str) -> int:
    """Length in UTF-16 units, which most services count in."""
    return len(text) + sum(1 for character in text if ord(character) > 0xFFFF)


def clip(text: str, limit: int, cost: Callable[[str], int] = utf16, mark: str = "…") -> str:
    """At most `limit` by `cost`, a sum over characters; `mark` tells that something was cut."""
    if cost(text) <= limit:
        return text
    room = limit - cost(mark)
    kept = 0
    for character in text:
        room -= cost(character)
        if room < 0:
            break
        kept += 1
    return text[:kept] + mark
