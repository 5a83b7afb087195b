"""Terminal output: data to stdout, progress and hints to stderr; plain text where there is no terminal."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from gemma4_gguf.cli.terminal import json_text, styled, visible

if TYPE_CHECKING:
    from gemma4_gguf.convert.progress import ProgressCallback


class ByteProgress(Protocol):
    """Shows one step."""

    def __call__(self, item: str, done: int, total: int, share: float | None = None, /) -> None: ...


PLAIN_WIDTH = 200  # columns where no terminal says how many: never wrap data in a pipe
PLAIN_EVERY_S = 10.0


class Screen(Console):
    """A rich console that leaves a broken pipe to the caller, and spells out control characters."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Every text on its way to the terminal; escape sequences of rich's own are no text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Raises the BrokenPipeError again, where rich would end the process."""
        raise


def screen(stderr: bool = False) -> Screen:
    """A console on stdout or stderr; made anew, so that a redirected stream is seen.

    Args:
        stderr: on stderr instead of stdout.

    Returns:
        PLAIN_WIDTH columns wide where there is no terminal.
    """
    stream = sys.stderr if stderr else sys.stdout
    plain = not stream.isatty()
    width = PLAIN_WIDTH if plain else None
    return Screen(file=styled(stream), width=width, highlight=False, soft_wrap=plain)


@contextmanager
def waiting_for(what: str, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """A spinner with the seconds on stderr, where that is a terminal.

    Args:
        what: is being waited for.
        quiet: show nothing.

    Yields:
        What to call with another text.
    """
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = screen(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda what: None
        return
    spinner = "line" if console.options.ascii_only else "dots"
    columns = SpinnerColumn(spinner), TextColumn("[dim]{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(escape(what))
        yield lambda what: progress.update(task, description=escape(what))


def hint(markup: str, text: str = "") -> None:
    """A line on stderr.

    Args:
        markup: of our own, with rich's tags.
        text: follows it; nothing in it is read as markup.
    """
    screen(stderr=True).print(markup + escape(text))


def print_json(value: Any) -> None:
    """JSON on stdout.

    Args:
        value: what JSON holds; anything else is written as its str.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    sys.stdout.write(json_text(text, sys.stdout.encoding) + "\n")


def print_json_rows(rows: Sequence[Any]) -> None:
    """A JSON list on stdout, an item a line.

    Args:
        rows: of what JSON holds.
    """
    items = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in rows)
    sys.stdout.write(json_text(f"[\n{items}\n]\n" if rows else "[]\n", sys.stdout.encoding))
    sys.stdout.flush()


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[str] = ()
) -> None:
    """A table on stdout without frames.

    Args:
        columns: headings.
        rows: cells.
        numbers: headings of the columns that are aligned to the right.
    """
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(visible(cell, one_line=True)) for cell in row))
    screen().print(table)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Names and values on stdout, one pair a line, values aligned.

    Args:
        facts: pairs of name and value, at least one.
    """
    width = max(len(name) for name, _ in facts) + 2
    for name, value in facts:
        screen().print(Text.assemble((name.ljust(width), "dim"), visible(value, one_line=True)))


def size(n_bytes: float) -> str:
    """Bytes for people, in decimal units as disks and hubs count.

    Args:
        n_bytes: 0 or more.

    Returns:
        Such as "3.40 GB".
    """
    for unit, digits in (("B", 0), ("kB", 0), ("MB", 1), ("GB", 2)):
        if n_bytes < 999.5 or unit == "GB":
            return f"{n_bytes:.{digits}f} {unit}"
        n_bytes /= 1000
    return ""


def count(n: float) -> str:
    """A number for people.

    Args:
        n: 0 or more.

    Returns:
        Such as "5.10 B" for 5,104,297,504.
    """
    for unit in ("", " K", " M", " B"):
        if n < 999.5 or unit == " B":
            return f"{n:.0f}" if not unit else f"{n:.2f}{unit}"
        n /= 1000
    return ""


@contextmanager
def byte_progress(title: str, *, quiet: bool = False) -> Iterator[ByteProgress | None]:
    """A bar on stderr with item, bytes, rate and time left; a line now and then where there is no terminal.

    Args:
        title: shown until the first item is known.
        quiet: show nothing.

    Yields:
        What to call as (item, bytes done, bytes in all, share of the work done), from any thread; None when
        quiet. The share, in [0, 1], gives the time left; None takes that of the bytes.
    """
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar(title) as advance:
            yield advance
    else:
        yield _lines(title)


def tensor_progress(show: ByteProgress | None) -> ProgressCallback | None:
    """What converting and quantizing call, for a bar of `byte_progress`.

    Args:
        show: from `byte_progress`; None when quiet.

    Returns:
        A callback; None for None.
    """
    if show is None:
        return None
    return lambda step: show(step.tensor, step.done_bytes, step.total_bytes, step.fraction)


@contextmanager
def written(title: str, args: argparse.Namespace) -> Iterator[tuple[ProgressCallback | None, list[Path]]]:
    """Run a command that writes GGUF files: a bar, then their paths on stdout and their sizes on stderr.

    Args:
        title: what is under way.
        args: with `quiet` and `json`.

    Yields:
        What to pass as `progress`, and the list to put the paths into.
    """
    files: list[Path] = []
    start = time.monotonic()
    with byte_progress(title, quiet=args.quiet) as show:
        yield tensor_progress(show), files
    seconds = time.monotonic() - start
    if args.json:
        rows = [{"path": str(path), "bytes": path.stat().st_size} for path in files]
        return print_json({"files": rows, "seconds": round(seconds, 3)})
    for path in files:
        sys.stdout.write(f"{path}\n")
    if not args.quiet:
        total = size(sum(path.stat().st_size for path in files))
        hint("[dim]", f"{total} in {seconds:.1f} s")


@contextmanager
def _bar(title: str) -> Iterator[ByteProgress]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("[dim]{task.description:<28.28}"),
        BarColumn(bar_width=None, complete_style="cyan", finished_style="cyan"),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("[dim]{task.fields[bytes]:>19}"),
        TextColumn("[dim]{task.fields[rate]:>10}"),
        TimeRemainingColumn(compact=True),
    )
    start = time.monotonic()
    with Progress(*columns, console=screen(stderr=True), transient=True) as progress:
        task = progress.add_task(escape(title), total=1.0, bytes="", rate="")

        def advance(item: str, done: int, total: int, share: float | None = None) -> None:
            rate = done / max(time.monotonic() - start, 1e-3)
            progress.update(
                task,
                description=escape(item),
                completed=_share(done, total, share),
                bytes=f"{size(done)} of {size(total)}",
                rate=f"{size(rate)}/s",
            )

        yield advance


def _lines(title: str) -> ByteProgress:
    last = time.monotonic()

    def advance(item: str, done: int, total: int, share: float | None = None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PLAIN_EVERY_S:
            last = now
            percent = f"{_share(done, total, share):4.0%}"
            sys.stderr.write(f"{title}: {percent}  {size(done)} of {size(total)}  {item}\n")

    return advance


def _share(done: int, total: int, share: float | None) -> float:
    if share is not None:
        return share
    return done / total if total else 1.0
