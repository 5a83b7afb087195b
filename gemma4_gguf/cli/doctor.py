"""gemma4-gguf doctor: a check of this installation and its devices."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, get_args

from rich.table import Table
from rich.text import Text

from gemma4_gguf.cli.errors import EXIT_FAILURE
from gemma4_gguf.cli.options import add_command, add_json_option
from gemma4_gguf.cli.output import print_json, screen, size, waiting_for
from gemma4_gguf.cli.terminal import styled
from gemma4_gguf.doctor.host import TRIED_PYTHONS
from gemma4_gguf.options import Device

if TYPE_CHECKING:
    from gemma4_gguf.doctor.doctor import DoctorProgress
    from gemma4_gguf.doctor.host import Machine
    from gemma4_gguf.doctor.report import Check, Report

WIDE = 90  # columns from which what was needed has a column of its own

DESCRIPTION = """\
Look whether this installation is right: run the bundled checkpoint on the processor and on every graphics
card that llama.cpp finds, compare its numbers with those of transformers and its answers with the known ones,
and say what to install or set. The exit status is 0 if nothing is wrong, else 1. Needs no network.

  gemma4-gguf doctor
  gemma4-gguf doctor --device cuda
  gemma4-gguf doctor --json > report.json     everything, for a bug report
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(commands, run, "doctor", "Check this installation and its devices.", DESCRIPTION)
    parser.add_argument("--device", choices=get_args(Device), default="auto", help="look at this one alone")
    add_json_option(parser, "print everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Print what was found on stdout, and what is under way on stderr."""
    from gemma4_gguf.doctor.doctor import examine_machine

    with _progress(quiet=args.json) as show:
        report = examine_machine(args.device, progress=show)
    if args.json:
        print_json(report.as_dict())
    else:
        show_report(report)
    return 0 if report.right else EXIT_FAILURE


def show_report(report: Report) -> None:
    """Print a report for people.

    Args:
        report: from `examine_machine`.
    """
    console = screen()
    _show_grid([(Text(name, "dim"), value) for name, value in _facts(report)])
    if any(device.checks or device.failure for device in report.devices):
        console.print()
        _show_checks(report)
    for advice in report.advice:
        console.print()
        mark = Text("wrong", "bold red") if advice.wrong else Text("could be better", "yellow")
        todo = [(Text("to do", "dim"), advice.todo)] if advice.todo else []
        _show_grid([(mark, advice.what), *todo])
        if advice.command:  # on a line of its own, never folded, to be copied
            sys.stdout.write(f"  {advice.command}\n")
    console.print()
    if report.right:
        console.print(f"[green]Everything is right[/] on: {', '.join(d.device for d in report.devices)}.")
    else:
        n_wrong = sum(advice.wrong for advice in report.advice)
        console.print(f"[bold red]Wrong:[/] {n_wrong} {'thing' if n_wrong == 1 else 'things'}, see above.")


def _facts(report: Report) -> list[tuple[str, str]]:
    machine, library = report.machine, report.library
    packages = [f"{name} {version or 'missing'}" for name, version in machine.packages.items()]
    commit = f", commit {library.commit}" if library.commit else ""
    built = library.system_info.replace(" = 1", "").replace(" |", "").replace(" :", ":")
    tried = f" (tried: {' to '.join(TRIED_PYTHONS)})"
    memory = f", {size(machine.memory_bytes)}" if machine.memory_bytes else ""
    sets = f", {' '.join(machine.instruction_sets)}" if machine.instruction_sets else ""
    facts = [
        ("gemma4-gguf", f"{report.version}, {machine.python}{tried}, {machine.system}"),
        ("llama.cpp", f"ggml {library.ggml}{commit}" if library.ggml else "not loaded"),
        ("built with", built or ", ".join(library.backends)),
        ("processor", f"{machine.processor}, {machine.cores} cores to use{memory}{sets}"),
        ("cards", _cards(machine)),
        ("packages", ", ".join(packages)),
    ]
    for place in machine.places:
        state = place.problem or f"{size(place.free_bytes)} free"
        facts.append((place.what, f"{place.path}, {state}"))
    return [(name, value) for name, value in facts if value]


def _cards(machine: Machine) -> str:
    named = [f"{card.name}{f' (driver {card.driver})' if card.driver else ''}" for card in machine.cards]
    return ", ".join(named) or "none found"


def _show_grid(rows: Sequence[tuple[Text, str]]) -> None:
    """Names and values, long values folded beside their names."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, min_width=15)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, Text(value))
    _show(grid)


def _show_checks(report: Report) -> None:
    narrow = screen().width < WIDE
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("device", "check", "result"):
        table.add_column(column, no_wrap=True)
    for column in ("found",) if narrow else ("found", "needed"):
        table.add_column(column, overflow="fold")
    right, wrong = Text("right", "green"), Text("WRONG", "bold red")
    for device in report.devices:
        for check in device.checks:
            needed = f", needed {check.needed}" if narrow and check.needed and not check.right else ""
            words = [Text(check.found + needed)] if narrow else [Text(check.found), Text(check.needed)]
            table.add_row(device.device, _named(check), right if check.right else wrong, *words)
        if device.failure:
            table.add_row(device.device, "examination", wrong, Text(device.failure))
        if device.speed:
            rates = f"{device.speed.prompt:,.0f} tokens/s read, {device.speed.decode:,.0f} written"
            table.add_row(device.device, "speed, Q4_K_M", "", Text(rates))
    _show(table)


def _named(check: Check) -> Text:
    return Text(f"{check.name}, {check.model}")


def _show(table: Table) -> None:
    """Print without the spaces that rich puts at the ends of lines."""
    console = screen()
    with console.capture() as written:
        console.print(table, soft_wrap=False)
    styled(sys.stdout).write("\n".join(line.rstrip() for line in written.get().split("\n")))


@contextmanager
def _progress(*, quiet: bool) -> Iterator[DoctorProgress]:
    """What is under way, on stderr: one changing line on a terminal, else a line for each device."""
    if quiet:
        yield lambda device, what: None
    elif screen(stderr=True).is_terminal:
        with waiting_for("starting") as show:
            yield lambda device, what: show(_step(device, what))
    else:
        seen: set[str] = set()

        def line(device: str, what: str) -> None:
            if device not in seen or not device:
                seen.add(device)
                sys.stderr.write(f"{f'examining {device}' if device else what}\n")
                sys.stderr.flush()

        yield line


def _step(device: str, what: str) -> str:
    return f"{device}: {what}" if device else what
