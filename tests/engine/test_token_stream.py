"""Tokens of a reply: the seam between what asks for tokens and what computes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import parity
import pytest

from gemma4_gguf import SamplingOptions, Session
from gemma4_gguf.engine.engine import Engine
from gemma4_gguf.engine.kv_cache import SavedSequence
from gemma4_gguf.engine.token_stream import TokenRequest, log_probabilities
from gemma4_gguf.errors import ContextFullError, EngineError, MessageError, OptionError, StateError
from gemma4_gguf.grammars.gbnf_reader import parse_gbnf

GREEDY = SamplingOptions(temperature=0, max_tokens=12)
ONE = SamplingOptions(temperature=0, max_tokens=1)


@pytest.fixture
def engine(session: Session) -> Engine:
    return session.engine


@pytest.fixture
def prompt(session: Session) -> tuple[Any, ...]:
    return session.prompt([{"role": "user", "content": "What is your name?"}]).items


def test_a_stream_gives_what_a_session_says(session: Session, engine: Engine, prompt: Any) -> None:
    stream = engine.tokens(TokenRequest(items=prompt, sampling=SamplingOptions(temperature=0)))
    ids = [token.id for token in stream]
    reply = session.ask("What is your name?", temperature=0)
    assert engine.detokenize(ids) == reply.text and stream.finish_reason == "stop"
    assert stream.usage.completion_tokens == len(ids) + 1, "the token that ends the reply counts"
    assert stream.usage.prompt_tokens == len(prompt) == reply.usage.prompt_tokens
    assert list(stream) == [], "it has ended"


def test_a_limit_ends_it_and_the_last_token_is_not_decoded(
    engine: Engine, prompt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    real = engine.context.extend_one
    monkeypatch.setattr(
        engine.context, "extend_one", lambda state, token: decoded.append(token) or real(state, token)
    )
    stream = engine.tokens(TokenRequest(items=prompt, sampling=SamplingOptions(temperature=0, max_tokens=3)))
    ids = [token.id for token in stream]
    assert len(ids) == 3 and stream.finish_reason == "length" and decoded == ids[:2]


def test_nothing_is_computed_before_the_first_token_or_after_the_last_wanted(
    engine: Engine, prompt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: calls.append(name) or real(*args)

    for name in ("prefill", "extend_one"):
        monkeypatch.setattr(engine.context, name, watched(name, getattr(engine.context, name)))
    with engine.tokens(TokenRequest(items=prompt, sampling=GREEDY)) as stream:
        assert calls == []
        next(stream)
        assert calls == ["prefill"]
    assert calls == ["prefill"] and stream.finish_reason == "cancelled"
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)


def test_a_closed_stream_gives_its_sequence_back(engine: Engine, prompt: Any) -> None:
    request = TokenRequest(items=prompt, sampling=GREEDY)
    held = engine.tokens(request)
    next(held)
    with pytest.raises(EngineError, match="mid-reply"):
        next(engine.tokens(request))
    held.close()
    with engine.tokens(request) as again:
        assert next(again).id >= 0


def test_probabilities_are_those_of_the_logits(session: Session, engine: Engine, prompt: Any) -> None:
    stream = engine.tokens(TokenRequest(items=prompt, sampling=GREEDY, n_top=5))
    tokens = list(stream)
    ids = [*prompt, *(token.id for token in tokens)]
    logits = session.logits(ids)[len(prompt) - 1 : -1]
    for token, row in zip(tokens, logits, strict=True):
        scores = row.astype(np.float64) - np.log(np.exp(row.astype(np.float64)).sum())
        assert token.logprob == pytest.approx(scores[token.id], abs=0.05)
        assert token.top[0][0] == token.id and len(token.top) == 5
        assert [score for _, score in token.top] == sorted((score for _, score in token.top), reverse=True)
    (plain,) = engine.tokens(
        TokenRequest(items=prompt, sampling=SamplingOptions(temperature=0, max_tokens=1))
    )
    assert plain.logprob is None and plain.top == ()
    (bare,) = engine.tokens(TokenRequest(items=prompt, sampling=ONE, n_top=0))
    assert bare.logprob is not None and bare.top == ()


def test_probabilities_add_up() -> None:
    logits = np.array([1e4, 1e4, -np.inf, 3.0], np.float32)
    assert np.exp(log_probabilities(logits)) == pytest.approx([0.5, 0.5, 0, 0])


def test_what_is_banned_or_does_not_fit_a_grammar_is_not_drawn(engine: Engine, prompt: Any) -> None:
    (first,) = engine.tokens(
        TokenRequest(items=prompt, sampling=SamplingOptions(temperature=0, max_tokens=1))
    )
    banned = engine.tokens(
        TokenRequest(items=prompt, sampling=SamplingOptions(temperature=0, max_tokens=1), banned=(first.id,))
    )
    assert next(banned).id != first.id
    banned.close()
    guide = engine.guide(parse_gbnf('root ::= "yes" | "no"'))
    stream = engine.tokens(TokenRequest(items=prompt, sampling=SamplingOptions(temperature=0), guide=guide))
    assert engine.detokenize([token.id for token in stream]) in ("yes", "no")
    assert guide.complete and stream.finish_reason == "stop"


def test_a_prompt_that_does_not_fit_is_refused_by_the_call(engine: Engine) -> None:
    with pytest.raises(ContextFullError) as caught:
        engine.tokens(TokenRequest(items=[2] * (engine.n_ctx + 1)))
    assert caught.value.n_tokens == engine.n_ctx + 1


def test_a_sequence_goes_out_and_comes_back(engine: Engine, prompt: Any) -> None:
    class Talk:
        """Somebody who comes back."""

    one, other = Talk(), Talk()
    first = engine.tokens(TokenRequest(items=prompt, sampling=GREEDY, owner=one, n_top=1))
    expected = [token.id for token in first]
    saved = engine.export_sequence(one, prompt)
    assert saved is not None and saved.items == tuple(prompt[: len(saved.items)])
    assert saved.n_past == len(saved.items) >= len(prompt) - 1
    assert engine.export_sequence(other, prompt) is None
    engine.logits([2, 3, 4])
    engine.import_sequence(other, saved)
    again = engine.tokens(TokenRequest(items=prompt, sampling=GREEDY, owner=other))
    assert [token.id for token in again] == expected
    assert again.usage.reused_tokens == saved.n_past


def test_logits_are_fresh_and_checked(engine: Engine, prompt: Any) -> None:
    one, other = engine.logits(prompt), engine.logits(prompt)
    assert one.shape == (len(prompt), engine.model.n_vocab) and one.dtype == np.float32
    assert parity.divergence(one[-1], other[-1]) < 1e-9


@pytest.mark.parametrize("items", [[], [2, 10**8], [-5], [2, 1536]])
def test_what_is_no_prompt_is_refused_before_llama_cpp_sees_it(engine: Engine, items: list[int]) -> None:
    for ask in (lambda: engine.tokens(TokenRequest(items=items)), lambda: engine.logits(items)):
        with pytest.raises(MessageError):
            ask()
    with pytest.raises(MessageError):
        engine.import_sequence(engine, SavedSequence(tuple(items), np.zeros(9, np.uint8)))
    with pytest.raises(OptionError, match="n_top"):
        engine.tokens(TokenRequest(items=[2], n_top=-1))


def test_states_that_do_not_fit_are_refused_and_harm_nobody(engine: Engine, prompt: Any) -> None:
    for items in ((2,) * (engine.n_ctx + 1), (2, 3)):
        with pytest.raises(StateError):
            engine.import_sequence(engine, SavedSequence(items, np.zeros(100, np.uint8)))
    with engine.tokens(TokenRequest(items=prompt, sampling=GREEDY)) as stream:
        assert next(stream).id >= 0


def test_a_stream_that_is_dropped_is_closed_at_once(engine: Engine, prompt: Any) -> None:
    for _ in range(3):
        stream = engine.tokens(TokenRequest(items=prompt, sampling=GREEDY))
        assert next(stream).id >= 0, "the one sequence is free again"
        del stream
