"""The command line: parse, run, and turn errors into one sentence and an exit code."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Annotated, get_args

import tyro
from rich.markup import escape

from avb._errors import AvbError
from avb.cli._console import errors
from avb.cli._diagnose import Diagnose
from avb.cli._evaluate import Compare, Evaluate
from avb.cli._train import Resume, Train
from avb.cli._use import Encode, Methods, Reconstruct, Sample

_DESCRIPTION = """Adversarial Variational Bayes: train, and know what every number is.

For example:
$ avb train digits --epochs 100
$ avb evaluate runs/digits-avb_adaptive-d8-s0

avb COMMAND --help explains a command."""

Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Resume, tyro.conf.subcommand("resume")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Diagnose, tyro.conf.subcommand("diagnose")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Reconstruct, tyro.conf.subcommand("reconstruct")]
    | Annotated[Encode, tyro.conf.subcommand("encode")]
    | Annotated[Methods, tyro.conf.subcommand("methods")]
)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: The arguments; by default those of the process.

    Returns:
        0 when all is well, 1 after an error. Wrong usage exits with 2.
    """
    args = sys.argv[1:] if args is None else args
    try:
        _expect_known_command(args)
        command = tyro.cli(
            Command,  # pyright: ignore[reportArgumentType]
            prog="avb",
            description=_DESCRIPTION,
            args=args,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        )
        with _warnings_in_one_line():
            return command.run()
    except BrokenPipeError:
        # The reader of the output has gone, as in `avb methods | head`; flushing at exit
        # would raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (AvbError, OSError) as error:
        _print_error(str(error))
    except KeyboardInterrupt:
        _print_error("interrupted")
    return 1


def _expect_known_command(args: Sequence[str]) -> None:
    """Refuse an unknown command here, since Tyro would not say which one is nearest."""
    names = [get_args(command)[1].name for command in get_args(Command)]
    if args and not args[0].startswith("-") and args[0] not in names:
        close = get_close_matches(args[0], names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        _print_error(f"command: expected one of {', '.join(names)}, got {args[0]!r}{hint}")
        raise SystemExit(2)


def _print_error(message: str) -> None:
    errors().print(f"[red]error:[/] {escape(message)}", soft_wrap=True)


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Show warnings without the file and line that raised them."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        errors().print(f"[yellow]warning:[/] {escape(str(message))}", soft_wrap=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
