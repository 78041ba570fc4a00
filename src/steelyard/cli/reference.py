"""The command reference as Markdown, made from the commands' own help texts.

`python -m steelyard.cli.reference` prints docs/reference/cli.md; a test compares the two.
"""

from collections.abc import Iterator

import click

from steelyard.cli.main import steelyard

_WIDTH = 100
_OPENING = """# Command reference

Made from the help texts by `python -m steelyard.cli.reference`; a test keeps it true.

- `--data DIR` names the data directory. `--json` asks for an answer in JSON: amounts as integers of 1e-9 currency units
  (`…_nano`) with their decimal text beside them, times as RFC 3339 texts.
- Commands that write go through the running platform; while it is down they take the data directory's lock and write
  themselves. Reports read the database directly in both cases.
- Exit code 0: done. 1: it could not be done, or `verify` found something. 2: what was asked cannot be.
  130: interrupted.
- Errors are one line on stderr; `STEELYARD_DEBUG=1` shows where a bug came from.
"""


def reference() -> str:
    """The whole page."""
    return "\n".join([_OPENING, *_sections(click.Context(steelyard, info_name="steelyard"))])


def _sections(context: click.Context) -> Iterator[str]:
    command = context.command
    formatter_context = click.Context(
        command, info_name=context.info_name, parent=context.parent, terminal_width=_WIDTH, max_content_width=_WIDTH
    )
    depth = "#" * min(context.command_path.count(" ") + 2, 3)
    text = "\n".join(line.rstrip() for line in command.get_help(formatter_context).splitlines())
    yield f"{depth} {context.command_path}\n\n```text\n{text}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            part = command.get_command(context, name)
            if part is not None:
                yield from _sections(click.Context(part, info_name=name, parent=context))


if __name__ == "__main__":
    click.echo(reference(), nl=False)
