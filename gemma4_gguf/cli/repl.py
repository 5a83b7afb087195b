"""Conversation loop of `gemma4-gguf chat`: turns, commands that begin with a slash, attachments."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.markup import escape

from gemma4_gguf.chat import Chat
from gemma4_gguf.cli.options import attachments, given
from gemma4_gguf.cli.output import hint
from gemma4_gguf.cli.stream import show
from gemma4_gguf.errors import Gemma4Error
from gemma4_gguf.options import SamplingOptions
from gemma4_gguf.session import Session
from gemma4_gguf.truncation import OnFull
from gemma4_gguf.types import MODALITIES, Media, Part

PROMPT = "\001\033[1;36m\002› \001\033[0m\002"  # \001 and \002 keep readline from counting the colours
MORE = "… "
FENCE = '"""'
_WORDS = (*MODALITIES, "think", "save", "load", "reset", "help", "exit")
_ATTACHING = [
    f"{f'/{kind} FILE [TEXT]':<20} attach a {modality.noun}" for kind, modality in MODALITIES.items()
]
_ATTACHING[0] += ", to the next turn or with TEXT to this one"
_ATTACHING_HELP = "\n".join(_ATTACHING)
HELP = f"""\
{_ATTACHING_HELP}
/think [on|off]      let the model think before it answers
/save FILE           write the conversation to a file
/load FILE           go on with one that was saved
/reset               forget the conversation
/help                this list
/exit                leave, as does Ctrl-D
A line that ends in \\ goes on in the next; \"\"\" begins and ends a text of many lines.
Ctrl-C stops a reply."""


class Repl:
    """One conversation.

    Args:
        session: the opened model.
        args: parsed options of the command.
    """

    def __init__(self, session: Session, args: argparse.Namespace) -> None:
        self._session, self._args = session, args
        self._sampling = given(args, SamplingOptions)
        self._attached: list[Part] = [*attachments(args)]
        self._commands: dict[str, Callable[[str], None]] = {
            f"/{kind}": functools.partial(self._attach, modality.type)
            for kind, modality in MODALITIES.items()
        }
        self._commands |= {
            "/think": self._think,
            "/save": self._save,
            "/load": self._load,
            "/reset": self._reset,
            "/help": lambda _: hint("[dim]", HELP),
        }
        self._chat = self._new_chat(thinking=args.think)
        if args.load is not None:
            self._take_up(Path(args.load))

    def loop(self) -> None:
        """Take turns until the input ends."""
        session = self._session
        senses = ["text"] + ["pictures"] * session.has_vision + ["sound"] * session.has_audio
        hint(
            f"[bold]{escape(session.name)}[/][dim]  ",
            f"{', '.join(senses)}  ·  {session.options.n_ctx:,} tokens  ·  /help lists the commands",
        )
        with _history():
            for turn in _turns():
                word, _, rest = turn.partition(" ")
                if word in ("/exit", "/quit"):
                    return
                if word in self._commands:
                    self._commands[word](rest.strip())
                elif word.startswith("/") and "/" not in word[1:]:
                    hint("[dim]", f"there is no command {word}; /help lists them")
                else:
                    self._take(turn)

    def _take(self, text: str) -> None:
        parts, self._attached = [*self._attached, text], []
        try:
            chunks = self._chat.stream(*parts, image_tokens=self._args.image_tokens, **self._sampling)
            show(chunks, stats=sys.stderr.isatty())
        except KeyboardInterrupt:
            hint("\n[dim]", "stopped")
        except Gemma4Error as error:
            hint("[red]error:[/] ", str(error))

    def _attach(self, kind: type[Media], rest: str) -> None:
        words = _words(rest)
        path = Path(words[0]).expanduser() if words else None
        if path is None or not path.is_file():
            hint("[red]error:[/] ", f"{path or 'Nothing'} is no file. Quote a name with spaces.")
            return
        self._attached.append(kind(path))
        if words[1:]:
            self._take(" ".join(words[1:]))
        else:
            hint("[dim]", f"{path.name} goes with the next turn")

    def _think(self, rest: str) -> None:
        self._chat.thinking = {"on": True, "off": False}.get(rest, not self._chat.thinking)
        hint("[dim]", f"thinking is {'on' if self._chat.thinking else 'off'}")

    def _reset(self, _: str) -> None:
        self._attached = []
        self._chat = self._new_chat(thinking=self._chat.thinking)
        hint("[dim]", "forgotten")

    def _new_chat(self, *, thinking: bool) -> Chat:
        on_full: OnFull = self._args.on_full or "error"
        return self._session.chat(system=self._args.system, thinking=thinking, on_full=on_full)

    def _save(self, rest: str) -> None:
        if path := _one_path(rest, "/save FILE"):
            try:
                self._chat.save(path)
                hint("[dim]", f"saved to {path}")
            except Gemma4Error as error:
                hint("[red]error:[/] ", str(error))

    def _load(self, rest: str) -> None:
        if path := _one_path(rest, "/load FILE"):
            try:
                self._take_up(path)
            except Gemma4Error as error:
                hint("[red]error:[/] ", str(error))

    def _take_up(self, path: Path) -> None:
        chat = self._session.load_chat(path)
        chat.on_full = self._args.on_full or chat.on_full
        self._chat = chat
        n_turns = sum(message["role"] == "user" for message in chat.messages)
        hint("[dim]", f"{path}: going on after {n_turns} turns")


def _words(rest: str) -> list[str]:
    """What follows a command, split as a shell does; whole where a quote is not closed."""
    try:
        return shlex.split(rest)
    except ValueError:
        return [rest]


def _one_path(rest: str, usage: str) -> Path | None:
    words = _words(rest)
    if len(words) == 1:
        return Path(words[0]).expanduser()
    hint("[red]error:[/] ", f"{usage} takes one file. Quote a name with spaces.")
    return None


def _turns() -> Iterator[str]:
    """Turns as typed: one line, or several by a trailing backslash or between fences; never empty."""
    lines: list[str] = []
    fenced = False
    while True:
        try:
            line = _line(MORE if lines or fenced else PROMPT)
        except EOFError:
            break
        except KeyboardInterrupt:
            lines, fenced = [], False
            hint("\n[dim]", "Ctrl-D or /exit leaves")
            continue
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


def _line(prompt: str) -> str:
    if sys.stdin.isatty() and sys.stdout.isatty():
        return input(prompt)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Line editing with the turns of earlier conversations, where readline exists."""
    try:
        import readline
    except ImportError:
        yield
        return
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    path = state / "gemma4-gguf" / "history"
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(1000)
    readline.set_completer_delims(" \t\n")
    readline.set_completer(_complete)
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            readline.write_history_file(path)


def _complete(text: str, state: int) -> str | None:
    """Names of commands at the start, else of files."""
    start = Path(text).expanduser()
    names = [f"/{word} " for word in _WORDS]
    found = [name for name in names if name.startswith(text)] if text.startswith("/") else []
    with contextlib.suppress(OSError):
        folder = start if text.endswith("/") else start.parent
        prefix = "" if text.endswith("/") else start.name
        for path in sorted(folder.iterdir()):
            if path.name.startswith(prefix):
                found.append(f"{path}/" if path.is_dir() else str(path))
    return found[state] if state < len(found) else None
