"""Command dispatcher: picks the subcommand and turns an error into one sentence and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from gemma4_gguf import __version__
from gemma4_gguf.cli import (
    ask,
    chat,
    convert,
    demo,
    describe,
    detect,
    devices,
    doctor,
    inspect,
    pull,
    quantize,
    transcribe,
)
from gemma4_gguf.cli.errors import EXIT_INTERRUPTED, EXIT_PIPE, EXIT_USAGE, report
from gemma4_gguf.cli.options import MODEL_VARIABLE

COMMANDS = (demo, convert, quantize, inspect, ask, chat, detect, describe, transcribe, pull, devices, doctor)
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
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted.\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`| head`). Without another stdout the interpreter complains at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        return report(error)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands.

    Returns:
        Its namespace has `command`, None without a subcommand, and `run`.
    """
    parser = argparse.ArgumentParser(
        prog="gemma4-gguf",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"gemma4-gguf {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for module in COMMANDS:
        module.add_parser(commands)
    return parser
