"""Reply parser: token stream → thought, text and tool calls, as one pure state machine.

Gemma 4 writes `<|channel>thought`, a newline, the thought and `<channel|>`; a call is
`<|tool_call>call:name{key:<|"|>text<|"|>}<tool_call|>`. Nothing is lost and nothing raises: a call that
`tool_call.read_call` cannot read comes back as text with a warning. Joined chunks equal the finished `Reply`.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gemma4_gguf.reply.bare_call import BareCalls, Brackets, leading_call
from gemma4_gguf.reply.lexer import THOUGHT_HEADER, Lexer, Piece, may_be_header
from gemma4_gguf.reply.tool_call import ReadCall, begins_call, names_tool, read_call, tool_schemas
from gemma4_gguf.reply.transcript import Transcript
from gemma4_gguf.special_tokens import CALL_CLOSE, CALL_OPEN, Markers
from gemma4_gguf.types import Chunk, FinishReason, Reply, ToolCall, Usage

_State = Callable[[str | None, str], None]
_MAX_TRIES = 32  # readings of one call, and restarts of one reply, before raw text wins
_MAX_REJECTED = 8  # calls without their marker that were none, before no more are looked for
_LOOK_AHEAD = 256  # characters seen before it is decided whether a marker, or a call without one, was meant
_CALL_ENDS = ("call_close", "call_open", "turn_open", "turn_close", "response_open")


class ReplyParser:
    """Splits one reply, fed token by token, into chunks.

    Args:
        markers: ids of the markers; None reads the markers in the text itself.
        tools: OpenAI tool dicts the model was shown; their schemas guide repair.
        starts_in_thought: the prompt already opened a thought.
        parallel_tool_calls: False keeps the first call of the reply only.
        first_call: number of the first call id ("call_0" …), for ids unique in a conversation.
        bare_calls: calls of these tools are read without their marker, too.
    """

    def __init__(
        self,
        markers: Markers | None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        starts_in_thought: bool = False,
        *,
        parallel_tool_calls: bool = True,
        first_call: int = 0,
        bare_calls: bool = True,
    ) -> None:
        self._lexer = Lexer(markers)
        self._schemas = tool_schemas(tools) if tools else None
        self._bare = BareCalls(self._schemas if bare_calls else None)
        self._parallel = parallel_tool_calls
        self._first_call = first_call
        self._out = Transcript()
        self._seen: dict[str, int] = {}
        self._state: _State = self._in_header if starts_in_thought else self._in_text
        self._outer: _State = self._in_thought if starts_in_thought else self._in_text
        self._head = self._buffer = ""
        self._mentioned = False  # `<|tool_call>` was text, and so is the next `<tool_call|>`
        # Of the call that is being read.
        self._pieces: list[Piece] = []
        self._after: list[Piece] = []
        self._brackets, self._angle = Brackets(), False
        self._call = ReadCall("", {})
        self._inside_quotes = self._blank_since_close = False
        self._close_at: int | None = None
        self._tries = self._restarts = self._rejected = 0
        self._after_end: list[str] = []
        self._queue: deque[Piece] = deque()
        self._flushed = False

    def feed(self, token_id: int | None, text: str) -> list[Chunk]:
        """Take one token.

        Args:
            token_id: its id; None for text without one.
            text: its text (whole characters only); ignored for markers, whose text is known.

        Returns:
            Chunks that are certain now, maybe none.
        """
        self._run(self._lexer.feed(token_id, text))
        return self._out.take()

    def flush(self, finish_reason: FinishReason) -> list[Chunk]:
        """Ends the stream: gives out what was held back. Called by `finish` if the caller did not.

        Args:
            finish_reason: as for `finish`.

        Returns:
            The last chunks, maybe none.
        """
        if not self._flushed:
            self._flushed = True
            self._run(self._lexer.flush())
            self._settle(cut=finish_reason != "stop")
        return self._out.take()

    def finish(self, finish_reason: FinishReason, usage: Usage | None = None) -> Reply:
        """End of the reply.

        Args:
            finish_reason: "stop", or "length"/"cancelled" for a reply that was cut: a half call is not run.
            usage: token counts to carry along.

        Returns:
            The whole reply; equal to the joined chunks of `feed` and `flush`.
        """
        self.flush(finish_reason)
        calls = tuple(self._out.calls)
        repeats = {key: n for key, n in self._seen.items() if n > 1}
        repeated = (f"The call {key} was written {n} times; it is kept once." for key, n in repeats.items())
        return Reply(
            text=self._out.text,
            thinking=self._out.thinking,
            tool_calls=calls,
            finish_reason="tool_calls" if calls and finish_reason == "stop" else finish_reason,
            usage=usage or Usage(),
            warnings=(*self._out.warnings, *repeated),
        )

    def _run(self, pieces: Sequence[Piece]) -> None:
        self._queue.extend(pieces)
        while self._queue:
            self._state(*self._queue.popleft())

    def _again(self, *pieces: Piece) -> None:
        """Hand pieces to the state that is now in charge, before anything else."""
        self._queue.extendleft(reversed(pieces))

    def _write(self, text: str) -> None:
        """Write into whatever surrounds the current marker."""
        if self._outer == self._in_thought:
            self._out.write_thought(text)
        else:
            self._out.write_text(text)

    # States: each takes (marker name or None, its text)

    def _in_text(self, name: str | None, text: str) -> None:
        if self._plain(name, text):
            return
        if name in ("call_open", "response_open"):
            self._open_head(text)
        elif name == "channel_open":
            self._out.settle_header(thought=True)
            self._out.end_text()
            self._open_header()
        elif name == "channel_close":
            self._out.settle_header(thought=True)
            self._out.warn("A thought was closed that had not been opened; the marker was dropped.")
        elif name == "turn_open" and self._out.is_empty:
            self._buffer, self._state = "", self._in_speaker
        else:
            self._structure(name, text)

    def _plain(self, name: str | None, text: str) -> bool:
        """Writes what is no marker, and says whether it was none."""
        if name == "silent":
            return True
        if name is None:
            before, opener, rest = self._bare.feed(text)
            self._write(before)
            if opener is not None:
                self._open_bare(opener)
                self._again((None, rest))
            return True
        self._write(self._bare.flush())
        if name == "quote":
            self._write(text)
            self._bare.skip('"')
        return name == "quote"

    def _structure(self, name: str | None, text: str) -> None:
        """Markers that mean the same in text and in a thought."""
        if name in ("turn_open", "turn_close"):
            self._state = self._after_turn
        elif name == "call_close" and self._mentioned:
            self._mentioned = False
            self._write(text)
        else:
            self._out.warn(f"A stray {text} was dropped.")

    def _open_header(self) -> None:
        self._buffer = ""
        self._state = self._in_header
        self._outer = self._in_thought

    def _in_header(self, name: str | None, text: str) -> None:
        """After `<|channel>`: the word thought, which is not part of the thought, or the thought itself."""
        if name is None or name == "quote":
            self._buffer = (self._buffer + text).lstrip()
            if not may_be_header(self._buffer):
                self._leave_header(ended=False)
            return
        if name == "channel_open" and self._buffer.strip() in ("", "thought"):
            self._out.warn("A thought was opened twice.")
            self._buffer = ""
            return
        self._leave_header((name, text))

    def _leave_header(self, *after: Piece, ended: bool = True) -> None:
        held, self._buffer = self._buffer, ""
        header = THOUGHT_HEADER.match(held)
        self._state = self._in_thought
        if header:
            held = held[header.end() :]
        elif ended and held.strip() == "thought":
            held = ""
        self._again((None, held), *after)

    def _in_thought(self, name: str | None, text: str) -> None:
        if self._plain(name, text):
            return
        if name in ("call_open", "response_open"):
            self._open_head(text)
        elif name == "channel_open":
            if self._out.thought_open:
                self._out.warn("A thought was opened inside a thought.")
            self._out.end_thought()
            self._open_header()
        elif name == "channel_close":
            self._out.end_thought()
            self._out.after_thought = True
            self._state = self._outer = self._in_text
        else:
            self._structure(name, text)

    def _in_speaker(self, name: str | None, text: str) -> None:
        """After `<|turn>` at the very start: `model` and a newline where the end of the prompt was kept."""
        self._buffer += text
        if name is None and "\n" not in self._buffer and len(self._buffer) < _LOOK_AHEAD:
            return
        speaker, newline, rest = self._buffer.partition("\n")
        if newline and speaker.strip() == "model":
            self._state = self._in_text
            self._again((None, rest))
        else:
            self._state = self._after_turn
            self._after_end.append(self._buffer)

    def _open_head(self, marker: str) -> None:
        self._head, self._buffer = marker, ""
        self._state = self._in_head

    def _in_head(self, name: str | None, text: str) -> None:
        """After `<|tool_call>` or `<|tool_response>`: is this one, or is the marker only mentioned?"""
        if name == "silent":
            return
        if name is None:
            self._buffer += text
            meant = self._is_meant()
            if meant is None:
                return
            if meant:
                self._open_call((None, self._buffer))
                return
            self._mention()
        elif name == "call_close" and self._head == CALL_OPEN and names_tool(self._buffer, self._schemas):
            self._open_call((None, self._buffer), (name, text))
        else:
            self._mention((name, text))

    def _is_meant(self) -> bool | None:
        """Whether a call, or a result, follows its marker; None as long as more has to be seen."""
        if self._head == CALL_OPEN:
            return begins_call(self._buffer, self._schemas)
        body = self._buffer.lstrip()
        return True if body.startswith("response:") else None if "response:".startswith(body) else False

    def _open_call(self, *pieces: Piece) -> None:
        self._pieces, self._close_at, self._tries = [], None, 0
        self._inside_quotes = False
        self._state = self._in_call if self._head == CALL_OPEN else self._in_response
        self._again(*pieces)

    def _mention(self, *after: Piece) -> None:
        """The marker was prose, or the reply ended on it; that of a result is never prose."""
        self._state = self._outer
        held, self._buffer = self._buffer, ""
        if self._head == CALL_OPEN:
            self._out.warn(f"{self._head} without a call after it was kept as text.")
            self._write(self._head)
            self._bare.skip('"')
            self._mentioned = True
        elif held.strip():
            self._out.warn(f"A stray {self._head} was dropped.")
        self._again((None, held), *after)

    def _in_response(self, name: str | None, text: str) -> None:
        """A result is for the caller to give; one that the model made up is neither text nor call."""
        if name in ("response_close", "turn_close", "turn_open", "call_open"):
            made_up = "".join(piece for _, piece in self._pieces)
            self._out.warn(f"The model wrote a tool result itself; it was dropped: {made_up}")
            self._state = self._outer
            if name != "response_close":
                self._again((name, text))
        else:
            self._pieces.append((name, text))

    def _after_turn(self, name: str | None, text: str) -> None:
        if name != "silent":
            self._after_end.append(text)

    # Calls

    def _in_call(self, name: str | None, text: str) -> None:
        if name not in _CALL_ENDS:
            self._pieces.append((name, text))
            self._inside_quotes ^= name == "quote"
            self._blank_since_close = self._blank_since_close and not text.strip()
            return
        closed = name == "call_close"
        if not closed and self._close_at is not None and self._blank_since_close:
            self._again((name, text))
            self._settle_call(cut=False)
            return
        self._tries += 1
        tired = self._inside_quotes and self._tries > _MAX_TRIES
        call = None if tired else read_call(self._pieces, self._schemas, closed=closed)
        if call is None and self._inside_quotes:
            # The marker may be part of a string that is still open: decide when the reply is over.
            if closed and self._close_at is None:
                self._close_at = len(self._pieces)
            self._pieces.append((name, text))
            self._blank_since_close = self._close_at == len(self._pieces) - 1
            return
        if not closed:
            self._again((name, text))
        self._accept(call, self._pieces, closed=closed)

    def _accept(self, call: ReadCall | None, pieces: Sequence[Piece], *, closed: bool) -> None:
        """Give out a call, or its text when it could not be read."""
        self._state = self._outer
        if call is None:
            call, rest = leading_call(pieces, self._schemas)
            if call is not None:
                self._again(*rest)
        if call is None:
            raw = self._head + "".join(text for _, text in pieces) + (CALL_CLOSE if closed else "")
            self._out.warn("A tool call could not be read; it is kept as text.")
            self._outer = self._state = self._in_text
            self._out.end_thought()
            self._out.write_text(raw)
            self._bare.skip(raw)
            return
        if self._outer == self._in_text:
            self._out.settle_header(thought=True)
        self._out.end_text()
        for note in call.notes:
            self._out.warn(f"Tool call {call.name}: {note}.")
        key = f"{call.name}({json.dumps(call.arguments, sort_keys=True, ensure_ascii=False)})"
        self._seen[key] = self._seen.get(key, 0) + 1
        if self._seen[key] > 1:
            return
        if self._out.calls and not self._parallel:
            self._out.warn(f"Only one call was allowed; dropped {key}.")
            return
        number = self._first_call + len(self._out.calls)
        self._out.add_call(ToolCall(f"call_{number}", call.name, call.arguments))

    def _settle_call(self, *, cut: bool) -> None:
        """The reply ended (or a new call began) inside a call."""
        pieces, close_at = self._pieces, self._close_at
        while pieces and pieces[-1][0] in ("turn_close", "response_open", "silent"):
            pieces = pieces[:-1]
        call = read_call(pieces, self._schemas, closed=False, cut=cut)
        if call is None and close_at is not None and self._restarts < _MAX_TRIES:
            # The string was never closed, so the first closing marker was meant after all.
            self._restarts += 1
            self._again(*pieces[close_at + 1 :])
            pieces = pieces[:close_at]
            call = read_call(pieces, self._schemas, closed=True, force=True)
            self._accept(call, pieces, closed=True)
            return
        self._accept(call, pieces, closed=False)

    # Calls without their marker

    def _open_bare(self, opener: re.Match[str]) -> None:
        self._head, self._pieces, self._after = opener.group(), [(None, f"call:{opener.group(1)}")], []
        self._brackets, self._angle = Brackets(), "tool_call:" in self._head
        self._state = self._in_bare

    def _in_bare(self, name: str | None, text: str) -> None:
        """From the bracket on; markers may be part of a delimited text."""
        if name in (None, "quote", "silent") or self._brackets.in_text:
            end = self._brackets.feed((name, text))
            if end is None:
                self._pieces.append((name, text))
                return
            self._pieces.append((name, text[:end]))
            self._leave_bare((None, text[end:]))
        else:
            self._leave_bare((name, text))

    def _leave_bare(self, *after: Piece) -> None:
        closed = any(name == "call_close" for name, _ in after)
        call = read_call(self._pieces, self._schemas, closed=closed, cut=True)
        if call is None:
            self._reject_bare(*after)
            return
        self._call, self._state = call, self._after_bare
        self._again(*after)

    def _after_bare(self, name: str | None, text: str) -> None:
        """A call that closes is one if nothing follows on its line, or in its thought, but other calls."""
        in_thought = self._outer == self._in_thought
        if self._angle and name is None and text:
            self._angle = False
            if text[0] == ">":  # it closes `<tool_call:`
                self._pieces.append((None, ">"))
                text = text[1:]
        if name in (None, "quote", "silent"):
            if text:
                self._after.append((name, text))
            alone = self._stands_alone(in_thought)
            if alone is not None:
                (self._accept_bare if alone else self._reject_bare)()
        elif name == "channel_close" and in_thought:
            self._after.append((name, text))
        elif name in ("call_open", "channel_open") and in_thought:
            self._reject_bare((name, text))
        elif name == "call_close":
            self._accept_bare()
        else:
            self._accept_bare((name, text))

    def _stands_alone(self, in_thought: bool) -> bool | None:
        """Whether nothing but another call follows; None as long as more has to be seen."""
        said = "".join(text for kind, text in self._after if kind in (None, "quote"))
        body = said.lstrip(" \t\r\n,;" if in_thought else " \t\r,;")
        if body.startswith("\n") or (not body and len(said) > _LOOK_AHEAD):
            return True
        return self._bare.begins(body) if body else None

    def _accept_bare(self, *after: Piece) -> None:
        call = replace(self._call, notes=(*self._call.notes, "its marker was missing"))
        self._accept(call, (), closed=False)
        self._again(*self._after, *after)

    def _reject_bare(self, *after: Piece) -> None:
        self._rejected += 1
        if self._rejected > _MAX_REJECTED:
            self._bare = BareCalls(None)
        self._state = self._outer
        self._write(self._head)
        self._bare.skip(self._head)
        self._again(*self._pieces[1:], *self._after, *after)

    def _settle(self, *, cut: bool) -> None:
        while self._state in (self._in_call, self._in_bare, self._after_bare, self._in_head):
            if self._state == self._in_call:
                self._settle_call(cut=cut)
            elif self._state == self._in_bare:
                self._leave_bare()
            elif self._state == self._after_bare:
                self._accept_bare()
            else:
                self._mention()
            self._run([])
        if self._state == self._in_response:
            self._in_response("response_close", "")
        if self._state == self._in_header:
            self._leave_header()
            self._run([])
        if self._state == self._in_speaker:
            self._after_end.append(self._buffer)
        self._write(self._bare.flush())
        self._out.close()
        after = "".join(self._after_end).strip()
        if after:
            self._out.warn(f"Written after the end of the turn and dropped: {after}")


def parse_reply(
    text: str, tools: Sequence[Mapping[str, Any]] | None = None, starts_in_thought: bool = False
) -> Reply:
    """Read a whole reply from its text, markers included.

    Args:
        text: what the model wrote, with its markers visible.
        tools: OpenAI tool dicts the model was shown; their schemas guide repair.
        starts_in_thought: the prompt already opened a thought.

    Returns:
        The reply; finish_reason is "tool_calls" when there are calls, else "stop".
    """
    parser = ReplyParser(None, tools, starts_in_thought)
    parser.feed(None, text)
    return parser.finish("stop")
