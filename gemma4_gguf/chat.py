"""Chat: a conversation's messages, turns that add to them, and the loop that runs its tools."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from typing_extensions import Unpack

from gemma4_gguf.chat_file import SavedChat, origin_of, write_chat_file
from gemma4_gguf.engine.compute_thread import Cancelled
from gemma4_gguf.engine.engine import Engine
from gemma4_gguf.engine.kv_cache import SavedSequence
from gemma4_gguf.errors import MessageError, OptionError
from gemma4_gguf.generation import Generation, Turn, read_turn, whole
from gemma4_gguf.options import SamplingOptions, TurnOptions
from gemma4_gguf.prompt.call_results import open_calls
from gemma4_gguf.prompt.messages import Message, user_message
from gemma4_gguf.prompt.tokens import PromptWriter
from gemma4_gguf.tools import Tool, ToolResult, as_tools, run_call
from gemma4_gguf.tools.choice import later_choice
from gemma4_gguf.tools.results import as_result
from gemma4_gguf.tools.run import failure
from gemma4_gguf.truncation import ON_FULL, OnFull, drop_oldest, turn_starts
from gemma4_gguf.types import Chunk, ImageTokens, Part, Reply, ToolCall, ToolLike

MAX_ROUNDS = 10
TIMEOUT_S = 60.0
_MAX_REPEATS = 3  # of one and the same call, before the run ends

OnResult = Callable[[ToolCall, ToolResult], None]

_log = logging.getLogger(__name__)


class Answers(Protocol):
    """What a conversation needs of a Session."""

    sampling: SamplingOptions
    engine: Engine
    prompts: PromptWriter

    def generate(self, turn: Turn, *, owner: object | None = None) -> Generation:
        """Prepares a reply.

        Args:
            turn: from `read_turn`.
            owner: who will come back with a longer prompt.

        Returns:
            The generation; nothing is drawn yet.
        """


class Chat:
    """One conversation. What it shares with the last turn is not computed again.

    Args:
        session: what answers.
        system: instructions before the conversation.
        tools: what the model may call: Python functions, Pydantic types, tool dicts.
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
        session: Answers,
        *,
        system: str | None = None,
        tools: Sequence[ToolLike | Tool] | None = None,
        thinking: bool = False,
        on_full: OnFull = "error",
    ) -> None:
        if on_full not in ON_FULL:
            raise OptionError(f"on_full is {on_full!r}; expected one of {', '.join(ON_FULL)}.")
        self.messages: list[Message] = []
        self.dropped: list[Message] = []
        self.thinking = thinking
        self.on_full: OnFull = on_full
        self.image_tokens: ImageTokens | None = None
        self._special_in_content = False  # as the last turn was given
        self._tools = as_tools(tools)
        self._session = session
        if system is not None:
            self.messages.append({"role": "system", "content": system})

    def __repr__(self) -> str:
        counts = [f"{len(self.messages)} messages", f"{len(self._tools)} tools" if self._tools else ""]
        counts += [
            f"{len(self.dropped)} dropped" if self.dropped else "",
            "thinking" if self.thinking else "",
        ]
        return f"<Chat {', '.join(filter(None, counts))}>"

    @property
    def tools(self) -> tuple[Tool, ...]:
        """What the model may call; may be set between turns, to anything that `Session.chat` takes."""
        return self._tools

    @tools.setter
    def tools(self, tools: Sequence[ToolLike | Tool] | None) -> None:
        self._tools = as_tools(tools)

    def send(self, *parts: Part, **options: Unpack[TurnOptions]) -> Reply:
        """Says something and waits for the reply.

        Args:
            parts: as for Session.ask; nothing after tool results, to let the model go on.
            options: as for Session.ask, for this turn. image_tokens counts for pictures of earlier turns,
                too, that name none themselves; tools and thinking take the place of the conversation's.

        Returns:
            The reply, which `messages` now ends with.

        Raises:
            MessageError: there is nothing to say, or media that this model cannot take.
            ContextFullError: the conversation is longer than the context. `messages` is as before.
            SchemaError: the schema cannot be expressed.
            IncompleteReplyError: a reply with a schema was cut off. `messages` is as before.
            InvalidReplyError: a validator of the type refuses the value. `messages` is as before.
        """
        return whole(self.stream(*parts, **options))

    def stream(self, *parts: Part, **options: Unpack[TurnOptions]) -> Generator[Chunk, None, None]:
        """Says something and yields the reply as it comes: `send`, piece by piece.

        A stream that is closed early leaves what was said so far in `messages`.

        Args:
            parts: as for `send`.
            options: as for `send`.

        Returns:
            Chunks; joined they are the reply that the last one, of kind "end", carries.

        Raises:
            OptionError: an option is unknown or out of range; further errors as for `send`.
        """
        if options.get("system") is not None:
            raise OptionError("system= belongs to the whole conversation: Session.chat(system=…).")
        new = self._new_messages(parts, as_tools(options.get("tools", self.tools)))
        settings: TurnOptions = {"tools": self.tools, "thinking": self.thinking, **options}  # type: ignore[typeddict-item]
        messages = [*self.messages, *new]
        turn = read_turn(messages, settings, self._session.sampling)
        # Which of the checked messages are which of ours: turns are dropped by identity.
        ours = {id(checked): messages[i] for checked, i in zip(turn.messages, turn.given_at, strict=True)}

        def attempt(part: Sequence[Message]) -> tuple[int, Generation]:
            generation = self._session.generate(replace(turn, messages=part), owner=self)
            return generation.n_prompt_tokens, generation

        left_out: list[Message] = []
        if self.on_full == "error":
            generation = attempt(turn.messages)[1]
        else:
            n_ctx, most = self._session.engine.n_ctx, turn.sampling.max_tokens
            generation, dropped = drop_oldest(turn.messages, attempt, n_ctx=n_ctx, max_tokens=most)
            left_out = list({id(ours[id(m)]): ours[id(m)] for m in dropped}.values())
        self.image_tokens, self._special_in_content = turn.image_tokens, turn.special_in_content
        return self._run(new, generation, left_out)

    def run(
        self,
        *parts: Part,
        max_rounds: int = MAX_ROUNDS,
        timeout_s: float | None = TIMEOUT_S,
        on_result: OnResult | None = None,
        **options: Unpack[TurnOptions],
    ) -> Reply:
        """Says something and runs the tools that the model calls, until it calls none.

        Calls run one after the other; async functions are awaited, in an event loop of the library's own.
        An exception, a timeout or wrong arguments become a result that the model reads; a call that is
        repeated unchanged is not run again.

        Args:
            parts: as for `send`.
            max_rounds: replies at most, at least 1.
            timeout_s: seconds one call may take; None waits for ever, and runs functions in this thread
                instead of one of their own.
            on_result: called with every ToolCall and its ToolResult.
            options: as for `send`. What tool_choice demands, it demands of the first reply only.

        Returns:
            The last reply. It still has tool calls if one of them has no function, or if the run was
            stopped; `warnings` then says why.

        Raises:
            ToolError: a tool cannot be declared, or returned what the model cannot be told; `messages` then
                ends with its call.
            OptionError: an option is out of range.
            NameError, ImportError, SyntaxError: a tool's code is wrong.
        """
        if not isinstance(max_rounds, int) or max_rounds < 1:
            raise OptionError(f"max_rounds is {max_rounds!r}; expected a whole number, at least 1.")
        if timeout_s is not None and not (isinstance(timeout_s, (int, float)) and timeout_s > 0):
            raise OptionError(f"timeout_s is {timeout_s!r}; expected a number above 0, or None.")
        tools = as_tools(options["tools"]) if "tools" in options else self.tools
        options = {**options, "tools": tools}  # type: ignore[typeddict-item]
        runnable = {tool.name for tool in tools if tool.run is not None}
        declared = {tool.name for tool in tools}
        seen: Counter[str] = Counter()
        reply = self.send(*parts, **options)
        options = {**options, "tool_choice": later_choice(options.get("tool_choice", "auto"), list(declared))}
        for _ in range(max_rounds - 1):
            if not reply.tool_calls or any(call.name in declared - runnable for call in reply.tool_calls):
                return reply
            for call, result in _results(tools, reply.tool_calls, seen, timeout_s):
                self.add_result(call, result.content)
                if on_result is not None:
                    on_result(call, result)
            if max(seen.values()) > _MAX_REPEATS:
                return _stopped(reply, "The model repeated one and the same tool call; the run was stopped.")
            reply = self.send(**options)
        if reply.tool_calls:
            said = f"The model still calls tools after {max_rounds} rounds; the run was stopped."
            return _stopped(reply, said)
        return reply

    def add_result(self, call: ToolCall, result: Any) -> None:
        """Answers a tool call of the last reply; `send()` lets the model go on once all are answered.

        Args:
            call: from Reply.tool_calls.
            result: what the tool returned: text, a picture, a list of texts, pictures and sounds, content of
                an MCP server, or whatever can be written as JSON.

        Raises:
            ToolError: the model cannot be told this.
        """
        content = as_result(result, call.name).content
        self.messages.append({"role": "tool", "tool_call_id": call.id, "name": call.name, "content": content})

    def fork(self) -> Chat:
        """A second conversation that starts with the messages of this one.

        Returns:
            The new one; both go their own way from here on.
        """
        other = Chat(self._session, tools=self.tools, thinking=self.thinking, on_full=self.on_full)
        other.messages, other.dropped = list(self.messages), list(self.dropped)
        return other

    def save(self, path: str | Path) -> None:
        """Writes the conversation to a file, for `Session.load_chat`.

        Messages, media (as encoded bytes) and what the cache holds of it, so that nothing needs to be decoded
        again, as long as the session still holds it: with n_seq=1, until another conversation went on. Where
        the model file is gone, what was said is saved alone.

        Args:
            path: written whole or not at all; what is there is replaced.

        Raises:
            MediaError: a picture, sound or clip is no longer there.
            MessageError: a message was edited into something that is none.
            OutputError: the file cannot be written.
            EngineError: a reply of this chat is still being streamed.
        """
        origin = origin_of(self._session.engine)
        saved = SavedChat(
            messages=self.messages,
            dropped=self.dropped,
            tools=[tool.declaration for tool in self.tools],
            thinking=self.thinking,
            on_full=self.on_full,
            sequence=self._sequence() if origin.fingerprint else None,
            origin=origin,
        )
        write_chat_file(saved, path)

    def _sequence(self) -> SavedSequence | None:
        """What the next turn would keep of the cache."""
        if not self.messages:
            return None
        settings: TurnOptions = {"tools": self.tools, "thinking": self.thinking}  # type: ignore[typeddict-item]
        turn = read_turn([*self.messages, *_next_messages(self.messages)], settings, self._session.sampling)
        turn = replace(turn, image_tokens=self.image_tokens, special_in_content=self._special_in_content)
        prompt = turn.prompt(self._session.prompts)
        return self._session.engine.export_sequence(self, prompt.items)

    def _new_messages(self, parts: Sequence[Part], tools: Sequence[Tool]) -> list[Message]:
        if parts:
            return [*_no_such_tools(self.messages, tools), user_message(parts)]
        if not self.messages or self.messages[-1]["role"] not in ("tool", "user"):
            raise MessageError("There is nothing to say: give at least one text, picture or sound.")
        return []

    def _run(
        self, new: list[Message], generation: Generation, left_out: list[Message]
    ) -> Generator[Chunk, None, None]:
        try:
            with closing(generation.stream()) as chunks:
                yield from (chunk for chunk in chunks if chunk.kind != "end")
        except (GeneratorExit, KeyboardInterrupt, Cancelled):
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
    """A reply as the assistant message that goes into the history.

    Args:
        reply: a finished one.

    Returns:
        An OpenAI-shaped dict.
    """
    message: Message = {"role": "assistant", "content": reply.text}
    if reply.thinking:
        message["reasoning_content"] = reply.thinking
    if reply.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in reply.tool_calls
        ]
    return message


def _no_such_tools(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """Results for calls of tools that nobody declared, and that nobody will answer."""
    declared = {tool.name for tool in tools}
    names = [(call.get("id"), call.get("function", {}).get("name")) for call in open_calls(messages)]
    return [
        {"role": "tool", "tool_call_id": number, "content": failure(f"There is no tool {name!r}.").content}
        for number, name in names
        if name not in declared
    ]


def _next_messages(messages: Sequence[Message]) -> list[Message]:
    """What may come next: results for open calls, else something the user says."""
    calls = open_calls(messages)
    if calls:
        return [{"role": "tool", "tool_call_id": call.get("id"), "content": "-"} for call in calls]
    return [] if messages[-1]["role"] in ("user", "tool") else [{"role": "user", "content": "-"}]


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
