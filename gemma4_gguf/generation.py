"""Generation: a turn → the chunks of its reply.

Streaming is the primitive: `Generation` yields chunks, and what asks for a whole reply reads them to the end.
"""

from __future__ import annotations

import codecs
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gemma4_gguf.engine.engine import Engine
from gemma4_gguf.engine.guided_sampler import Guide
from gemma4_gguf.engine.token_stream import TokenRequest, TokenStream
from gemma4_gguf.options import SamplingOptions, TurnOptions, turn_options
from gemma4_gguf.prompt.call_results import pair_results
from gemma4_gguf.prompt.messages import Message, check_each
from gemma4_gguf.prompt.tokens import Prompt, PromptWriter
from gemma4_gguf.reply.parser import ReplyParser
from gemma4_gguf.reply.stop_text import StopText
from gemma4_gguf.structured_output import ReplyRules, reply_rules
from gemma4_gguf.tools import Tool, as_tools
from gemma4_gguf.types import Chunk, FinishReason, ImageTokens, Reply


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Everything that a reply rests on, checked once: see `read_turn`.

    Args:
        messages: checked, oldest first, results of tools right behind their calls.
        given_at: for each the place of the message that it comes from, among those given.
        sampling: how tokens are drawn, when to stop.
        tools: what the model may call.
        declarations: the same as OpenAI dicts; None without any.
        thinking: a thought may come first.
        image_tokens: budget of pictures that name none themselves.
        special_in_content: control tokens that are spelled in texts are control tokens.
        rules: what the reply must be.
    """

    messages: Sequence[Message]
    given_at: Sequence[int]
    sampling: SamplingOptions
    tools: tuple[Tool, ...] = ()
    declarations: Sequence[Mapping[str, Any]] | None = None
    thinking: bool = False
    image_tokens: ImageTokens | None = None
    special_in_content: bool = False
    rules: ReplyRules = field(default_factory=ReplyRules)

    def prompt(self, prompts: PromptWriter) -> Prompt:
        """What the model reads.

        Args:
            prompts: of the engine that answers.

        Returns:
            Token ids and media spans.

        Raises:
            MessageError: media that this model cannot take.
            MediaError: media that cannot be read.
            TemplateError: the template refuses the conversation.
        """
        return prompts.write(
            self.messages,
            tools=[tool.shown for tool in self.tools] or None,
            thinking=self.thinking,
            image_tokens=self.image_tokens,
            special_in_content=self.special_in_content,
        )


def read_turn(messages: Sequence[Mapping[str, Any]], options: TurnOptions, sampling: SamplingOptions) -> Turn:
    """Checks a conversation and what was said beside it.

    Args:
        messages: OpenAI-shaped dicts, oldest first.
        options: as given.
        sampling: how tokens are drawn where the options do not say.

    Returns:
        The turn, checked.

    Raises:
        OptionError: an option is unknown or out of range.
        MessageError: a message is malformed, or calls and results do not fit together.
        ToolError: a tool cannot be declared.
        SchemaError: the schema, or the parameters of a tool, cannot be expressed.
        GrammarError: GBNF text is malformed.
    """
    rest, drawn, called = turn_options(options, sampling)
    tools = as_tools(rest.pop("tools", None))
    declarations = [tool.declaration for tool in tools] or None
    rules = reply_rules(rest.pop("schema", None), declarations, called) or ReplyRules()
    system = rest.pop("system", None)
    if system is not None:
        messages = [{"role": "system", "content": system}, *messages]
    groups = check_each(messages)
    given_at = {id(checked): i for i, group in enumerate(groups) for checked in group}
    paired = pair_results([checked for group in groups for checked in group])
    return Turn(
        messages=paired,
        given_at=[given_at[id(checked)] for checked in paired],
        sampling=drawn,
        tools=tools,
        declarations=declarations,
        rules=rules,
        **rest,
    )


class Generation:
    """One reply in the making.

    Args:
        engine: that gives its tokens.
        prompts: write what the model reads.
        turn: what the reply rests on.
        owner: who will come back with a longer prompt; finds its sequence again.

    Attributes:
        reply: the reply so far; final after the "end" chunk, "cancelled" when the stream was left early.

    Raises:
        ContextFullError: the prompt is longer than the context.
        MessageError: media that this model cannot take.
        MediaError: media that cannot be read.
        TemplateError: the template refuses the conversation.
    """

    def __init__(
        self, engine: Engine, prompts: PromptWriter, turn: Turn, *, owner: object | None = None
    ) -> None:
        prompt = turn.prompt(prompts)
        self.reply = Reply(finish_reason="cancelled")
        self._engine, self._turn, self._rules = engine, turn, turn.rules
        engine.context.require_room(prompt.n_tokens)
        self._guide: Guide | None = self._rules.guide(
            engine, thinking=turn.thinking, in_thought=prompt.starts_in_thought
        )
        self._parser = ReplyParser(
            engine.markers,
            turn.declarations,
            prompt.starts_in_thought,
            parallel_tool_calls=self._rules.parallel,
            first_call=sum(len(message.get("tool_calls", ())) for message in turn.messages),
            bare_calls=self._rules.may_call and self._rules.value is None,
        )
        self._stop = StopText(turn.sampling.stop)
        # Of the value; a thought before it is as long as it gets.
        value = self._rules.value
        self._limit = value.max_tokens if value is not None and turn.sampling.max_tokens is None else None
        self._tokens = engine.tokens(self._request(prompt, owner))

    def _request(self, prompt: Prompt, owner: object | None) -> TokenRequest:
        call_open = self._engine.markers.call_open
        barred = not self._rules.may_call and call_open is not None
        return TokenRequest(
            items=prompt.items,
            sampling=self._turn.sampling,
            guide=self._guide,
            banned=(call_open,) if barred and call_open is not None else (),
            owner=owner,
        )

    @property
    def n_prompt_tokens(self) -> int:
        """Tokens of the prompt, soft tokens of media included."""
        return self._tokens.usage.prompt_tokens

    def stream(self) -> Generator[Chunk, None, None]:
        """Yields the chunks of the reply, the last one of kind "end".

        Raises:
            IncompleteReplyError: the reply had to follow rules and was cut off.
            InvalidReplyError: a validator of the type that was asked for refuses it.
        """
        finish: FinishReason = "cancelled"
        try:
            with self._tokens as tokens:
                finish = yield from self._chunks(tokens)
            for chunk in self._parser.flush(finish):
                yield from self._pass(chunk)
            yield from self._text(self._stop.flush())
            if self._stop_belongs_to_value():
                yield from self._text(self._stop.release())
        finally:
            reply = self._parser.finish(finish, self._tokens.usage)
            self.reply = replace(reply, text=self._stop.passed) if self._turn.sampling.stop else reply
        if self._guide is not None:
            limit = self._limit if self._is_too_long() else None
            parsed = self._rules.check(self.reply, self._guide, finish, stopped=self._stop.hit, limit=limit)
            notes = (
                self._rules.value.warnings(self.reply.text)
                if parsed is not None and self._rules.value
                else ()
            )
            self.reply = replace(self.reply, parsed=parsed, warnings=(*self.reply.warnings, *notes))
        yield Chunk("end", reply=self.reply)

    def _chunks(self, tokens: TokenStream) -> Generator[Chunk, None, FinishReason]:
        """Yields what the tokens say; the value is why the reply ended.

        The bytes of a character that was cut in the middle are no text.
        """
        characters = codecs.getincrementaldecoder("utf-8")("replace")
        piece, feed = self._engine.model.piece, self._parser.feed
        for token in tokens:
            for chunk in feed(token.id, characters.decode(piece(token.id))):
                yield from self._pass(chunk)
                if self._stop.hit or (chunk.kind == "tool_call" and not self._rules.parallel):
                    return "stop"
            if self._is_too_long():
                return "length"
        return tokens.finish_reason

    def _is_too_long(self) -> bool:
        """The value has more tokens than its schema sensibly needs, and no limit was asked for."""
        guide, limit = self._guide, self._limit
        return guide is not None and limit is not None and guide.n_tokens >= limit and not guide.finished

    def _stop_belongs_to_value(self) -> bool:
        """A stop text was found that the value needs to be whole, such as the last bracket of JSON."""
        guide = self._guide
        return (
            guide is not None
            and self._rules.value is not None
            and self._stop.hit
            and not guide.accepts(self._stop.passed)
            and guide.accepts(self._stop.whole)
        )

    def _pass(self, chunk: Chunk) -> Iterator[Chunk]:
        """Lets a chunk through; text goes past the stop texts first."""
        if chunk.kind == "text":
            yield from self._text(self._stop.push(chunk.text))
        elif not self._stop.hit:
            yield from self._text(self._stop.flush())
            yield chunk

    @staticmethod
    def _text(text: str) -> Iterator[Chunk]:
        if text:
            yield Chunk("text", text)


def whole(chunks: Iterator[Chunk]) -> Reply:
    """Reads a stream to its end.

    Args:
        chunks: of a reply.

    Returns:
        The reply that the last one carries.
    """
    reply = Reply()
    for chunk in chunks:
        if chunk.reply is not None:
            reply = chunk.reply
    return reply
