"""Argument parser of the command line: whole option names in any order, and what was probably meant."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from gemma4_gguf.cli.errors import EXIT_USAGE
from gemma4_gguf.cli.terminal import visible


class Parser(argparse.ArgumentParser):
    """A parser whose options stand anywhere and are never abbreviated: `--max` must not become another.

    Args:
        options: as for `argparse.ArgumentParser`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self.subcommands: dict[str, Parser] = {}
        self._intermixed = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, but `MODEL --image FILE QUESTION` has a question."""
        if self._intermixed or self.subcommands:
            return super().parse_known_args(args, namespace)
        self._intermixed = True  # it calls this method for its two passes
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._intermixed = False

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The namespace; ends the process with a suggestion where something is unknown."""
        typed: Sequence[str] = sys.argv[1:] if args is None else args
        command = next((word for word in typed if not word.startswith("-")), None)
        if self.subcommands and command is not None and command not in self.subcommands:
            self.error(f"there is no command {command!r}{_meant(command, self.subcommands)}")
        parsed, unknown = self.parse_known_args(typed, namespace)
        if unknown:
            self.subcommands.get(command or "", self).refuse(unknown)
        return parsed

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Ends the process.

        Args:
            unknown: words that no argument takes.
        """
        options = [word.partition("=")[0] for word in unknown if word.startswith("-") and len(word) > 1]
        if not options:
            self.error(f"too many arguments: {' '.join(unknown)}. Quote a text with spaces.")
        known = [name for name in self._option_string_actions if name.startswith("--")]
        early = [name for name in options if name in self._option_string_actions]
        if early:
            self.error(f"{early[0]} belongs behind the command: {self.prog} {early[0]} …")
        self.error(", ".join(f"there is no option {name}{_meant(name, known)}" for name in options))

    def _print_message(self, message: str, file: Any = None) -> None:
        """Lets a stream fail that cannot be written, which argparse passes over."""
        if message:
            (file or sys.stderr).write(message)

    def error(self, message: str) -> NoReturn:
        """Ends the process with a sentence and where to read on.

        Args:
            message: what is wrong.
        """
        self.exit(EXIT_USAGE, f"error: {visible(message)}\n{self.prog} --help says more.\n")


def flags(parser: argparse.ArgumentParser) -> dict[str, str]:
    """How the options of a command are typed.

    Args:
        parser: of the command.

    Returns:
        Name of the option in Python → its long form, such as {"n_ctx": "--ctx"}.
    """
    actions = [action for action in parser._actions if action.option_strings]
    return {action.dest: action.option_strings[-1] for action in reversed(actions)}


def _meant(word: str, known: Any) -> str:
    """A question, if something like it is known."""
    begun = [name for name in known if name.startswith(word) and len(word) > 3]
    close = begun or difflib.get_close_matches(word, list(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(close[:3])}?" if close else ""
