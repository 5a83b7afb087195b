"""Transcript: the thought, the text and the calls of a reply as they become certain, and their chunks.

White space around thoughts, and between text and a marker, is no text. A reply that begins with the word
thought on a line of its own may be a thought whose opening marker is missing: it is held until that is known.
"""

from __future__ import annotations

from gemma4_gguf.reply.lexer import THOUGHT_HEADER, may_be_header
from gemma4_gguf.types import Chunk, ToolCall


class Transcript:
    """What there is of a reply. Joined chunks equal it.

    Attributes:
        calls: in the order written.
        after_thought: a thought has ended; white space before the first text is dropped.
        headed: the reply began with the header of a thought, without the marker before it.
    """

    def __init__(self) -> None:
        self.calls: list[ToolCall] = []
        self.after_thought = self.headed = False
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._chunks: list[Chunk] = []
        self._warnings: dict[str, None] = {}
        # Not given out yet: text at the start of a run, and white space that may end a thought.
        self._held: list[str] = []
        self._thought_held: list[str] = []
        self._blank = True
        self._run_open = self._thought_open = False

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._text)

    @property
    def thinking(self) -> str | None:
        """The thought so far, None without one."""
        return "".join(self._thinking) or None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was mended or dropped, each sentence once."""
        return tuple(self._warnings)

    @property
    def at_start(self) -> bool:
        """Nothing has been given out."""
        return not (self._text or self._thinking or self.calls or self.after_thought)

    @property
    def is_empty(self) -> bool:
        """Nothing but white space has come."""
        return self.at_start and self._blank

    @property
    def thought_open(self) -> bool:
        """A thought has begun."""
        return self._thought_open

    def take(self) -> list[Chunk]:
        """Gives the chunks that came since the last time."""
        out, self._chunks = self._chunks, []
        return out

    def warn(self, sentence: str) -> None:
        """Adds a warning, once.

        Args:
            sentence: with its full stop.
        """
        self._warnings[sentence] = None

    def write_text(self, text: str) -> None:
        """Adds text that the user reads.

        Args:
            text: of any length.
        """
        if not text:
            return
        if self._run_open:
            self._emit_text(text)
            return
        self._held.append(text)
        self._blank = self._blank and text.isspace()
        if self._blank or self.headed:
            return
        held = "".join(self._held)
        self._held = [held]
        body = held.lstrip()
        if self.at_start and may_be_header(body):
            return
        if self.at_start and THOUGHT_HEADER.match(body):
            self.headed = True
            return
        self._emit_held(body if self.after_thought and not self._text else held)

    def end_text(self) -> None:
        """A marker ends a run of text; white space alone is no text."""
        if not self._blank:
            self._emit_held("".join(self._held))
        self._held, self._blank, self._run_open = [], True, False

    def settle_header(self, *, thought: bool) -> None:
        """Says what a reply is that began with the header of a thought but lacks its marker.

        Args:
            thought: it is one, and ends here; otherwise it is text.
        """
        held = "".join(self._held)
        word = self.at_start and held.strip() == "thought"
        if thought and (self.headed or word):
            self._held, self._blank = [], True
            self.write_thought("" if word else THOUGHT_HEADER.sub("", held, count=1))
            self.end_thought()
            self.after_thought = True
        self.headed = False

    def write_thought(self, text: str) -> None:
        """Adds to the thought.

        Args:
            text: of any length.
        """
        if not self._thought_open:
            text = text.lstrip()
            if not text:
                return
            self._thought_open = True
            if self._thinking:
                self._emit_thought("\n\n")
        body = text.rstrip()
        if body:
            self._emit_thought("".join((*self._thought_held, body)))
            self._thought_held = []
        self._thought_held.append(text[len(body) :])

    def end_thought(self) -> None:
        """A marker ends the thought."""
        self._thought_held, self._thought_open = [], False

    def add_call(self, call: ToolCall) -> None:
        """Adds a call.

        Args:
            call: as read.
        """
        self.calls.append(call)
        self._chunks.append(Chunk("tool_call", tool_call=call))

    def close(self) -> None:
        """Ends the reply: gives out what was held back."""
        if self._held and (not self._blank or self.at_start):
            self._emit_held("".join(self._held))

    def _emit_held(self, text: str) -> None:
        self._held, self._blank, self._run_open = [], True, True
        self._emit_text(text)

    def _emit_text(self, text: str) -> None:
        if text:
            self._text.append(text)
            self._chunks.append(Chunk("text", text))

    def _emit_thought(self, text: str) -> None:
        self._thinking.append(text)
        self._chunks.append(Chunk("thinking", text))
