"""Reply parser: token stream → thought, text and tool calls, as one pure state machine.

Gemma 4 writes `<|channel>thought`, a newline, the thought and `<channel|>`; a call is
`<|tool_call>call:name{key:<|"|>text<|"|>}<tool_call|>`. Nothing is lost and nothing raises: a call that
`tool_call.read_call` cannot read comes back as text with a warning. Joined chunks equal the finished `Reply`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gemma4_gguf.reply.lexer import THOUGHT_HEADER, Lexer, Piece, may_be_header
from gemma4_gguf.reply.tool_call import ReadCall, read_call, tool_schemas
from gemma4_gguf.special_tokens import CALL_CLOSE, CALL_OPEN, MARKER_TEXT, RESPONSE_OPEN, Markers
from gemma4_gguf.types import Chunk, FinishReason, Reply, ToolCall, Usage

_State = Callable[[str | None, str], None]
_MAX_TRIES = 32  # readings of one call, and restarts of one reply, before raw text wins


class ReplyParser:
    """Splits one reply, fed token by token, into chunks.

    Args:
        markers: ids of the markers; None reads the markers in the text itself.
        tools: OpenAI tool dicts the model was shown; their schemas guide repair.
        starts_in_thought: the prompt already opened a thought.
        parallel_tool_calls: False keeps the first call of the reply only.
        first_call: number of the first call id ("call_0" …), for ids unique in a conversation.
    """

    def __init__(
        self,
        markers: Markers | None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        starts_in_thought: bool = False,
        *,
        parallel_tool_calls: bool = True,
        first_call: int = 0,
    ) -> None:
        self._lexer = Lexer(markers)
        self._schemas = tool_schemas(tools) if tools else None
        self._parallel = parallel_tool_calls
        self._first_call = first_call
        self._chunks: list[Chunk] = []
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._calls: list[ToolCall] = []
        self._seen: dict[str, int] = {}
        self._warnings: list[str] = []
        # Not yet emitted: whitespace around text and thoughts, or what may be the start of a bare header.
        self._held = self._thought_held = ""
        self._segment_open = self._thought_open = self._after_thought = False
        self._state: _State = self._in_header if starts_in_thought else self._in_text
        self._outer: _State = self._in_thought if starts_in_thought else self._in_text
        self._head = self._buffer = ""
        self._pieces: list[Piece] = []
        self._close_at: int | None = None
        self._tries = self._restarts = 0
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
        return self._take()

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
        return self._take()

    def finish(self, finish_reason: FinishReason, usage: Usage | None = None) -> Reply:
        """End of the reply.

        Args:
            finish_reason: "stop", or "length"/"cancelled" for a reply that was cut: a half call is not run.
            usage: token counts to carry along.

        Returns:
            The whole reply; equal to the joined chunks of `feed` and `flush`.
        """
        self.flush(finish_reason)
        repeats = {key: n for key, n in self._seen.items() if n > 1}
        warnings = list(self._warnings)
        warnings += [f"The call {key} was written {n} times; it is kept once." for key, n in repeats.items()]
        return Reply(
            text="".join(self._text),
            thinking="".join(self._thinking) or None,
            tool_calls=tuple(self._calls),
            finish_reason="tool_calls" if self._calls and finish_reason == "stop" else finish_reason,
            usage=usage or Usage(),
            warnings=tuple(warnings),
        )

    def _run(self, pieces: Sequence[Piece]) -> None:
        self._queue.extend(pieces)
        while self._queue:
            self._state(*self._queue.popleft())

    def _again(self, *pieces: Piece) -> None:
        """Hand pieces to the state that is now in charge, before anything else."""
        self._queue.extendleft(reversed(pieces))

    # Emitting

    def _take(self) -> list[Chunk]:
        out, self._chunks = self._chunks, []
        return out

    def _emit_text(self, text: str) -> None:
        if text:
            self._text.append(text)
            self._chunks.append(Chunk("text", text))

    def _write_text(self, text: str) -> None:
        self._held += text
        if not self._segment_open:
            body = self._held.lstrip()
            if not body or (self._at_start() and may_be_header(body)):
                return
            if self._after_thought and not self._text:
                self._held = body
            self._segment_open = True
        held, self._held = self._held, ""
        self._emit_text(held)

    def _end_text(self) -> None:
        """A marker ends a run of text; whitespace alone is no text."""
        held, self._held = self._held, ""
        self._segment_open = False
        if held.strip():
            self._emit_text(held)

    def _write_thought(self, text: str) -> None:
        held = self._thought_held + text
        body = held.rstrip()
        if not self._thought_open:
            body = body.lstrip()
            if not body:
                return
            self._thought_open = True
            held = held.lstrip()
            if self._thinking:
                self._thinking.append("\n\n")
                self._chunks.append(Chunk("thinking", "\n\n"))
        self._thought_held = held[len(body) :]
        if body:
            self._thinking.append(body)
            self._chunks.append(Chunk("thinking", body))

    def _end_thought(self) -> None:
        self._thought_held = ""
        self._thought_open = False

    def _write(self, text: str) -> None:
        """Write into whatever surrounds the current marker."""
        if self._outer == self._in_thought:
            self._write_thought(text)
        else:
            self._write_text(text)

    def _warn(self, sentence: str) -> None:
        if sentence not in self._warnings:
            self._warnings.append(sentence)

    def _at_start(self) -> bool:
        return not (self._text or self._thinking or self._calls or self._after_thought)

    # States: each takes (marker name or None, its text)

    def _in_text(self, name: str | None, text: str) -> None:
        if name is None or name == "quote":
            self._write_text(text)
        elif name in ("call_open", "response_open"):
            self._open_head(text)
        elif name == "channel_open":
            self._end_text()
            self._open_header()
        elif name == "channel_close":
            if self._at_start() and self._held.strip() == "thought":
                self._held = ""
                self._after_thought = True
            self._warn("A thought was closed that had not been opened; the marker was dropped.")
        else:
            self._structure(name)

    def _structure(self, name: str) -> None:
        """Markers that mean the same in text and in a thought."""
        if name in ("turn_open", "turn_close"):
            self._state = self._after_turn
        else:
            self._warn(f"A stray {MARKER_TEXT[name]} was dropped.")

    def _open_header(self) -> None:
        self._buffer = ""
        self._state = self._in_header
        self._outer = self._in_thought

    def _in_header(self, name: str | None, text: str) -> None:
        """After `<|channel>`: the word thought, which is not part of the thought, or the thought itself."""
        if name is None or name == "quote":
            self._buffer += text
            if not may_be_header(self._buffer.lstrip()):
                self._leave_header()
            return
        if name == "channel_open" and self._buffer.strip() in ("", "thought"):
            self._warn("A thought was opened twice.")
            self._buffer = ""
            return
        self._leave_header()
        self._again((name, text))

    def _leave_header(self) -> None:
        held, self._buffer = self._buffer, ""
        header = THOUGHT_HEADER.match(held)
        self._state = self._in_thought
        if header:
            held = held[header.end() :]
        elif held.strip() == "thought":
            held = ""
        self._write_thought(held)

    def _in_thought(self, name: str | None, text: str) -> None:
        if name is None or name == "quote":
            self._write_thought(text)
        elif name in ("call_open", "response_open"):
            self._open_head(text)
        elif name == "channel_open":
            if self._thought_open:
                self._warn("A thought was opened inside a thought.")
            self._end_thought()
            self._open_header()
        elif name == "channel_close":
            self._end_thought()
            self._after_thought = True
            self._state = self._outer = self._in_text
        else:
            self._structure(name)

    def _open_head(self, marker: str) -> None:
        self._head, self._buffer = marker, ""
        self._state = self._in_head

    def _in_head(self, name: str | None, text: str) -> None:
        """After `<|tool_call>` or `<|tool_response>`: is this one, or is the marker only mentioned?"""
        call = self._head == CALL_OPEN
        if name is None:
            self._buffer += text
            body, word = self._buffer.lstrip(), "call:" if call else "response:"
            if word.startswith(body):
                return
            if body.startswith(word) or (call and body.startswith("{")):
                self._pieces, self._close_at, self._tries = [(None, self._buffer)], None, 0
                self._state = self._in_call if call else self._in_response
                return
        self._mention()
        if name is not None:
            self._again((name, text))

    def _mention(self) -> None:
        """The marker was prose, or the reply ended on it."""
        self._state = self._outer
        if self._head == RESPONSE_OPEN and not self._buffer.strip():
            return
        self._warn(f"{self._head} without a call after it was kept as text.")
        self._write(self._head + self._buffer)

    def _in_response(self, name: str | None, text: str) -> None:
        """A result is for the caller to give; one that the model made up is neither text nor call."""
        if name in ("response_close", "turn_close", "turn_open", "call_open"):
            made_up = "".join(piece for _, piece in self._pieces)
            self._warn(f"The model wrote a tool result itself; it was dropped: {made_up}")
            self._state = self._outer
            if name != "response_close":
                self._again((name, text))
        else:
            self._pieces.append((name, text))

    def _in_call(self, name: str | None, text: str) -> None:
        if name not in ("call_close", "call_open", "turn_open", "turn_close", "response_open"):
            self._pieces.append((name, text))
            return
        closed = name == "call_close"
        since_close = self._pieces[(self._close_at or 0) + 1 :]
        if not closed and self._close_at is not None and not any(text.strip() for _, text in since_close):
            self._again((name, text))
            self._settle_call(cut=False)
            return
        inside = sum(kind == "quote" for kind, _ in self._pieces) % 2 == 1
        self._tries += 1
        tired = inside and self._tries > _MAX_TRIES
        call = None if tired else read_call(self._pieces, self._schemas, closed=closed)
        if call is None and inside:
            # The marker may be part of a string that is still open: decide when the reply is over.
            if closed and self._close_at is None:
                self._close_at = len(self._pieces)
            self._pieces.append((name, text))
            return
        if not closed:
            self._again((name, text))
        self._accept(call, self._pieces, closed=closed)

    def _after_turn(self, name: str | None, text: str) -> None:
        self._after_end.append(text)

    # Calls

    def _accept(self, call: ReadCall | None, pieces: Sequence[Piece], *, closed: bool) -> None:
        """Give out a call, or its text when it could not be read."""
        self._state = self._outer
        if call is None:
            raw = self._head + "".join(text for _, text in pieces) + (CALL_CLOSE if closed else "")
            self._warn("A tool call could not be read; it is kept as text.")
            self._outer = self._state = self._in_text
            self._end_thought()
            self._write_text(raw)
            return
        self._end_text()
        for note in call.notes:
            self._warn(f"Tool call {call.name}: {note}.")
        key = f"{call.name}({json.dumps(call.arguments, sort_keys=True, ensure_ascii=False)})"
        self._seen[key] = self._seen.get(key, 0) + 1
        if self._seen[key] > 1:
            return
        if self._calls and not self._parallel:
            self._warn(f"Only one call was allowed; dropped {key}.")
            return
        number = self._first_call + len(self._calls)
        self._calls.append(ToolCall(f"call_{number}", call.name, call.arguments))
        self._chunks.append(Chunk("tool_call", tool_call=self._calls[-1]))

    def _settle_call(self, *, cut: bool) -> None:
        """The reply ended (or a new call began) inside a call."""
        pieces, close_at = self._pieces, self._close_at
        while pieces and pieces[-1][0] in ("turn_close", "response_open"):
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

    def _settle(self, *, cut: bool) -> None:
        while self._state == self._in_call:
            self._settle_call(cut=cut)
            self._run([])
        if self._state == self._in_head:
            self._mention()
        elif self._state == self._in_response:
            self._in_response("response_close", "")
        if self._state == self._in_header:
            self._leave_header()
        if self._held and (self._held.strip() or self._at_start()):
            held, self._held = self._held, ""
            self._emit_text(held)
        after = "".join(self._after_end).strip()
        if after:
            self._warn(f"Written after the end of the turn and dropped: {after}")


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
