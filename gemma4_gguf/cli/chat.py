"""gemma4-gguf chat: a conversation in the terminal."""

from __future__ import annotations

import argparse
from typing import Any

from gemma4_gguf.cli.options import (
    add_command,
    add_model_argument,
    add_model_options,
    add_sampling_options,
    add_turn_options,
)
from gemma4_gguf.truncation import ON_FULL

DESCRIPTION = """\
Talk to a model. Type /help in the conversation for its commands: /image, /audio, /think, /save and others.

  gemma4-gguf chat models/gemma-4-E2B-it-Q4_K_M.gguf
  gemma4-gguf chat unsloth/gemma-4-E2B-it-GGUF:Q4_K_M --image photo.jpg
  gemma4-gguf chat models/gemma-4-E2B-it-Q4_K_M.gguf --load talk.chat
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(commands, run, "chat", "Talk to a model in the terminal.", DESCRIPTION)
    add_model_argument(parser)
    add_model_options(parser)
    add_turn_options(parser)
    add_sampling_options(parser)
    parser.add_argument(
        "--on-full",
        choices=ON_FULL,
        help="when the context is full: an error (the default), or the oldest turns are left out",
    )
    parser.add_argument("--load", metavar="FILE", help="go on with a conversation that /save wrote")


def run(args: argparse.Namespace) -> int:
    """Read turns from stdin until it ends or says /exit."""
    from gemma4_gguf.cli.model_choice import chosen_model
    from gemma4_gguf.cli.repl import Repl
    from gemma4_gguf.cli.stream import open_session

    with open_session(chosen_model(args), args) as session:
        Repl(session, args).loop()
    return 0
