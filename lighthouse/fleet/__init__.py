"""The Celery fleet: `celery -A lighthouse.fleet worker|beat|flower`, each without flags.

beat claims what is due and publishes batches; workers run them on one asyncio engine a process.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lighthouse.fleet.application import app

__all__ = ["app"]


def __getattr__(name: str) -> Any:
    """The application is made, and the settings are read, when Celery asks for it."""
    if name == "app":
        from lighthouse.fleet.application import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
