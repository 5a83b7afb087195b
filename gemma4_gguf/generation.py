"""The loop that draws a reply: decode, draw, turn bytes into characters, split into chunks, stop.

Streaming is the primitive: `Generation` yields chunks, and what asks for a whole reply reads them to the end.
The engine is held for one decode and one draw at a time, so several generations can take turns.
"""

from __future__ import annotations

import codecs
import logging
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from gemma4_gguf.engine.context import Context
from gemma4_gguf.engine.guided_sampler import Guide, GuidedSampler
from gemma4_gguf.engine.kv_cache import SequencePool, SequenceState
from gemma4_gguf.engine.sampler import Sampler
from gemma4_gguf.options import SamplingOptions
from gemma4_gguf.prompt.tokens import Prompt
from gemma4_gguf.reply.parser import ReplyParser
from gemma4_gguf.reply.stop_text import StopText
from gemma4_gguf.special_tokens import Markers
from gemma4_gguf.structured_output import ReplyRules
from gemma4_gguf.types import Chunk, FinishReason, Reply, Usage

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """What a generation runs on: one context, its sequences, and the markers of the vocabulary."""

    context: Context
    pool: SequencePool
    markers: Markers


class Generation:
    """One reply in the making.

    Args:
        engine: what it runs on.
        prompt: what the model reads.
        sampling: how tokens are drawn, when to stop.
        tools: OpenAI tool dicts the model was shown.
        rules: what the reply must be; None leaves it free.
        thinking: a thought may come first.
        first_call: number of the first tool call id.

    Attributes:
        reply: the reply so far; final after the "end" chunk, "cancelled" when the stream was left early.
        owner: who will come back with a longer prompt; finds its sequence again.
    """

    def __init__(
        self,
        engine: Engine,
        prompt: Prompt,
        sampling: SamplingOptions,
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        rules: ReplyRules | None = None,
        thinking: bool = False,
        first_call: int = 0,
    ) -> None:
        engine.context.require_room(prompt.n_tokens)
        self.reply = Reply(finish_reason="cancelled")
        self.owner: object | None = None
        self._engine = engine
        self._prompt = prompt
        self._sampling = sampling
        self._rules = rules or ReplyRules()
        self._guide: Guide | None = self._rules.guide(
            engine.context.model, engine.markers, thinking=thinking, in_thought=prompt.starts_in_thought
        )
        self._parser = ReplyParser(
            engine.markers,
            tools,
            prompt.starts_in_thought,
            parallel_tool_calls=self._rules.parallel,
            first_call=first_call,
        )
        self._stop = StopText(sampling.stop)
        self._usage = Usage(prompt_tokens=prompt.n_tokens)
        self._n_drawn = 0

    @property
    def n_prompt_tokens(self) -> int:
        """Tokens of the prompt, soft tokens of media included."""
        return self._prompt.n_tokens

    def stream(self) -> Generator[Chunk, None, None]:
        """Yields the chunks of the reply, the last one of kind "end".

        Raises:
            IncompleteReplyError: the reply had to follow rules and was cut off.
            InvalidReplyError: a validator of the type that was asked for refuses it.
        """
        finish: FinishReason = "cancelled"
        try:
            with (
                self._engine.pool.lend(self._prompt.items, self.owner) as state,
                closing(self._sampler()) as sampler,
            ):
                draws = self._draw(state, sampler)
                finish = yield from self._chunks(draws)
            for chunk in self._parser.flush(finish):
                yield from self._pass(chunk)
            yield from self._text(self._stop.flush())
        finally:
            usage = replace(self._usage, completion_tokens=self._n_drawn)
            reply = self._parser.finish(finish, usage)
            self.reply = replace(reply, text=self._stop.passed) if self._sampling.stop else reply
        if self._guide is not None:
            parsed = self._rules.check(self.reply, self._guide, finish)
            self.reply = replace(self.reply, parsed=parsed)
        yield Chunk("end", reply=self.reply)

    def _chunks(self, draws: Iterator[int]) -> Generator[Chunk, None, FinishReason]:
        """Returns why the reply ended."""
        model = self._engine.context.model
        characters = codecs.getincrementaldecoder("utf-8")("replace")
        limit = self._sampling.max_tokens
        piece, feed, ends_reply = model.piece, self._parser.feed, model.ends_reply
        for token in draws:
            self._n_drawn += 1
            if ends_reply(token):
                return "stop"
            for chunk in feed(token, characters.decode(piece(token))):
                yield from self._pass(chunk)
                if self._stop.hit or (chunk.kind == "tool_call" and not self._rules.parallel):
                    return "stop"
            if self._n_drawn == limit:
                break
        for chunk in feed(None, characters.decode(b"", final=True)):
            yield from self._pass(chunk)
        return "length"

    def _draw(self, state: SequenceState, sampler: Sampler | GuidedSampler) -> Iterator[int]:
        """Yields drawn tokens until the context is full; each is decoded when the next one is asked for."""
        context, items = self._engine.context, self._prompt.items
        with context.lock:
            start = time.perf_counter()
            reused = context.prefill(state, items, self._engine.pool.states)
            self._usage = replace(self._usage, reused_tokens=reused)
            token = sampler.draw(context.handle)
        n_new = self._usage.prompt_tokens - self._usage.reused_tokens
        _log.debug("prompt: %d tokens decoded in %.3f s", n_new, time.perf_counter() - start)
        while True:
            yield token
            if state.n_past >= context.n_ctx:
                return
            with context.lock:
                context.extend_one(state, token)
                token = sampler.draw(context.handle)

    def _sampler(self) -> Sampler | GuidedSampler:
        model = self._engine.context.model
        history = [item for item in self._prompt.items if isinstance(item, int)]
        banned = list(model.facts.banned_tokens)
        call_open = self._engine.markers.call_open
        if not self._rules.may_call and call_open is not None:
            banned.append(call_open)
        sampler = Sampler(self._sampling, model.n_vocab, banned, history)
        return sampler if self._guide is None else GuidedSampler(sampler, self._guide, model.n_vocab)

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
    """Reads a stream to its end."""
    reply = Reply()
    for chunk in chunks:
        if chunk.reply is not None:
            reply = chunk.reply
    return reply
