"""gemma4-gguf ask: one question, one answer."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from gemma4_gguf.cli.options import (
    REPLY_AS_JSON,
    add_command,
    add_json_option,
    add_model_argument,
    add_model_options,
    add_sampling_options,
    add_schema_option,
    add_turn_options,
    attachments,
    given,
    read_schema,
)
from gemma4_gguf.cli.text_input import argument, read_stdin
from gemma4_gguf.options import SamplingOptions

DESCRIPTION = """\
Ask one question and print the answer as it comes.

  gemma4-gguf ask MODEL "What is in this picture?" --image photo.jpg
  gemma4-gguf ask MODEL "Transcribe this." --audio voice.mp3
  git diff | gemma4-gguf ask MODEL "Review this change." -
  gemma4-gguf ask MODEL "What was bought?" --image receipt.jpg --schema receipt.json
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(
        commands, run, "ask", "Ask one question about text, pictures, clips or sounds.", DESCRIPTION
    )
    add_model_argument(parser)
    text_help = "the question; - stands for standard input"
    parser.add_argument("prompt", nargs="*", type=argument, metavar="TEXT", help=text_help)
    add_model_options(parser)
    add_turn_options(parser)
    add_sampling_options(parser)
    add_schema_option(parser)
    add_json_option(parser, REPLY_AS_JSON)


def run(args: argparse.Namespace) -> int:
    """Stream the answer to stdout, a thought dimmed to stderr."""
    from gemma4_gguf.cli.model_choice import model_and_words
    from gemma4_gguf.cli.output import print_json
    from gemma4_gguf.cli.stream import open_session, show
    from gemma4_gguf.structured_output import as_constraint

    schema = read_schema(args.schema, args.pattern)
    if schema is not None:
        as_constraint(schema)  # before a model is loaded for nothing
    model, words = model_and_words(args, args.prompt)
    words = [read_stdin() if text == "-" else text for text in words]
    with open_session(model, args, quiet=args.json) as session:
        reply = show(
            session.stream(
                *attachments(args),
                *words,
                system=args.system,
                thinking=args.think,
                image_tokens=args.image_tokens,
                schema=schema,
                **given(args, SamplingOptions),
            ),
            quiet=args.json,
        )
    if args.json:
        print_json(asdict(reply))
    return 0
