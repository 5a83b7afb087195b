"""Reply stream on the terminal: the answer on stdout, thoughts and calls dimmed on stderr."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from gemma4_gguf.cli.model_choice import downloaded
from gemma4_gguf.cli.options import given
from gemma4_gguf.cli.output import screen, waiting_for
from gemma4_gguf.options import SessionOptions
from gemma4_gguf.session import Session
from gemma4_gguf.types import Chunk, Reply


@contextmanager
def open_session(model: str, args: argparse.Namespace, *, quiet: bool = False) -> Iterator[Session]:
    """Open a model, downloaded first if it is on the hub.

    Args:
        model: a path or a hub id, from `gemma4_gguf.cli.model_choice`.
        args: parsed options of `add_model_options`.
        quiet: say nothing on stderr.

    Yields:
        The session; it is closed at the end.

    Raises:
        HubError: it cannot be downloaded.
    """
    found, projector = downloaded(model, getattr(args, "projector", "auto"), quiet=quiet)
    with waiting_for(f"loading {found.name}", quiet=quiet):
        session = Session(found, projector=projector, **given(args, SessionOptions))
    with session:
        yield session


def show(chunks: Iterator[Chunk], *, quiet: bool = False, stats: bool = False) -> Reply:
    """Write a stream to the terminal.

    Args:
        chunks: of a reply.
        quiet: write nothing, only wait for the end.
        stats: tell tokens and speed at the end, on stderr.

    Returns:
        The finished reply.
    """
    aside = screen(stderr=True)
    reply, start, first = Reply(), time.monotonic(), 0.0
    shown = ""
    for chunk in waiting(chunks, quiet=quiet):
        first = first or time.monotonic()
        if chunk.reply is not None:
            reply = chunk.reply
        if quiet or chunk.kind == "end":
            continue
        if shown == "thinking" != chunk.kind:
            aside.print("\n")
        shown = chunk.kind
        _show_chunk(chunk, aside)
    if quiet:
        return reply
    if shown == "text":
        sys.stdout.write("\n")
        sys.stdout.flush()
    for warning in reply.warnings:
        aside.print(Text(f"note: {warning}", "dim"))
    if reply.finish_reason == "length":
        aside.print(Text("note: cut off; --max-tokens and --ctx set how long a reply can be", "dim"))
    n = reply.usage.completion_tokens
    if stats and n > 1:
        rate = (n - 1) / max(time.monotonic() - first, 1e-6)
        aside.print(Text(f"{n} tokens, {rate:.1f} a second, the first after {first - start:.2f} s", "dim"))
    return reply


def waiting(chunks: Iterator[Chunk], *, quiet: bool) -> Iterator[Chunk]:
    """The same chunks; on a terminal the seconds are shown until the first, while pictures and text are read.

    Args:
        chunks: of a reply.
        quiet: show nothing.

    Yields:
        The chunks.
    """
    with waiting_for("reading", quiet=quiet):
        first = next(chunks, None)
    if first is not None:
        yield first
        yield from chunks


def _show_chunk(chunk: Chunk, aside: Console) -> None:
    if chunk.kind == "text":
        sys.stdout.write(chunk.text)
        sys.stdout.flush()
    elif chunk.kind == "thinking":
        aside.print(Text(chunk.text, "dim"), end="", soft_wrap=True)
    elif chunk.tool_call is not None:
        arguments = json.dumps(chunk.tool_call.arguments, ensure_ascii=False)
        aside.print(Text(f"{chunk.tool_call.name} {arguments}", "dim"))
