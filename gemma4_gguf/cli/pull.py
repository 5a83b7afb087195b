"""gemma4-gguf pull: a download of a model from the hub, without opening it."""

from __future__ import annotations

import argparse
from typing import Any

from gemma4_gguf.cli.options import add_command, add_hub_options, add_output_options

DESCRIPTION = """\
Download what a session or a conversion reads, into the cache that all Hugging Face tools share. An
interrupted download goes on where it stopped.

  gemma4-gguf pull unsloth/gemma-4-E2B-it-GGUF:Q4_K_M     a quantization and its projector
  gemma4-gguf pull google/gemma-4-E2B-it                  a checkpoint to convert
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(commands, run, "pull", "Download a model from the hub.", DESCRIPTION)
    parser.add_argument("source", metavar="ORG/REPO[:QUANT]", help="id on the hub")
    add_hub_options(parser, "(default: the main branch)")
    add_output_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the paths of what was downloaded."""
    from gemma4_gguf.cli.output import byte_progress, print_json
    from gemma4_gguf.files.hub import GGUFFiles, resolve
    from gemma4_gguf.options import HubOptions

    with byte_progress(args.source, quiet=args.quiet) as show:
        found = resolve(args.source, HubOptions(revision=args.revision, token=args.token, progress=show))
    if isinstance(found, GGUFFiles):
        paths = {"model": found.model} | ({"projector": found.projector} if found.projector else {})
    else:
        paths = {"checkpoint": found}
    if args.json:
        print_json({kind: str(path) for kind, path in paths.items()})
    else:
        for path in paths.values():
            print(path)
    return 0
