"""Command dispatcher: picks the subcommand and turns an error into one sentence and an exit code."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from gemma4_gguf import __version__
from gemma4_gguf.cli import (
    ask,
    chat,
    completion,
    config,
    convert,
    demo,
    describe,
    detect,
    devices,
    doctor,
    inspect,
    pull,
    quantize,
    signals,
    transcribe,
)
from gemma4_gguf.cli.errors import EXIT_PIPE, EXIT_USAGE, report
from gemma4_gguf.cli.options import MODEL_VARIABLE
from gemma4_gguf.cli.parser import Parser, flags
from gemma4_gguf.cli.terminal import finish_stdout, standard_streams

COMMANDS = (
    demo,
    convert,
    quantize,
    inspect,
    ask,
    chat,
    detect,
    describe,
    transcribe,
    pull,
    devices,
    doctor,
    config,
    completion,
)
DEBUG = "GEMMA4_GGUF_DEBUG"

DESCRIPTION = "Convert Gemma 4 checkpoints to GGUF and run them on this machine."
EPILOG = f"""\
start here:
  gemma4-gguf demo                                        see it work, without a download
  gemma4-gguf convert google/gemma-4-E2B-it -o models     checkpoint to GGUF, in one pass
  gemma4-gguf chat models/gemma-4-E2B-it-Q4_K_M.gguf      talk to it

Answers and data go to stdout, progress and hints to stderr. A MODEL is a .gguf file or a hub id such as
org/repo:Q4_K_M. Commands that work on one file (detect, describe, transcribe) take the file first, and the
model as -m MODEL or from {MODEL_VARIABLE}. {DEBUG}=1 shows the traceback of an error.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes the process's own.

    Returns:
        The exit code: 0, or that of the error (see `gemma4_gguf.cli.errors`).
    """
    with standard_streams(), signals.unwinding() as interrupts:
        try:
            return _run(argv)
        except BrokenPipeError:  # the reader has gone (`| head`)
            finish_stdout()
            return EXIT_PIPE
        except (Exception, KeyboardInterrupt, signals.Terminated) as error:
            number = interrupts.number or (signals.SIGINT if isinstance(error, KeyboardInterrupt) else 0)
            if not number:
                raise
            sys.stderr.write(f"\n{signals.farewell(number)}\n")
            finish_stdout()
            return signals.exit_code(number)


def build_parser() -> Parser:
    """The parser of all subcommands.

    Returns:
        Its namespace has `command`, None without a subcommand, and `run`.
    """
    parser = Parser(prog="gemma4-gguf", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"gemma4-gguf {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for module in COMMANDS:
        module.add_parser(commands)
    parser.subcommands = commands.choices
    return parser


def _run(argv: Sequence[str] | None) -> int:
    """Parses and runs; an error becomes its code, an interrupt passes through."""
    parser = build_parser()
    command = parser
    try:
        try:
            args = parser.parse_args(argv)
        finally:
            sys.stdout.flush()  # --help
        if args.command is None:
            parser.print_help(sys.stderr)
            return EXIT_USAGE
        command = parser.subcommands[args.command]
        args.parser = parser
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            code: int = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        raise
    except Exception as error:
        if os.environ.get(DEBUG) or signals.current.number:
            raise
        code = report(error, flags(command))
        finish_stdout()
        return code


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    from gemma4_gguf.cli.output import hint

    hint("[dim]note: ", str(message))
