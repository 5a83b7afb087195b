"""gemma4-gguf quantize: the same GGUF file in a smaller type."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

DESCRIPTION = """\
Write a GGUF model or projector again in another type, as llama.cpp's own quantizer would.

  gemma4-gguf quantize gemma-4-E2B-it-BF16.gguf Q4_K_M
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "quantize",
        help="Write a GGUF file again in another type.",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="IN.gguf", help="file of type F32, F16, BF16 or Q8_0")
    parser.add_argument("quant", metavar="TYPE", help="such as Q4_K_M; an unknown one lists all")
    parser.add_argument("-o", "--out", help="file or directory to write (default: beside the source)")
    add_writing_options(parser)
    parser.set_defaults(run=run)


def add_writing_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that writes GGUF files."""
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.add_argument("--threads", type=int, metavar="N", help="encoding threads (default: all cores)")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the path of the file written."""
    from gemma4_gguf.cli.output import written
    from gemma4_gguf.convert.quantize import quantize_file

    with written(f"quantizing {Path(args.source).name}", args) as (progress, files):
        files.append(
            quantize_file(
                args.source, args.out, args.quant, force=args.force, threads=args.threads, progress=progress
            )
        )
    return 0
