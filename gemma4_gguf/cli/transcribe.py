"""gemma4-gguf transcribe: speech of any length to text or subtitles."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemma4_gguf.cli.options import (
    add_command,
    add_model_argument,
    add_model_options,
    add_sampling_options,
    given,
)
from gemma4_gguf.cli.terminal import json_text
from gemma4_gguf.cli.text_input import argument
from gemma4_gguf.options import SamplingOptions

if TYPE_CHECKING:
    from gemma4_gguf.types import Segment

KINDS = ("txt", "srt", "vtt", "json")
CUE_S = 10.0  # of subtitles: half a minute of speech is more than anybody reads at once

DESCRIPTION = """\
Write down what is said in a sound or a clip of any length. It is cut at pauses, and each piece is heard by
itself.

  gemma4-gguf transcribe talk.mp3 -m MODEL -o talk.srt
  gemma4-gguf transcribe interview.mp4 -m MODEL --language de --translate-to en
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(commands, run, "transcribe", "Write down what is said in a sound.", DESCRIPTION)
    add_model_argument(parser)
    parser.add_argument("sound", metavar="SOUND", help="any file with sound, clips too")
    parser.add_argument("-o", "--out", metavar="FILE", help="write there; its suffix tells the format")
    parser.add_argument("--format", choices=KINDS, help="default: the suffix of FILE, or txt")
    parser.add_argument("--json", dest="format", action="store_const", const="json", help="--format json")
    parser.add_argument("--language", type=argument, metavar="NAME", help="what is spoken: German or de")
    parser.add_argument("--translate-to", type=argument, metavar="NAME", help="write it in this language")
    parser.add_argument("--prompt", type=argument, metavar="TEXT", help="ask this of every piece")
    parser.add_argument(
        "--piece",
        dest="max_s",
        type=float,
        metavar="S",
        help=f"seconds a piece has at most (30; subtitles {CUE_S:g})",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    add_model_options(parser)
    add_sampling_options(parser)


def run(args: argparse.Namespace) -> int:
    """Write the transcript as it grows, progress on stderr."""
    from gemma4_gguf.cli.files import growing_text, time_progress
    from gemma4_gguf.cli.model_choice import chosen_model
    from gemma4_gguf.cli.stream import open_session
    from gemma4_gguf.media.audio import sound_duration_s
    from gemma4_gguf.tasks.subtitles import format_segments

    model = chosen_model(args)
    out = None if args.out is None else Path(args.out)
    kind = _kind(args.format, out)
    total_s = sound_duration_s(Path(args.sound))  # before a model is loaded for nothing
    options = given(args, SamplingOptions)
    if args.max_s or kind in ("srt", "vtt"):
        options["max_s"] = args.max_s or CUE_S
    with open_session(model, args, quiet=args.quiet) as session, growing_text(out) as write:
        segments = session.transcribe_segments(
            Path(args.sound),
            language=args.language,
            translate_to=args.translate_to,
            prompt=args.prompt,
            **options,
        )
        with time_progress("transcribing", total_s, quiet=args.quiet) as show:

            def watched() -> Iterator[Segment]:
                for segment in segments:
                    show(segment.end_s)
                    yield segment

            for text in format_segments(watched(), kind):
                in_pipe = kind == "json" and out is None
                write(json_text(text, sys.stdout.encoding) if in_pipe else text)
    return 0


def _kind(asked: str | None, out: Path | None) -> str:
    from gemma4_gguf.errors import OptionError

    suffix = "txt" if out is None else out.suffix.lower().removeprefix(".")
    kind = asked or suffix
    if kind not in KINDS:
        raise OptionError(f"{out} has no suffix of a transcript; expected one of {', '.join(KINDS)}.")
    return kind
