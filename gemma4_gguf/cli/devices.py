"""gemma4-gguf devices: a list of those that the installed llama.cpp can compute on."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from gemma4_gguf.cli.options import add_command, add_json_option

DESCRIPTION = "List the devices that the installed llama.cpp can compute on."


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(commands, run, "devices", DESCRIPTION, DESCRIPTION)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print a table of devices."""
    from gemma4_gguf.cli.output import print_json, print_table, size
    from gemma4_gguf.engine.devices import list_devices

    found = list_devices()
    if args.json:
        print_json([asdict(device) for device in found])
        return 0
    rows = [
        (
            device.name,
            device.backend,
            device.kind,
            device.description,
            size(device.memory_bytes) if device.memory_bytes else "",
            size(device.free_bytes) if device.free_bytes else "",
        )
        for device in found
    ]
    columns = ("name", "backend", "kind", "hardware", "memory", "free")
    print_table(columns, rows, numbers=("memory", "free"))
    return 0
