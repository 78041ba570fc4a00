"""`steelyard`: the program's command line.

Owns the list of commands and the last catch: what a person did wrong is one line on stderr and exit code 2, what went
wrong is one line and exit code 1. Never a traceback, unless STEELYARD_DEBUG asks for one.
"""

import os
import sys
from collections.abc import Sequence

import click
from sqlalchemy.exc import DatabaseError

from steelyard import __version__
from steelyard.cli import config, key, ledger, models, prices, reports, tenant, up, wallet
from steelyard.cli.options import examples
from steelyard.kernel.errors import CallerError, SteelyardError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class _InOrder(click.Group):
    """Commands in the order a newcomer needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_InOrder,
    context_settings={"max_content_width": 100},
    epilog=examples("steelyard up", "steelyard tenant add acme", "steelyard margin --by model"),
)
@click.version_option(__version__, prog_name="steelyard")
def steelyard() -> None:
    """Runs foundation models and keeps their books."""


for command in (
    up.up,
    tenant.tenant,
    key.key,
    wallet.wallet,
    tenant.operator,
    prices.prices,
    models.models,
    reports.usage_command,
    reports.margin_command,
    reports.statement_command,
    reports.receipt,
    ledger.ledger,
    reports.verify_command,
    config.config,
):
    steelyard.add_command(command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    try:
        code = steelyard.main(args=arguments, prog_name="steelyard", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except CallerError as error:
        return _say(error.message, 2 if error.status < 500 else 1)
    except SteelyardError as error:
        return _say(str(error), 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more is said at exit
        return 1
    except DatabaseError as error:
        return _say(f"The books cannot be used: {error.orig}.", 1)
    except OSError as error:
        return _say(f"{error.filename or 'The system'}: {error.strerror or error}.", 1)
    except Exception as error:
        if os.environ.get("STEELYARD_DEBUG"):
            raise
        return _say(f"Steelyard failed ({type(error).__name__}: {error}). STEELYARD_DEBUG=1 shows where.", 1)
    return code if isinstance(code, int) else 0


def _say(text: str, code: int) -> int:
    click.echo(text, err=True)
    return code


def main() -> None:
    sys.exit(run())


if __name__ == "__main__":
    main()
