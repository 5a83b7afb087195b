"""The engine: what is refused before llama.cpp sees it, what the cache keeps, how tokens are drawn."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest

from gemma4_gguf.engine import context as context_module
from gemma4_gguf.engine.context import Context
from gemma4_gguf.engine.kv_cache import (
    Item,
    MediaSpan,
    SequencePool,
    SequenceState,
    common_items,
    n_positions,
)
from gemma4_gguf.engine.model import Model
from gemma4_gguf.engine.sampler import Sampler
from gemma4_gguf.errors import (
    ContextFullError,
    EngineError,
    OptionError,
)
from gemma4_gguf.files.model_file import check_model
from gemma4_gguf.options import SamplingOptions, SessionOptions

N_CTX = 512
EXACT: dict[str, Any] = {"device": "cpu", "kv_type": "f32", "flash_attention": False, "n_threads": 2}


@pytest.fixture(scope="module")
def opened(converted: Callable[..., dict[str, Path]]) -> Iterator[Callable[..., Context]]:
    """opened(member, **options) -> a context on that tiny member; closed at the end of the module."""
    contexts: dict[str, Context] = {}

    def open_context(member: str, **options: Any) -> Context:
        key = f"{member} {options}"
        if key not in contexts:
            model = Model(check_model(converted(member)["model"]), device="cpu")
            settings = SessionOptions(**EXACT | {"n_ctx": N_CTX} | options)
            contexts[key] = Context(model, settings, vision=True)
        return contexts[key]

    yield open_context
    for context in contexts.values():
        context.close()
        context.model.close()


# The cache


def last_logits(context: Context, items: list[Item]) -> np.ndarray:
    """Of a fresh run in a sequence of its own."""
    state = SequenceState(context.n_seq - 1)
    state.dirty = True
    context.fit(state, items)
    context.extend(state, items)
    return context.logits().copy()


def random_span(context: Context, rng: np.random.Generator, n_tokens: int) -> MediaSpan:
    embeddings = rng.normal(size=(n_tokens, context.model.n_embd)).astype(np.float32)
    bidirectional = context.model.facts.bidirectional_images
    return MediaSpan(f"{rng.random()}", n_tokens, lambda: embeddings, bidirectional)


@pytest.mark.parametrize("member", ["e2b", "e4b", "26b", "31b", "12b"])
def test_a_reused_prefix_gives_the_logits_of_a_fresh_run(member: str, opened: Callable[..., Context]) -> None:
    """Random edits, most beyond the sliding window of 32 tokens, spans among the tokens."""
    context = opened(member, n_seq=2)
    rng = np.random.default_rng(5)
    state = SequenceState(0)
    items: list[Item] = [context.model.bos]
    n_kept = n_cut = 0
    for step in range(24):
        n_new = int(rng.integers(1, 60))
        items += [int(i) for i in rng.integers(24, context.model.n_vocab, n_new)]
        if step % 5 == 1:
            items[-1:] = [random_span(context, rng, int(rng.integers(2, 24))), 30]
        if n_positions(items) > N_CTX - 40 or step % 4 == 3:
            items = [*items[: int(rng.integers(1, len(items)))], 40]
        kept = context.fit(state, items)
        assert kept == len(state.items) < len(items)
        n_kept, n_cut = n_kept + kept, n_cut + (kept == 0)
        context.extend(state, items[kept:])
        assert state.items == items and state.n_past == n_positions(items)
        reused = context.logits().copy()
        fresh = last_logits(context, items)
        assert parity.divergence(fresh, reused) < 1e-5, f"step {step}: {kept} of {len(items)} items kept"
    assert n_kept > 200 and n_cut >= 2, "the edits should meet both cases"


def test_going_back_stops_where_the_window_is_gone(opened: Callable[..., Context]) -> None:
    """The windowed cache has room for the window and a batch; what left it is not used again."""
    context = opened("e2b", n_ctx=4096)
    state = SequenceState(0)
    items: list[Item] = [2, *(24 + i % 900 for i in range(2000))]
    context.fit(state, items)
    context.extend(state, items)
    assert context.fit(state, items[:1990]) == 1989
    assert context.fit(state, [*items[:200], 77]) == 0
    assert state.items == [] and state.n_past == 0


def test_an_interrupted_change_is_not_trusted(opened: Callable[..., Context]) -> None:
    context = opened("e2b")
    state = SequenceState(0)
    items: list[Item] = [2, *range(100, 150)]
    context.fit(state, items)
    context.extend(state, items)

    def broken() -> np.ndarray:
        raise KeyboardInterrupt

    longer = [*items, 160, MediaSpan("broken", 4, broken), 161]
    kept = context.fit(state, longer)
    with pytest.raises(KeyboardInterrupt):
        context.extend(state, longer[kept:])
    assert state.dirty
    assert context.fit(state, items) == 0
    context.extend(state, items)
    assert np.abs(context.logits() - last_logits(context, items)).max() < 1e-4


def test_a_large_bidirectional_picture_is_decoded_whole(opened: Callable[..., Context]) -> None:
    """1120 tokens, more than a text batch: its last token sees its first and the other way round."""
    context = opened("31b", n_ctx=2048)
    rng = np.random.default_rng(3)
    span = random_span(context, rng, 1120)
    items: list[Item] = [2, 30, span, 31]
    seen = last_logits(context, items)
    changed = span.load().copy()
    changed[-2:] *= -1
    other = MediaSpan("changed", 1120, lambda: changed, True)
    state = SequenceState(0)
    state.dirty = True
    kept = context.fit(state, [2, 30, other, 31])
    context.extend(state, [2, 30, other, 31][kept:])
    assert np.abs(context.logits() - seen).max() > 1e-4
    too_long = random_span(context, rng, 1300)
    with pytest.raises(EngineError, match="1300"):
        last_logits(context, [2, too_long])


def test_a_full_context_says_how_full(opened: Callable[..., Context]) -> None:
    context = opened("e2b")
    state = SequenceState(0)
    state.dirty = True
    items: list[Item] = [2] * (N_CTX + 1)
    context.fit(state, items)
    with pytest.raises(ContextFullError) as caught:
        context.extend(state, items)
    assert (caught.value.n_tokens, caught.value.n_ctx) == (N_CTX + 1, N_CTX)
    context.extend(state, items[:-1])
    with pytest.raises(ContextFullError):
        context.extend_one(state, 30)


def test_rows_inside_media_are_not_numbers(opened: Callable[..., Context]) -> None:
    context = opened("e2b")
    span = random_span(context, np.random.default_rng(1), 5)
    state = SequenceState(0)
    state.dirty = True
    context.fit(state, [2, span, *range(200, 300)])
    logits = context.all_logits(state, [2, span, *range(200, 300)])
    assert logits.shape == (106, context.model.n_vocab) and logits.dtype == np.float32
    assert np.isnan(logits[1:6]).all() and np.isfinite(logits[[0, *range(6, 106)]]).all()
    assert np.abs(logits[-1] - last_logits(context, [2, span, *range(200, 300)])).max() < 1e-3


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kv_type": "q3_0"}, "kv_type.*q8_0"),
        ({"kv_type": "q8_0", "flash_attention": False}, "flash attention"),
        ({"n_ctx": 0}, "n_ctx"),
        ({"n_seq": 300}, "n_seq"),
        ({"n_threads": 0}, "n_threads"),
        ({"n_threads": 10**6}, "n_threads.*512"),
        ({"n_threads": True}, "n_threads"),
        ({"n_ctx": 2**40}, "n_ctx.*2,147,483,647"),
        ({"n_ctx": 2**31 - 1}, "at most 1,048,576: the model was trained for 4,096"),
        ({"n_ctx": 2**31 - 1, "n_seq": 2}, "in all"),
        ({"n_ctx": -1}, "n_ctx"),
        ({"n_ctx": 8192.0}, "n_ctx"),
        ({"n_ctx": "8192"}, "n_ctx"),
        ({"n_ctx": None}, "n_ctx"),
        ({"n_seq": 0}, "n_seq"),
        ({"n_gpu_layers": -1}, "n_gpu_layers.*None for all"),
        ({"n_gpu_layers": 2**31}, "n_gpu_layers"),
        ({"snapshot_bytes": -1}, "snapshot_bytes"),
        ({"kv_type": ["f16"]}, "kv_type"),
        ({"swa_full": "no"}, "swa_full"),
        ({"flash_attention": 1}, "flash_attention"),
        ({"device": None}, "device"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], match: str, opened: Callable[..., Context]) -> None:
    model = opened("e2b").model
    with pytest.raises(OptionError, match=match):
        Context(model, SessionOptions(**options))


def test_a_cache_larger_than_the_machine_is_refused(
    opened: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system would end the process while llama.cpp fills it."""
    monkeypatch.setattr(context_module, "memory_bytes", lambda: 2**26)
    with pytest.raises(OptionError, match=r"524,288 tokens × 2 takes 0\.3 GiB, this machine has 0\.1"):
        Context(opened("e2b").model, SessionOptions(n_ctx=2**19, n_seq=2))


@pytest.mark.parametrize("options", [{"kv_type": "q8_0"}, {"kv_type": "f16"}, {"swa_full": True}])
def test_every_cache_answers_alike(options: dict[str, Any], opened: Callable[..., Context]) -> None:
    exact = opened("e2b")
    settings: dict[str, Any] = {"device": "cpu", "n_ctx": N_CTX, "n_threads": 2} | options
    context = Context(exact.model, SessionOptions(**settings))
    items: list[Item] = [2, *range(300, 420)]
    difference = np.abs(last_logits(context, items) - last_logits(exact, items)).max()
    context.close()
    assert 0 <= difference < 0.2


# Sequences


def test_common_items_compare_tokens_and_media_by_content() -> None:
    one, same, other = (MediaSpan(key, 3, lambda: np.zeros((3, 4), np.float32)) for key in "aab")
    assert common_items([1, one, 2], [1, same, 3]) == 2
    assert common_items([1, one, 2], [1, other, 2]) == 1
    assert n_positions([1, one, 2]) == 5


def test_the_sequence_that_shares_most_is_lent() -> None:
    pool = SequencePool(2)
    with pool.lend([1, 2, 3]) as first, pool.lend([9, 8]) as second:
        first.append([1, 2, 3])
        second.append([9, 8])
    for prompt, expected in (([9, 8, 7], second), ([1, 2, 3, 4], first), ([9, 8, 7], second)):
        with pool.lend(prompt) as lent:
            assert lent is expected
    with pool.lend([5]) as lent:
        assert lent is first, "without anything in common, the one unused for longest"


def test_waiting_for_oneself_is_refused_and_for_others_is_not() -> None:
    pool = SequencePool(1)
    order: list[str] = []

    def other() -> None:
        with pool.lend([2]):
            order.append("other")

    with pool.lend([1]):
        with pytest.raises(EngineError, match="n_seq"), pool.lend([2]):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.05)
        order.append("first")
    thread.join(10)
    assert order == ["first", "other"]


# Drawing


def draws(context: Context, options: SamplingOptions, n: int, **more: Any) -> list[int]:
    state = SequenceState(0)
    state.dirty = True
    context.fit(state, [2, 50])
    context.extend(state, [2, 50])
    sampler = Sampler(options, context.model.n_vocab, more.get("banned", ()), more.get("history", ()))
    found = [sampler.draw(context.handle) for _ in range(n)]
    sampler.close()
    sampler.close()
    return found


def test_greedy_takes_the_likeliest_and_seeds_reproduce(opened: Callable[..., Context]) -> None:
    context = opened("e2b")
    best = int(last_logits(context, [2, 50]).argmax())
    assert set(draws(context, SamplingOptions(temperature=0), 3)) == {best}
    hot = SamplingOptions(temperature=5.0, top_k=0, top_p=1.0, seed=7)
    assert draws(context, hot, 20) == draws(context, hot, 20)
    others = [draws(context, SamplingOptions(temperature=5.0, top_k=0, seed=seed), 20) for seed in (8, 9)]
    assert others[0] != others[1] and len(set(others[0])) > 5
    unseeded = SamplingOptions(temperature=5.0, top_k=0, top_p=1.0)
    assert draws(context, unseeded, 20) != draws(context, unseeded, 20)


def test_the_largest_seed_is_a_seed_too(opened: Callable[..., Context]) -> None:
    """llama.cpp means "at random" by it."""
    options = SamplingOptions(temperature=5.0, top_k=0, top_p=1.0, seed=2**32 - 1)
    assert draws(opened("e2b"), options, 20) == draws(opened("e2b"), options, 20)


def test_banned_tokens_are_never_drawn(opened: Callable[..., Context]) -> None:
    context = opened("e2b")
    logits = last_logits(context, [2, 50])
    order = [int(i) for i in logits.argsort()[::-1]]
    greedy = SamplingOptions(temperature=0)
    assert draws(context, greedy, 1, banned=order[:5]) == [order[5]]
    pushed = SamplingOptions(temperature=0, logit_bias=((order[-1], 100.0),))
    assert draws(context, pushed, 1) == [order[-1]]
    assert draws(context, pushed, 1, banned=[order[-1]]) == [order[0]]


def test_filters_leave_what_they_should(opened: Callable[..., Context]) -> None:
    context = opened("e2b")
    logits = last_logits(context, [2, 50]).astype(np.float64)
    order = [int(i) for i in logits.argsort()[::-1]]
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    flat = {"temperature": 50.0, "top_k": 0, "top_p": 1.0, "seed": 1}
    three = draws(context, SamplingOptions(**flat | {"top_k": 3}), 100)  # type: ignore[arg-type]
    assert set(three) == set(order[:3])
    share = float(probabilities[order[3]] / probabilities[order[0]])
    kept = draws(context, SamplingOptions(**flat | {"min_p": share * 0.999}), 200)  # type: ignore[arg-type]
    assert set(kept) == set(order[:4])
    mass = float(probabilities[order[:2]].sum())
    nucleus = draws(context, SamplingOptions(**flat | {"top_p": mass * 0.999}), 100)  # type: ignore[arg-type]
    assert set(nucleus) == set(order[:2])


def test_a_model_that_computes_nan_ends_no_process(opened: Callable[..., Context]) -> None:
    context = Context(opened("e2b").model, SessionOptions(**EXACT | {"n_ctx": 256}))
    nan = np.full((1, context.model.n_embd), np.nan, np.float32)
    state = SequenceState(0)
    state.dirty = True
    items: list[Item] = [2, MediaSpan("nan", 1, lambda: nan), 30]
    context.fit(state, items)
    context.extend(state, items)
    sampler = Sampler(SamplingOptions(seed=1), context.model.n_vocab, ())
    with pytest.raises(EngineError, match="NaN"):
        sampler.draw(context.handle)
    context.close()


def test_a_penalty_turns_away_what_was_just_read(opened: Callable[..., Context]) -> None:
    context = opened("e2b")
    logits = last_logits(context, [2, 50])
    best = int(logits.argmax())
    assert logits[best] > 0
    penalized = SamplingOptions(temperature=0, repeat_penalty=1e4)
    assert draws(context, penalized, 1, history=[best]) != [best]
    assert draws(context, penalized, 1, history=[best, *[50] * 64]) == [best], "the window is 64 tokens"


# Interrupts


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux shows them")
def test_one_team_of_threads_computes_whoever_asks(opened: Callable[..., Context]) -> None:
    """A second team would have more workers than cores, which slows every token down."""
    context = opened("e2b")

    def decode() -> None:
        state = SequenceState(0)
        state.dirty = True
        context.prefill(state, list(range(10, 60)))
        context.extend_one(state, 7)

    def n_threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    decode()
    before, seen = n_threads(), []
    asking = [threading.Thread(target=lambda: (decode(), seen.append(n_threads()))) for _ in range(2)]
    for thread in asking:
        thread.start()
        thread.join()
    assert seen == [before + 1, before + 1], "the thread that asks, and no other"


def test_ctrl_c_reaches_a_long_decode(opened: Callable[..., Context]) -> None:
    interrupt = opened("e2b").interrupt

    def until_told() -> int:
        while not interrupt.is_stopping:
            time.sleep(0.005)
        return 2

    timer = threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        interrupt.run(until_told)
    timer.join()
    assert interrupt.run(lambda: 0) == 0


def test_an_aborted_decode_leaves_the_context_usable(opened: Callable[..., Context]) -> None:
    context = opened("e2b")
    items: list[Item] = [2, *range(100, 200)]
    expected = last_logits(context, items)
    state = SequenceState(0)
    state.dirty = True
    context.fit(state, items)
    context.interrupt.stop()
    with pytest.raises(EngineError, match="interrupted"):
        context.extend(state, items)
    context.interrupt.go_on()
    assert context.fit(state, items) == 0
    context.extend(state, items)
    assert np.abs(context.logits() - expected).max() < 1e-4
