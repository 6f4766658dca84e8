"""Screenshots of failed browser steps: files on the worker, bounded in number and age."""

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from lighthouse.settings import Settings

#: Files that one directory holds; one has about 50 KB.
MOST_FILES = 500
#: Seconds after which one goes: 7 days.
MOST_AGE_S = 7 * 86_400


def directory(settings: Settings) -> Path:
    """Where this worker's screenshots are."""
    if settings.screenshot_dir is not None:
        return settings.screenshot_dir
    return Path.home() / ".local" / "state" / "lighthouse" / "screenshots"


def save(settings: Settings, image: bytes) -> Path:
    """Write a JPEG and make room for the next one; blocks. Raises OSError.

    What a page shows may be secret: only the worker's user may read it.
    """
    place = directory(settings)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    path = place / f"{stamp}-{secrets.token_hex(6)}.jpg"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(image)
    prune(place)
    return path


def prune(place: Path) -> None:
    """Remove what is too old, and the oldest beyond the bound."""
    found = []
    for path in place.glob("*.jpg"):
        with suppress(OSError):  # another worker was faster
            found.append((path.stat().st_mtime, path))
    found.sort(reverse=True)
    oldest = time.time() - MOST_AGE_S
    for number, (changed, path) in enumerate(found):
        if number >= MOST_FILES or changed < oldest:
            path.unlink(missing_ok=True)
