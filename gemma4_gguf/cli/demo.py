"""gemma4-gguf demo: every ability of the bundled checkpoint, offline."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from gemma4_gguf.cli.options import add_command, add_json_option

DESCRIPTION = """\
Convert the bundled checkpoint, a small Gemma 4 trained for this, to Q4_K_M with its projector; open it and
let it show what it can: find things in a picture, and whatever else it has learned. Needs no network.
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(commands, run, "demo", "See it work, without a download.", DESCRIPTION)
    parser.add_argument("--keep", metavar="DIR", help="keep the GGUF files, samples and drawings there")
    add_json_option(parser, "print everything as JSON, and nothing else")


def run(args: argparse.Namespace) -> int:
    """Print questions and answers on stdout and the steps on stderr."""
    from gemma4_gguf.cli.output import byte_progress, print_json, tensor_progress
    from gemma4_gguf.demo import convert

    out = Path(args.keep).expanduser() if args.keep else _temporary_directory()
    try:
        with byte_progress("converting", quiet=args.json) as show:
            files = convert(out, progress=tensor_progress(show))
        told = _show(files, args)
    except BaseException:
        if not args.keep:
            shutil.rmtree(out, ignore_errors=True)
        raise
    if not args.keep:
        for path in (files.model, files.projector, *files.samples):
            path.unlink()
        if not any(out.iterdir()):
            out.rmdir()
    if args.json:
        print_json(told)
    return 0


def _show(files: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Opens the model and shows act after act; returns the same for --json."""
    from time import perf_counter

    from gemma4_gguf.cli.inline import show_picture
    from gemma4_gguf.cli.output import hint, size
    from gemma4_gguf.demo import as_json, perform, snippet
    from gemma4_gguf.session import Session

    def say(what: str, text: str) -> None:
        if not args.json:
            hint(f"[dim]{what:<10}[/] ", text)

    sizes = [f"{path.name} ({size(path.stat().st_size)})" for path in (files.model, files.projector)]
    say("converted", f"{' and '.join(sizes)} in {files.seconds:.1f} s")
    start = perf_counter()
    with Session(files.model) as session:
        opened = perf_counter() - start
        say("opened", f"in {opened:.1f} s")
        shown = []
        for one in perform(session, files):
            shown.append(one)
            if args.json:
                continue
            _print_act(one)
            if one.drawing is not None:
                show_picture(one.drawing, indent=11)
                hint("           [dim]drawn:[/] ", str(one.drawing))
    if not args.json:
        folder = args.keep or "DIR"
        hint("\n[dim]The same in Python" + ("" if args.keep else ", after gemma4-gguf demo --keep DIR"))
        hint("", "\n" + textwrap.indent(snippet(shown, folder), "  "))
    return {
        "model": str(files.model),
        "projector": str(files.projector),
        "convert_seconds": files.seconds,
        "open_seconds": opened,
        "shown": [
            {
                "ability": one.ability,
                "question": one.question,
                "lines": one.lines,
                "value": as_json(one.value),
                "seconds": one.seconds,
                "drawing": one.drawing and str(one.drawing),
            }
            for one in shown
        ],
    }


def _print_act(shown: Any) -> None:
    """Question and time on one line, the answer below it, on stdout."""
    from rich.text import Text

    from gemma4_gguf.cli.output import screen

    console = screen()
    ability, took = f"{shown.ability:<10} ", f"  {shown.seconds:.1f} s"
    console.print(Text.assemble((ability, "bold cyan"), shown.question, (took, "dim")))
    for line in shown.lines:
        console.print(Text(f"           {line}"))


def _temporary_directory() -> Path:
    from gemma4_gguf.errors import OutputError

    try:
        return Path(tempfile.mkdtemp(prefix="gemma4-gguf-demo-"))
    except OSError as error:
        raise OutputError(
            f"No temporary directory can be made: {error.strerror or error}. Name one with --keep DIR, or "
            "set TMPDIR (TEMP on Windows)."
        ) from error
