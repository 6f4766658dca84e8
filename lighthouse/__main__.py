"""The `lighthouse` command: puts the entrances' commands together and tells every error in a line.

The exit status is 0 for success, 2 for a user's mistake, 1 for anything else that went wrong and
130 after Ctrl-C. A traceback is for developers: LIGHTHOUSE_LOG_LEVEL=debug shows it.
"""

import os
import sys
from collections.abc import Sequence

import click

from lighthouse.cli.root import Lazy, cli
from lighthouse.errors import LighthouseError, UsageError

FAILED = 1
MISTAKE = 2
INTERRUPTED = 130

# The entrances never import each other; here they meet. `up` needs the extra `local`.
cli.lazy["up"] = Lazy("lighthouse.local.command:up", "Run everything on this machine.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (this process' when None); the exit status."""
    try:
        status = cli.main(
            None if arguments is None else list(arguments),
            prog_name="lighthouse",
            standalone_mode=False,
        )
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as exc:
        click.echo(exc.format_message(), err=True)
        return MISTAKE
    except click.ClickException as exc:
        return _told(exc.format_message(), exc.exit_code)
    except UsageError as exc:
        return _told(str(exc), MISTAKE)
    except LighthouseError as exc:
        return _told(str(exc), FAILED)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough; what Python would still flush has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as exc:  # noqa: BLE001 - the entrance: a person sees one line
        _traceback_for_developers()
        return _told(
            f"internal error, {type(exc).__name__}: {exc};"
            " LIGHTHOUSE_LOG_LEVEL=debug shows where it happened",
            FAILED,
        )
    return status if isinstance(status, int) else 0


def _told(message: str, status: int) -> int:
    click.echo(f"lighthouse: {' '.join(message.split())}", err=True)
    return status


def _traceback_for_developers() -> None:
    from lighthouse import settings

    try:
        wanted = settings.current().log_level == "debug"
    except LighthouseError:
        wanted = False
    if wanted:
        sys.excepthook(*sys.exc_info())


if __name__ == "__main__":
    sys.exit(main())
