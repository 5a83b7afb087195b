"""gemma4-gguf describe: a description of a picture, a clip or a sound."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gemma4_gguf.cli.options import (
    REPLY_AS_JSON,
    add_command,
    add_image_tokens,
    add_json_option,
    add_model_argument,
    add_model_options,
    add_sampling_options,
    add_think_option,
    given,
)
from gemma4_gguf.cli.text_input import argument
from gemma4_gguf.options import SamplingOptions
from gemma4_gguf.types import DEFAULT_FRAMES

DESCRIPTION = """\
Tell what a picture, a clip or a sound is about.

  gemma4-gguf describe holiday.mp4 -m MODEL
  gemma4-gguf describe match.mkv -m MODEL --fps 1 --frames 64 --prompt "When does somebody score?"
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(commands, run, "describe", "Describe a picture, a clip or a sound.", DESCRIPTION)
    add_model_argument(parser)
    parser.add_argument("file", metavar="FILE", help="a picture, a clip or a sound")
    parser.add_argument("--prompt", type=argument, metavar="TEXT", help="ask this instead of a description")
    add_think_option(parser)
    add_json_option(parser, REPLY_AS_JSON)
    add_image_tokens(parser)
    clip = parser.add_argument_group("clips", argument_default=argparse.SUPPRESS)
    clip.add_argument("--fps", type=float, metavar="X", help="frames taken per second (evenly spread)")
    clip.add_argument("--frames", type=int, metavar="N", help=f"frames at most ({DEFAULT_FRAMES})")
    clip.add_argument("--no-sound", dest="sound", action="store_false", help="leave out the sound track")
    add_model_options(parser)
    add_sampling_options(parser)


def run(args: argparse.Namespace) -> int:
    """Stream the description to stdout."""
    from gemma4_gguf.cli.model_choice import chosen_model
    from gemma4_gguf.cli.output import print_json
    from gemma4_gguf.cli.stream import open_session, show
    from gemma4_gguf.errors import OptionError
    from gemma4_gguf.tasks.vision import description
    from gemma4_gguf.types import Video

    model = chosen_model(args)
    part, prompt = description(Path(args.file), args.prompt)
    of_clips = {name: getattr(args, name) for name in ("fps", "frames", "sound") if hasattr(args, name)}
    if isinstance(part, Video):
        budget = {} if args.image_tokens is None else {"image_tokens": args.image_tokens}
        part = replace(part, **of_clips, **budget)
    elif of_clips:
        raise OptionError(f"{args.file} is no clip; leave out --fps, --frames and --no-sound.")
    options = {"image_tokens": args.image_tokens, "thinking": args.think, **given(args, SamplingOptions)}
    with open_session(model, args, quiet=args.json) as session:
        reply = show(session.stream(part, prompt, **options), quiet=args.json)
    if args.json:
        print_json(asdict(reply))
    return 0
