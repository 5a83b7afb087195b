"""Token stream: the request for the tokens of one reply, and the iterator that gives them.

What ends a reply is asked before its next decode: a reader that stops reading has nothing computed in vain.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from types import TracebackType

import numpy as np

from gemma4_gguf.engine.context import Context
from gemma4_gguf.engine.guided_sampler import Guide, GuidedSampler
from gemma4_gguf.engine.kv_cache import Item, SequencePool, n_positions
from gemma4_gguf.engine.sampler import Sampler
from gemma4_gguf.options import SamplingOptions
from gemma4_gguf.types import FinishReason, Usage

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TokenRequest:
    """What tokens are asked for.

    Args:
        items: the prompt: token ids and media spans, <bos> first.
        sampling: how tokens are drawn, and how many; its stop texts are up to who reads the stream.
        guide: which tokens may come next; None leaves it free.
        banned: ids that are not drawn, beside those that the model never writes.
        owner: who comes back with a longer prompt, such as a Chat; held weakly.
        n_top: how many of the likeliest tokens are told with each, 0 or more; None tells no probabilities.
    """

    items: Sequence[Item]
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    guide: Guide | None = None
    banned: tuple[int, ...] = ()
    owner: object | None = None
    n_top: int | None = None


@dataclass(frozen=True)
class Token:
    """One token that was drawn.

    Args:
        id: in the vocabulary.
        logprob: natural logarithm of the probability that the model gave it, before any sampling option;
            None unless the request asked.
        top: the likeliest ids with theirs, likeliest first.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class TokenStream:
    """Iterates over the tokens of a reply; the token that ends it is not among them. Close it when done.

    Args:
        context: that decodes.
        pool: its sequences; one is held from the first token to the end of the stream.
        request: what is asked for.

    Attributes:
        usage: tokens so far; the one that ends the reply counts.
        finish_reason: "stop" after such a token, "length" when `max_tokens` or the context is used up,
            "cancelled" as long as neither has come.

    Raises:
        ContextFullError: the prompt is longer than the context.
    """

    def __init__(self, context: Context, pool: SequencePool, request: TokenRequest) -> None:
        context.require_room(n_positions(request.items))
        self._progress = _Progress(Usage(prompt_tokens=n_positions(request.items)))
        # Nothing in it refers to this stream: one that is dropped is closed at once.
        self._tokens = _draw(context, pool, request, self._progress)

    @property
    def usage(self) -> Usage:
        """Tokens so far; the one that ends the reply counts."""
        return self._progress.usage

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended; "cancelled" as long as it has not."""
        return self._progress.finish_reason

    def __iter__(self) -> TokenStream:
        return self

    def __next__(self) -> Token:
        return next(self._tokens)

    def close(self) -> None:
        """Ends the stream, and gives its sequence back. Calling it again does nothing."""
        self._tokens.close()

    def __enter__(self) -> TokenStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass
class _Progress:
    """How far a stream has come."""

    usage: Usage
    finish_reason: FinishReason = "cancelled"


def _draw(
    context: Context, pool: SequencePool, request: TokenRequest, progress: _Progress
) -> Generator[Token, None, None]:
    model, limit = context.model, request.sampling.max_tokens
    with (
        pool.lend(request.items, request.owner) as state,
        closing(_sampler(context, request)) as sampler,
    ):
        with context.lock:
            start = time.perf_counter()
            reused = context.prefill(state, request.items, pool.states)
            progress.usage = replace(progress.usage, reused_tokens=reused)
            token = _next(context, request, sampler)
        n_new = progress.usage.prompt_tokens - reused
        _log.debug("prompt: %d tokens decoded in %.3f s", n_new, time.perf_counter() - start)
        while True:
            n_drawn = progress.usage.completion_tokens + 1
            progress.usage = replace(progress.usage, completion_tokens=n_drawn)
            if model.ends_reply(token.id):
                progress.finish_reason = "stop"
                return
            yield token
            if n_drawn == limit or state.n_past >= context.n_ctx:
                progress.finish_reason = "length"
                return
            with context.lock:
                context.extend_one(state, token.id)
                token = _next(context, request, sampler)


def _sampler(context: Context, request: TokenRequest) -> Sampler | GuidedSampler:
    model = context.model
    history = [item for item in request.items if isinstance(item, int)]
    banned = [*model.facts.banned_tokens, *request.banned]
    sampler = Sampler(request.sampling, model.n_vocab, banned, history)
    return sampler if request.guide is None else GuidedSampler(sampler, request.guide, model.n_vocab)


def _next(context: Context, request: TokenRequest, sampler: Sampler | GuidedSampler) -> Token:
    """Draws from the last decode. The lock of the context is held."""
    if request.n_top is None:
        return Token(sampler.draw(context.handle))
    scores = log_probabilities(context.logits())
    token = sampler.draw(context.handle)
    likeliest = np.argsort(-scores, kind="stable")[: request.n_top]
    return Token(token, float(scores[token]), tuple((int(i), float(scores[i])) for i in likeliest))


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Natural logarithms of the probabilities behind logits.

    Args:
        logits: float32 [..., n_vocab].

    Returns:
        float64 of the same shape.
    """
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
