"""gemma4-gguf config: settings that last, in a small file: the model that is used when none is named."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from gemma4_gguf.cli.options import add_command
from gemma4_gguf.errors import OptionError, OutputError

SETTINGS = {"model": "the model that commands take when none is named"}

DESCRIPTION = """\
Show or change settings that last.

  gemma4-gguf config                              the file, and what is set
  gemma4-gguf config model models/gemma-4-E2B-it-Q4_K_M.gguf
  gemma4-gguf config model --unset
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(commands, run, "config", "Show or set the default model.", DESCRIPTION)
    known = "; ".join(f"{name}: {what}" for name, what in SETTINGS.items())
    parser.add_argument("name", nargs="?", choices=tuple(SETTINGS), metavar="NAME", help=known)
    parser.add_argument("value", nargs="?", metavar="VALUE", help="set it; a .gguf file or ORG/REPO[:QUANT]")
    parser.add_argument("--unset", action="store_true", help="forget it")


def run(args: argparse.Namespace) -> int:
    """Print what is set on stdout, or change it."""
    from gemma4_gguf.cli.output import hint

    settings = read_settings()
    if args.name is None:
        hint("[dim]", str(settings_path()))
        for name, value in settings.items():
            print(f"{name} = {value}")
    elif args.unset:
        settings.pop(args.name, None)
        _write_settings(settings)
    elif args.value is not None:
        _write_settings({**settings, args.name: _found(args.value)})
    elif args.name in settings:
        print(settings[args.name])
    else:
        hint("[dim]", f"{args.name} is not set")
        return 1
    return 0


def settings_path() -> Path:
    """The file: in %APPDATA% on Windows, else in $XDG_CONFIG_HOME or ~/.config."""
    if os.name == "nt":
        base = os.environ.get("APPDATA") or Path.home() / "AppData/Roaming"
    else:
        base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "gemma4-gguf" / "config.json"


def read_settings() -> dict[str, str]:
    """What is set.

    Returns:
        Value by name; empty without a file.

    Raises:
        OptionError: the file cannot be read.
    """
    from gemma4_gguf.cli.text_input import read_file

    path = settings_path()
    if not path.exists():
        return {}
    try:
        settings = json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path} is no JSON: {error}. Correct it, or delete it.") from error
    strings = isinstance(settings, dict) and all(isinstance(value, str) for value in settings.values())
    if not strings or not set(settings) <= set(SETTINGS):
        raise OptionError(f'{path} holds something else than {{"model": "…"}}. Correct it, or delete it.')
    return settings


def _write_settings(settings: dict[str, str]) -> None:
    path = settings_path()
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error


def _found(model: str) -> str:
    """A model as it can be named from any directory."""
    from gemma4_gguf.files.hub import HubId, locate

    found = locate(model)
    return model if isinstance(found, HubId) else str(found.resolve())
