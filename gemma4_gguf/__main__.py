"""Entry point of the command and of `python -m gemma4_gguf`."""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback from here on

import os
from typing import NoReturn

from gemma4_gguf.cli import signals


def main() -> NoReturn:
    """Run the command line of this process, and end it with the exit code."""
    signals.exit_at_once()  # before anything is imported that takes time

    from gemma4_gguf.cli import terminal

    terminal.open_missing()
    from gemma4_gguf.cli.main import main as run

    try:
        code = run()
    except SystemExit as end:  # --help
        code = int(end.code or 0)
    # All is written and put away. The interpreter would take another second to tidy up its memory.
    os._exit(code)


if __name__ == "__main__":
    main()
