"""gemma4-gguf detect: things in a picture, as boxes or points."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gemma4_gguf.cli.options import (
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

DESCRIPTION = """\
Find things in a picture: boxes, or with --points places to click, in pixels of the picture.

  gemma4-gguf detect photo.png "mugs" -m MODEL -o out.png
  gemma4-gguf detect screen.png "the search field" -m MODEL --points --json
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(commands, run, "detect", "Find things in a picture.", DESCRIPTION)
    add_model_argument(parser)
    parser.add_argument("picture", metavar="PICTURE", help="any file that Pillow reads")
    parser.add_argument(
        "what", type=argument, metavar="WHAT", help='what to look for, such as "mugs" or "every object"'
    )
    parser.add_argument("-o", "--out", metavar="FILE", help="draw what is found into this picture")
    parser.add_argument("--points", action="store_true", help="one place each instead of boxes")
    parser.add_argument(
        "--prompt", type=argument, metavar="TEXT", help="another question; {what} in it is replaced"
    )
    add_json_option(parser, "print a JSON list")
    add_think_option(parser)
    add_image_tokens(parser)
    add_model_options(parser)
    add_sampling_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print what is found on stdout; tell about the drawing on stderr."""
    from gemma4_gguf.cli.files import picture_format, save_picture
    from gemma4_gguf.cli.model_choice import chosen_model
    from gemma4_gguf.cli.output import hint, print_json_rows, print_table
    from gemma4_gguf.cli.stream import open_session
    from gemma4_gguf.media.picture import read_image
    from gemma4_gguf.tasks.boxes import draw_boxes

    model = chosen_model(args)
    picture = read_image(Path(args.picture))  # before a model is loaded for nothing
    if args.out:
        picture_format(Path(args.out))
    question = {} if args.prompt is None else {"prompt": args.prompt}
    options = {"image_tokens": args.image_tokens, "thinking": args.think, **given(args, SamplingOptions)}
    with open_session(model, args, quiet=args.json) as session:
        find = session.point if args.points else session.detect
        found = find(picture, args.what, **question, **options)
    rows = [{k: v if k == "label" else round(v, 1) for k, v in asdict(item).items()} for item in found]
    if args.json:
        print_json_rows(rows)
    elif rows:
        numbers = [name for name in rows[0] if name != "label"]
        print_table(list(rows[0]), [[str(v) for v in row.values()] for row in rows], numbers=numbers)
    else:
        hint("[dim]", "nothing found")
    if args.out:
        save_picture(draw_boxes(picture, found), Path(args.out))
        if not args.json:
            hint("[dim]drawn[/] ", args.out)
    return 0
