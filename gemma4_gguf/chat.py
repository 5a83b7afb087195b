"""A conversation: its messages, and turns that add to them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemma4_gguf.chat_file import save_chat
from gemma4_gguf.errors import MessageError, OptionError
from gemma4_gguf.generation import Generation
from gemma4_gguf.options import SamplingOptions, turn_options
from gemma4_gguf.prompt.messages import Message, user_message
from gemma4_gguf.tools import ToolLike, as_tools
from gemma4_gguf.truncation import ON_FULL, OnFull, drop_oldest, turn_starts
from gemma4_gguf.types import Chunk, ImageTokens, Part, Reply, ToolCall

if TYPE_CHECKING:
    from gemma4_gguf.session import Session

import json
import logging
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from gemma4_gguf.tools import Tool, ToolResult, run_call

if TYPE_CHECKING:
    pass

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


MAX_ROUNDS = 10
TIMEOUT_S = 60.0
_MAX_REPEATS = 3  # of one and the same call, before the run ends
OnResult = Callable[[ToolCall, ToolResult], None]
_log = logging.getLogger(__name__)


class Chat:
    """One conversation. What it shares with the last turn is not computed again.

    Args:
        session: what answers.
        system: instructions before the conversation.
        tools: what the model may call: OpenAI dicts, Pydantic types, Python functions.
        thinking: let the model think before each answer; may be changed between turns.
        on_full: what to do when the conversation no longer fits into the context: "error" raises
            ContextFullError; "drop_oldest" leaves out whole old turns, never the system message, until a
            quarter of the context is free.

    Attributes:
        messages: OpenAI-shaped dicts, oldest first, media as values; may be edited between turns.
        dropped: messages that were left out, oldest first. The reply that first went without them says so
            in its warnings.
        image_tokens: budget that the last turn was given.

    Raises:
        ToolError: a tool cannot be declared.
        OptionError: on_full is unknown.
    """

    def __init__(
        self,
        session: Session,
        *,
        system: str | None = None,
        tools: Sequence[ToolLike] | None = None,
        thinking: bool = False,
        on_full: OnFull = "error",
    ) -> None:
        as_tools(tools)
        if on_full not in ON_FULL:
            raise OptionError(f"on_full is {on_full!r}; expected one of {', '.join(ON_FULL)}.")
        self.messages: list[Message] = []
        self.dropped: list[Message] = []
        self.tools = tools
        self.thinking = thinking
        self.on_full: OnFull = on_full
        self.image_tokens: ImageTokens | None = None
        self._session = session
        if system is not None:
            self.messages.append({"role": "system", "content": system})

    def send(
        self,
        *parts: Part,
        image_tokens: ImageTokens | None = None,
        schema: Any = None,
        sampling: SamplingOptions | None = None,
        **overrides: Any,
    ) -> Reply:
        """Says something and waits for the reply.

        Args:
            parts: as for Session.ask; nothing after tool results, to let the model go on.
            image_tokens: budget per picture of this turn and earlier ones that name none themselves.
            schema: what the text of the reply must be, as for Session.ask.
            sampling: how tokens are drawn; None takes what the file recommends.
            overrides: single fields of SamplingOptions and ToolOptions by name.

        Returns:
            The reply, which `messages` now ends with.

        Raises:
            MessageError: there is nothing to say, or media that this model cannot take.
            ContextFullError: the conversation is longer than the context. `messages` is as before.
            SchemaError: the schema cannot be expressed.
            IncompleteReplyError: a reply with a schema was cut off. `messages` is as before.
            InvalidReplyError: a validator of the type refuses the value. `messages` is as before.
        """
        reply = Reply()
        for chunk in self.stream(
            *parts, image_tokens=image_tokens, schema=schema, sampling=sampling, **overrides
        ):
            reply = chunk.reply or reply
        return reply

    def stream(
        self,
        *parts: Part,
        image_tokens: ImageTokens | None = None,
        schema: Any = None,
        sampling: SamplingOptions | None = None,
        **overrides: Any,
    ) -> Generator[Chunk, None, None]:
        """Says something and yields the reply as it comes: `send`, piece by piece.

        A stream that is closed early leaves what was said so far in `messages`.
        """
        new = self._new_messages(parts)
        options, calling = turn_options(sampling or self._session.sampling, overrides)

        def attempt(messages: Sequence[Message]) -> tuple[int, Generation]:
            generation = self._session.generate(
                messages,
                tools=self.tools,
                thinking=self.thinking,
                image_tokens=image_tokens,
                schema=schema,
                sampling=options,
                calling=calling,
            )
            return generation.n_prompt_tokens, generation

        left_out: list[Message] = []
        messages = [*self.messages, *new]
        if self.on_full == "error":
            generation = attempt(messages)[1]
        else:
            n_ctx = self._session.options.n_ctx
            generation, left_out = drop_oldest(messages, attempt, n_ctx=n_ctx, max_tokens=options.max_tokens)
        generation.owner, self.image_tokens = self, image_tokens
        return self._run(new, generation, left_out)

    def run(
        self,
        *parts: Part,
        max_rounds: int = MAX_ROUNDS,
        timeout_s: float | None = TIMEOUT_S,
        on_result: OnResult | None = None,
        **options: Any,
    ) -> Reply:
        """Says something and runs the tools that the model calls, until it calls none.

        Calls run one after the other. An exception, a timeout or wrong arguments become a result that the
        model reads; a call that is repeated unchanged is not run again.

        Args:
            parts: as for `send`.
            max_rounds: replies at most, at least 1.
            timeout_s: seconds one call may take; None waits for ever.
            on_result: called with every ToolCall and its ToolResult.
            options: as for `send`. What tool_choice demands, it demands of the first reply only.

        Returns:
            The last reply; with tool calls only if one has no function to run, or the run was stopped.

        Raises:
            ToolError: a tool cannot be declared.
            OptionError: an option is out of range.
        """
        return run_until_done(
            self, parts, max_rounds=max_rounds, timeout_s=timeout_s, on_result=on_result, options=options
        )

    def add_result(self, call: ToolCall, result: Any) -> None:
        """Answers a tool call of the last reply; `send()` lets the model go on once all are answered.

        Args:
            call: from Reply.tool_calls.
            result: what the tool returned: text or JSON, or a list of texts, pictures and sounds.
        """
        self.messages.append({"role": "tool", "tool_call_id": call.id, "name": call.name, "content": result})

    def fork(self) -> Chat:
        """A second conversation that starts with the messages of this one."""
        other = Chat(self._session, tools=self.tools, thinking=self.thinking, on_full=self.on_full)
        other.messages, other.dropped = list(self.messages), list(self.dropped)
        return other

    def save(self, path: str | Path) -> None:
        """Writes the conversation to a file, for `Session.load_chat`.

        Messages, media (as encoded bytes) and what the cache holds of it, so that nothing needs to be decoded
        again, as long as the session still holds it: with n_seq=1, until another conversation went on.

        Args:
            path: written whole or not at all; what is there is replaced.

        Raises:
            MediaError: a picture, sound or clip is no longer there.
            MessageError: a message was edited into something that is none.
            OutputError: the file cannot be written.
            EngineError: a reply of this chat is still being streamed.
        """
        save_chat(self, path)

    def _new_messages(self, parts: Sequence[Part]) -> list[Message]:
        if parts:
            return [user_message(parts)]
        if not self.messages or self.messages[-1]["role"] not in ("tool", "user"):
            raise MessageError("There is nothing to say: give at least one text, picture or sound.")
        return []

    def _run(
        self, new: list[Message], generation: Generation, left_out: list[Message]
    ) -> Generator[Chunk, None, None]:
        try:
            with closing(generation.stream()) as chunks:
                yield from (chunk for chunk in chunks if chunk.kind != "end")
        except (GeneratorExit, KeyboardInterrupt):
            self._remember(new, generation.reply, left_out)
            raise
        reply = generation.reply
        if left_out:
            n_turns = len(turn_starts(left_out))
            said = f"The context is full. Turns left out of the conversation, oldest first: {n_turns}."
            reply = replace(reply, warnings=(*reply.warnings, said))
        self._remember(new, reply, left_out)
        yield Chunk("end", reply=reply)

    def _remember(self, new: list[Message], reply: Reply, left_out: list[Message]) -> None:
        gone = {id(message) for message in left_out}
        self.messages[:] = [message for message in self.messages if id(message) not in gone]
        self.messages += [*new, as_message(reply)]
        self.dropped += left_out


def as_message(reply: Reply) -> Message:
    """A reply as the assistant message that goes into the history."""
    message: Message = {"role": "assistant", "content": reply.text}
    if reply.thinking:
        message["reasoning_content"] = reply.thinking
    if reply.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in reply.tool_calls
        ]
    return message


def run_until_done(
    chat: Chat,
    parts: Sequence[Part],
    *,
    max_rounds: int,
    timeout_s: float | None,
    on_result: OnResult | None,
    options: dict[str, Any],
) -> Reply:
    """Lets a chat answer and runs what it calls, round after round.

    Args:
        chat: with its tools.
        parts: what is said first.
        max_rounds: replies at most.
        timeout_s: seconds one call may take; None waits for ever.
        on_result: told of every call and its result.
        options: of `Chat.send`.

    Returns:
        The last reply. It still has tool calls if one of them has no function, or if the run was stopped;
        `warnings` then says why.

    Raises:
        OptionError: max_rounds or timeout_s is out of range.
    """
    if max_rounds < 1:
        raise OptionError(f"max_rounds is {max_rounds}; expected at least 1.")
    if timeout_s is not None and timeout_s <= 0:
        raise OptionError(f"timeout_s is {timeout_s}; expected a number above 0, or None.")
    tools = as_tools(chat.tools)
    runnable = {tool.name for tool in tools if tool.run is not None}
    declared = {tool.name for tool in tools}
    seen: Counter[str] = Counter()
    reply = chat.send(*parts, **options)
    if options.get("tool_choice") != "none":  # a call that is demanded each time would never end
        options = options | {"tool_choice": "auto"}
    for _ in range(max_rounds - 1):
        if not reply.tool_calls:
            return reply
        if any(call.name in declared - runnable for call in reply.tool_calls):
            return reply
        for call, result in _results(tools, reply.tool_calls, seen, timeout_s):
            chat.add_result(call, result.content)
            if on_result is not None:
                on_result(call, result)
        if max(seen.values()) > _MAX_REPEATS:
            return _stopped(reply, "The model repeated one and the same tool call; the run was stopped.")
        reply = chat.send(**options)
    if reply.tool_calls:
        return _stopped(reply, f"The model still calls tools after {max_rounds} rounds; the run was stopped.")
    return reply


def _results(
    tools: Sequence[Tool], calls: Sequence[ToolCall], seen: Counter[str], timeout_s: float | None
) -> Generator[tuple[ToolCall, ToolResult], None, None]:
    for call in calls:
        key = json.dumps([call.name, call.arguments], sort_keys=True, default=str)
        seen[key] += 1
        if seen[key] > 1:
            said = (
                f"{call.name} was already called with these arguments. Use the result above, or change them."
            )
            yield call, ToolResult(json.dumps({"error": said}), failed=True)
            continue
        _log.debug("calling %s", call.name)
        yield call, run_call(tools, call, timeout_s=timeout_s)


def _stopped(reply: Reply, why: str) -> Reply:
    return replace(reply, warnings=(*reply.warnings, why))
