"""`steelyard`: the program's command line.

Owns the list of commands and the last catch: what a person did wrong is one line on stderr and exit code 2, what went
wrong is one line and exit code 1. Never a traceback, unless STEELYARD_DEBUG asks for one.
"""

import importlib
import os
import sys
from collections.abc import Sequence

import click

from steelyard import __version__
from steelyard.cli.epilog import examples
from steelyard.cli.listing import Listing
from steelyard.kernel.errors import CallerError, SteelyardError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


COMMANDS = {
    "up": "up:up",
    "tenant": "tenant:tenant",
    "key": "key:key",
    "wallet": "wallet:wallet",
    "limit": "limit:limit",
    "operator": "tenant:operator",
    "prices": "prices:prices",
    "models": "models:models",
    "vendor": "vendor:vendor",
    "engines": "engines:engines",
    "engine": "engine:engine",
    "import": "importing:import_group",
    "route": "route:route",
    "batches": "batches:batches",
    "usage": "reports:usage_command",
    "margin": "reports:margin_command",
    "statement": "reports:statement_command",
    "receipt": "proofs:receipt",
    "rerate": "rerate:rerate_command",
    "payables": "reconcile:payables_command",
    "reconcile": "reconcile:reconcile_command",
    "ledger": "ledger:ledger",
    "verify": "reports:verify_command",
    "prove": "prove:prove",
    "config": "config:config",
}
"""Command → `module:attribute` in this package, in the order a newcomer needs them."""


class _OnDemand(Listing):
    """Imports a command's module when the command is asked for: nobody waits for what he does not use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"steelyard.cli.{module}"), attribute)
        return command


@click.group(
    cls=_OnDemand,
    context_settings={"max_content_width": 100},
    epilog=examples("steelyard up", "steelyard tenant add acme", "steelyard margin --by model"),
)
@click.version_option(__version__, prog_name="steelyard")
def steelyard() -> None:
    """Runs foundation models and keeps their books."""


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
    except OSError as error:
        return _say(f"{error.filename or 'The system'}: {error.strerror or error}.", 1)
    except Exception as error:
        if os.environ.get("STEELYARD_DEBUG"):
            raise
        return _say(_unexpected(error), 1)
    return code if isinstance(code, int) else 0


def _unexpected(error: Exception) -> str:
    from sqlalchemy.exc import DatabaseError  # a third of a second that no other end of a command pays

    if isinstance(error, DatabaseError):
        return f"The books cannot be used: {error.orig}."
    return f"Steelyard failed ({type(error).__name__}: {error}). STEELYARD_DEBUG=1 shows where."


def _say(text: str, code: int) -> int:
    click.echo(text, err=True)
    return code


def main() -> None:
    sys.exit(run())


if __name__ == "__main__":
    main()
