"""gemma4-gguf quantize: the same GGUF file in a smaller type."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gemma4_gguf.cli.options import add_command, add_writing_options

DESCRIPTION = """\
Write a GGUF model or projector again in another type, as llama.cpp's own quantizer would.

  gemma4-gguf quantize gemma-4-E2B-it-BF16.gguf Q4_K_M
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(commands, run, "quantize", "Write a GGUF file again in another type.", DESCRIPTION)
    parser.add_argument("source", metavar="IN.gguf", help="file of type F32, F16, BF16 or Q8_0")
    parser.add_argument("quant", metavar="TYPE", help="such as Q4_K_M; an unknown one lists all")
    parser.add_argument(
        "-o", "--out", metavar="FILE", help="file or directory to write (default: beside the source)"
    )
    add_writing_options(parser)


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
