"""gemma4-gguf completion: what makes a shell complete commands, options and file names."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from gemma4_gguf.cli.options import add_command

SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")
FILES = ("FILE", "MODEL", "PICTURE", "SOUND", "SRC", "IN.gguf")

DESCRIPTION = """\
Print a script that makes a shell complete commands, options and file names.

  bash  gemma4-gguf completion bash > ~/.local/share/bash-completion/completions/gemma4-gguf
  zsh   gemma4-gguf completion zsh > ~/.zfunc/_gemma4-gguf    with fpath+=~/.zfunc before compinit
  fish  gemma4-gguf completion fish > ~/.config/fish/completions/gemma4-gguf.fish
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(
        commands, run, "completion", "Print a script for completion in a shell.", DESCRIPTION
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    for command in args.parser.subcommands.values():
        for action in command._actions:
            if action.metavar in FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.metavar == "DIR":
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    sys.stdout.write(shtab.complete(args.parser, args.shell) + "\n")
    return 0
