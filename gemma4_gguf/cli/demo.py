"""gemma4-gguf demo: see it work, offline, with the checkpoint that comes with the package."""

from __future__ import annotations

import argparse
import tempfile
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

DESCRIPTION = """\
Convert the bundled checkpoint, a small Gemma 4 that finds coloured shapes, to Q4_K_M with its projector; open
it, show it a picture, print the boxes it answers as JSON and draw them into a PNG. Needs no network.
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "demo",
        help="See it work, without a download.",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--keep", metavar="DIR", help="keep the GGUF files and the pictures there")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, and nothing else")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the boxes on stdout and the steps on stderr."""
    from gemma4_gguf.cli.output import byte_progress, hint, print_json, print_json_rows, size, tensor_progress
    from gemma4_gguf.demo import SNIPPET, answer, convert

    out = Path(args.keep).expanduser() if args.keep else _temporary_directory()

    def say(step: str, text: str) -> None:
        if not args.json:
            hint(f"[dim]{step:<10}[/] ", text)

    with byte_progress("converting", quiet=args.json) as show:
        files = convert(out, progress=tensor_progress(show))
    try:
        sizes = [f"{path.name} ({size(path.stat().st_size)})" for path in (files.model, files.projector)]
        say("converted", f"{' and '.join(sizes)} in {files.seconds:.1f} s")
        found = answer(files)
    finally:
        if not args.keep:
            files.model.unlink()
            files.projector.unlink()
    boxes = [{k: v if k == "label" else round(v, 1) for k, v in asdict(box).items()} for box in found.boxes]
    if args.json:
        print_json({**asdict(files), **asdict(found), "boxes": boxes})
        return 0
    say("opened", f"in {found.open_seconds:.1f} s")
    say("asked", f"for the shapes in {files.picture.name}, answered in {found.answer_seconds:.1f} s")
    print_json_rows(boxes)
    say("drawn", str(found.drawing))
    kept = args.keep or "DIR"
    say("\nThe same in Python" + ("" if args.keep else " after gemma4-gguf demo --keep DIR"), "")
    hint("", "\n" + textwrap.indent(SNIPPET.format(folder=kept), "  "))
    return 0


def _temporary_directory() -> Path:
    from gemma4_gguf.errors import OutputError

    try:
        return Path(tempfile.mkdtemp(prefix="gemma4-gguf-demo-"))
    except OSError as error:
        raise OutputError(
            f"No temporary directory can be made: {error.strerror or error}. Name one with --keep DIR, or "
            "set TMPDIR (TEMP on Windows)."
        ) from error
