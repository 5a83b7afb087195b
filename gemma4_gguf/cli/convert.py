"""gemma4-gguf convert: a checkpoint, on disk or on the hub, to the GGUF files that llama.cpp apps load."""

from __future__ import annotations

import argparse
from typing import Any

from gemma4_gguf.cli.options import add_command, add_hub_options, add_writing_options

DESCRIPTION = """\
Convert a Gemma 4 checkpoint to <Name>-<QUANT>.gguf, and its projector for pictures and sound to
mmproj-<Name>-<TYPE>.gguf beside it, in one pass.

  gemma4-gguf convert google/gemma-4-E2B-it -o models
  gemma4-gguf convert ./my-finetune -o models -q Q5_K_M --mmproj-type F16
  gemma4-gguf convert google/gemma-4-E2B-it -o models -q Q4_COMPACT     a mix of types for little memory
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(commands, run, "convert", "Convert a checkpoint to GGUF.", DESCRIPTION)
    parser.add_argument("source", metavar="SRC", help="directory of a checkpoint, or ORG/REPO on the hub")
    parser.add_argument("-o", "--out", required=True, metavar="DIR", help="directory to write into")
    parser.add_argument(
        "-q",
        "--quant",
        default="Q4_K_M",
        metavar="TYPE",
        help="type of the model (Q4_K_M); an unknown one lists all",
    )
    parser.add_argument("--mmproj-type", default="BF16", metavar="TYPE", help="type of the projector (BF16)")
    parser.add_argument("--no-mmproj", action="store_true", help="write no projector")
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="what to call the model, such as ORG/NAME (the hub id, or the name of the directory)",
    )
    add_hub_options(parser, "on the hub")
    add_writing_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the paths of the files written."""
    from gemma4_gguf.cli.output import byte_progress, written
    from gemma4_gguf.convert import convert_checkpoint
    from gemma4_gguf.errors import CheckpointError
    from gemma4_gguf.files.hub import HubId, locate, resolve_checkpoint
    from gemma4_gguf.options import HubOptions

    source, name = locate(args.source, missing=CheckpointError), args.name
    if isinstance(source, HubId):
        repo, name = source.repo, name or source.repo
        with byte_progress(f"downloading {repo}", quiet=args.quiet) as show:
            options = HubOptions(revision=args.revision, token=args.token, progress=show)
            source = resolve_checkpoint(repo, options)
    with written(f"converting {name or source.name}", args) as (progress, files):
        made = convert_checkpoint(
            source,
            args.out,
            args.quant,
            None if args.no_mmproj else args.mmproj_type,
            name=name,
            force=args.force,
            threads=args.threads,
            progress=progress,
        )
        files += [made.model] if made.projector is None else [made.model, made.projector]
    return 0
