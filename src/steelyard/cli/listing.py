"""Groups of commands, each listed with the whole first sentence of its help: a sentence cut short explains nothing."""

import click

_WHOLE = 1_000  # characters: no first sentence is longer


class Listing(click.Group):
    """A group of commands."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        shown = [(name, one.get_short_help_str(_WHOLE)) for name, one in found if one is not None and not one.hidden]
        if shown:
            with formatter.section("Commands"):
                formatter.write_dl(shown)
