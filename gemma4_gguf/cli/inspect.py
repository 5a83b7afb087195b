"""gemma4-gguf inspect: facts about a GGUF file, without loading it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from gemma4_gguf.cli.options import add_command, add_json_option, add_model_option
from gemma4_gguf.cli.output import count, print_facts, print_json, print_table, size

if TYPE_CHECKING:
    from gemma4_gguf.files.file_report import Attention, FileReport, Memory

DESCRIPTION = """\
Show what a GGUF file holds: member of the family, parameters, attention, bytes per group and type, what its
projector can take in, and what it will need in memory.

  gemma4-gguf inspect models/gemma-4-E2B-it-Q4_K_M.gguf --ctx 32768
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(commands, run, "inspect", "Show what a GGUF file holds and needs.", DESCRIPTION)
    parser.add_argument(
        "first", nargs="?", metavar="FILE", help="a .gguf file, model or projector, or ORG/REPO[:QUANT]"
    )
    add_model_option(parser)
    parser.add_argument("--ctx", type=int, default=8192, metavar="N", help="tokens to plan memory for (8192)")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print facts and a table of tensor groups."""
    from gemma4_gguf.cli.model_choice import chosen_model, downloaded
    from gemma4_gguf.files.inspect import inspect_file

    path, _ = downloaded(chosen_model(args), quiet=args.json)
    report = inspect_file(path, args.ctx)
    if args.json:
        print_json(report.to_dict())
        return 0
    print_facts(facts(report))
    rows = [
        (
            group.name,
            str(group.n_tensors),
            count(group.n_parameters),
            size(group.n_bytes),
            f"{group.n_bytes / report.n_bytes:.0%}",
            "  ".join(
                f"{kind} {size(n)}" if len(group.types) > 1 else kind for kind, n in group.types.items()
            ),
        )
        for group in report.groups
    ]
    print()
    columns = ("tensors", "number", "parameters", "bytes", "share", "types")
    print_table(columns, rows, numbers=columns[1:5])
    return 0


def facts(report: FileReport) -> list[tuple[str, str]]:
    """The lines above the table.

    Args:
        report: from `inspect_file`.

    Returns:
        Names and values, in order.
    """
    member = report.member or ""
    if report.member == "custom":
        member = "a custom size" if report.kind == "drafter" else "of custom size"
    effective = (
        "" if report.n_effective == report.n_parameters else f", {count(report.n_effective)} effective"
    )
    rows = [
        ("name", report.name),
        ("file", f"{report.path}  ({size(report.n_bytes)})"),
        ("kind", f"{report.kind} {f'for {member}' if report.kind == 'drafter' else member}".strip()),
        ("type", f"{report.quantization}, {report.bits_per_weight:.2f} bits per weight"),
        ("parameters", f"{count(report.n_parameters)}{effective}"),
    ]
    if report.projector is not None:
        senses = {"pictures": report.projector.vision, "sound": report.projector.audio}
        abilities = [f"{sense} ({kind})" for sense, kind in senses.items() if kind]
        rows += [("takes in", ", ".join(abilities)), ("width", f"{report.projector.width:,}")]
    if report.n_experts:
        rows.append(("experts", f"{report.n_experts}, {report.n_experts_used} per token"))
    if report.context_length and report.n_vocab and report.width:
        rows.append(("context", f"{report.context_length:,} tokens"))
        rows.append(("vocabulary", f"{report.n_vocab:,} tokens, {report.width:,} wide"))
    if report.attention is not None:
        rows += [("layers", _layers(report.attention)), ("heads", _heads(report.attention))]
    if report.template is not None:
        age = ", an early one" if report.template.outdated else ""
        rows.append(("template", f"{report.template.family}{age}"))
        if report.template.warning:
            rows.append(("", report.template.warning))
    if report.memory is not None:
        rows.append(("memory", _memory(report.memory)))
    return rows


def _layers(a: Attention) -> str:
    n = len(a.pattern)
    period = next((p for p in range(1, n + 1) if a.pattern == (a.pattern[:p] * n)[:n]), n)
    regular = a.pattern[:period] == "s" * (period - 1) + "f"
    kinds = f"one in {period} attends in full, the others to {a.window:,} tokens" if regular else a.pattern
    shared = f"; the last {a.n_shared_kv} share keys and values" if a.n_shared_kv else ""
    return f"{n}, {kinds}{shared}"


def _heads(a: Attention) -> str:
    sliding = f"{a.n_heads} of {a.head_dim_sliding} on {a.n_kv_heads_sliding} for keys and values"
    full = f"{a.n_heads} of {a.head_dim_full} on {a.n_kv_heads_full}"
    same = (a.head_dim_full, a.n_kv_heads_full) == (a.head_dim_sliding, a.n_kv_heads_sliding)
    return sliding if same else f"{sliding}; in full {full}"


def _memory(m: Memory) -> str:
    demand = f" ({size(m.on_demand_bytes)} of it on demand)" if m.on_demand_bytes else ""
    parts = (
        f"weights {size(m.weights_bytes)}{demand}, cache {size(m.cache_sliding_bytes + m.cache_full_bytes)}"
    )
    return f"{size(m.total_bytes)} at {m.n_ctx:,} tokens: {parts}"
