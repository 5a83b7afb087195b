"""What is typed into a conversation: turns of one line or many, with history, or lines of a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from gemma4_gguf.cli import signals
from gemma4_gguf.cli.output import hint
from gemma4_gguf.cli.text_input import stdin_lines, typed
from gemma4_gguf.errors import OptionError

_ENDS_LINES = 0x801  # version of GNU readline; libedit has a lower one
FENCE = '"""'
_PROMPT, _MORE = "› ", "… "
_COLOURED = "\001\033[1;36m\002{}\001\033[0m\002"  # \001 and \002 keep readline from counting the colours


def somebody_types() -> bool:
    """Whether turns come from a terminal and answers go to one."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def turns(*, end_line: bool = True) -> Iterator[str]:
    """Turns as they come: a line, a pasted block, or several lines by a trailing backslash or between fences.

    Args:
        end_line: end the line that Ctrl-D leaves, where the terminal has not.

    Yields:
        Texts that are never empty.

    Raises:
        OptionError: a pipe holds no text.
    """
    lines: list[str] = []
    fenced = False
    source = None if somebody_types() else stdin_lines()
    while True:
        try:
            line = _typed_line(more=bool(lines or fenced)) if source is None else next(source, None)
        except KeyboardInterrupt:
            if source is not None:
                raise
            signals.current.forget()
            lines, fenced = [], False
            hint("\n[dim]", "Ctrl-D or /exit leaves")
            continue
        if line is None:
            if source is None and end_line:
                sys.stdout.write("\n")
            break
        if line.strip() == FENCE:
            fenced = not fenced
        elif fenced:
            lines.append(line)
        else:
            lines.append(line.removesuffix("\\"))
        if fenced or line.endswith("\\"):
            continue
        turn, lines = "\n".join(lines).strip(), []
        if turn:
            yield turn
    if turn := "\n".join(lines).strip():
        yield turn


def _typed_line(*, more: bool) -> str | None:
    """A line from the terminal; None at its end (Ctrl-D)."""
    prompt = _MORE if more else _PROMPT
    try:
        prompt.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        prompt = ". " if more else "> "
    while True:
        try:
            return typed(input(_COLOURED.format(prompt)), "This line")
        except EOFError:
            return None
        except OptionError as error:
            hint("[red]error:[/] ", str(error))


@contextlib.contextmanager
def history(words: Sequence[str]) -> Iterator[bool]:
    """Line editing with the turns of earlier conversations, where readline exists.

    Args:
        words: what Tab completes at the start of a line; elsewhere it completes names of files.

    Yields:
        Whether Ctrl-D leaves its line open: readline with bracketed paste ends it.
    """
    try:
        import readline
    except ImportError:
        readline = None  # type: ignore[assignment]
    if readline is None or not somebody_types():
        yield True
        return
    with contextlib.suppress(AttributeError, OSError):
        sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    path = state / "gemma4-gguf" / "history"
    with contextlib.suppress(OSError, ValueError):
        readline.read_history_file(path)
    readline.set_history_length(1000)
    readline.set_completer_delims(" \t\n")
    readline.set_completer(lambda text, state: _completed(text, state, words))
    if "libedit" in (readline.__doc__ or ""):
        readline.parse_and_bind("bind ^I rl_complete")
    else:
        readline.parse_and_bind("tab: complete")
        readline.parse_and_bind("set enable-bracketed-paste on")  # which Python turns off
    try:
        yield getattr(readline, "_READLINE_VERSION", 0) < _ENDS_LINES
    finally:
        with contextlib.suppress(OSError, ValueError):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            readline.write_history_file(path)


def _completed(text: str, state: int, words: Sequence[str]) -> str | None:
    """Names of commands at the start, else of files."""
    start = Path(text).expanduser()
    found = [f"{word} " for word in words if word.startswith(text)] if text.startswith("/") else []
    with contextlib.suppress(OSError):
        folder = start if text.endswith("/") else start.parent
        prefix = "" if text.endswith("/") else start.name
        for path in sorted(folder.iterdir()):
            if path.name.startswith(prefix):
                found.append(f"{path}/" if path.is_dir() else str(path))
    return found[state] if state < len(found) else None
