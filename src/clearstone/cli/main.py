"""``clearstone``: the group of commands, and how errors become sentences and exit codes."""

from __future__ import annotations

import io
import sys
from typing import NoReturn

import click

from clearstone._version import __version__
from clearstone.cli import commands
from clearstone.errors import ClearstoneError

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_BEYOND = 0, 1, 2, 3


class _Group(click.Group):
    """Lists commands in the order they are needed: look, then replay."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self.commands)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@commands.place_options
@click.version_option(__version__, prog_name="clearstone")
def cli() -> None:
    """Time-travel debugging for AI agents.

    A reference to a checkpoint or trace is 'latest', the beginning of an id, or a file.

    Exit codes: 0 ran through, 1 failed or diverged, 2 usage, 3 got past the record into calls it does not have.
    """


for command in commands.ALL:
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line and exit: the entry point of the ``clearstone`` program."""
    commands.place.is_program = True
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # recorded text may hold what a terminal cannot show
    try:
        sys.exit(_run())
    except (ClearstoneError, OSError) as error:
        if commands.place.debug:
            raise
        click.echo(f"Error: {error}", err=True)
        sys.exit(EXIT_USAGE)


def _run() -> int:
    try:
        code = cli.main(prog_name="clearstone", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        code = exit_.exit_code
    except click.Abort:
        code = EXIT_FAILED
    except click.ClickException as error:
        error.show()
        code = EXIT_USAGE
    except BrokenPipeError:  # `clearstone traces | head`
        sys.stderr.close()
        code = EXIT_FAILED
    return code if isinstance(code, int) else EXIT_OK
