"""Conversation loop of `gemma4-gguf chat`: turns, commands that begin with a slash, attachments."""

from __future__ import annotations

import argparse
import functools
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from rich.markup import escape

from gemma4_gguf.chat import Chat
from gemma4_gguf.cli import signals
from gemma4_gguf.cli.errors import in_words_of_the_command
from gemma4_gguf.cli.line_input import history, somebody_types, turns
from gemma4_gguf.cli.options import attachments, given
from gemma4_gguf.cli.output import hint
from gemma4_gguf.cli.parser import flags
from gemma4_gguf.cli.stream import show
from gemma4_gguf.errors import Gemma4Error
from gemma4_gguf.options import SamplingOptions
from gemma4_gguf.session import Session
from gemma4_gguf.truncation import OnFull
from gemma4_gguf.types import MODALITIES, Media, Part

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
/retry               another answer to what was said last
/undo                take back the last turn
/reset               forget the conversation
/help                this list
/exit                leave, as does Ctrl-D
A line that ends in \\ goes on in the next; \"\"\" begins and ends a text of many lines.
A block that is pasted is one turn. Ctrl-C stops a reply."""


class Repl:
    """One conversation.

    Args:
        session: the opened model.
        args: parsed options of the command.
    """

    def __init__(self, session: Session, args: argparse.Namespace) -> None:
        self._session, self._args = session, args
        self._sampling = given(args, SamplingOptions)
        self._flags = flags(args.parser.subcommands[args.command])
        self._attached: list[Part] = [*attachments(args)]
        self._commands: dict[str, Callable[[str], None]] = {
            f"/{kind}": functools.partial(self._attach, modality.type)
            for kind, modality in MODALITIES.items()
        }
        self._commands |= {
            "/think": self._think,
            "/save": self._save,
            "/load": self._load,
            "/retry": self._retry,
            "/undo": self._undo,
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
        with history([*self._commands, "/exit"]) as open_line:
            for turn in turns(end_line=open_line):
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
        self._answer(*parts)

    def _answer(self, *parts: Part) -> bool:
        """Shows the answer to what is said, or to the last message; False after an error."""
        try:
            chunks = self._chat.stream(*parts, image_tokens=self._args.image_tokens, **self._sampling)
            show(chunks, stats=sys.stderr.isatty())
        except KeyboardInterrupt:
            if not somebody_types():
                raise
            signals.current.forget()
            hint("\n[dim]", "stopped")
        except Gemma4Error as error:
            self._say(error)
            return False
        return True

    def _say(self, error: Gemma4Error) -> None:
        hint("[red]error:[/] ", in_words_of_the_command(str(error), self._flags))

    def _last_turn(self) -> int | None:
        """Where the last thing that was said stands among the messages."""
        places = [i for i, message in enumerate(self._chat.messages) if message["role"] == "user"]
        if not places:
            hint("[dim]", "nothing was said yet")
        return places[-1] if places else None

    def _retry(self, _: str) -> None:
        if (at := self._last_turn()) is not None:
            before = list(self._chat.messages)
            del self._chat.messages[at + 1 :]
            if not self._answer():
                self._chat.messages[:] = before

    def _undo(self, _: str) -> None:
        if (at := self._last_turn()) is not None:
            del self._chat.messages[at:]
            hint("[dim]", f"taken back; {self._n_turns()} turns are left")

    def _n_turns(self) -> int:
        return sum(message["role"] == "user" for message in self._chat.messages)

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
                self._say(error)

    def _load(self, rest: str) -> None:
        if path := _one_path(rest, "/load FILE"):
            try:
                self._take_up(path)
            except Gemma4Error as error:
                self._say(error)

    def _take_up(self, path: Path) -> None:
        chat = self._session.load_chat(path)
        chat.on_full = self._args.on_full or chat.on_full
        self._chat = chat
        hint("[dim]", f"{path}: going on after {self._n_turns()} turns")


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
