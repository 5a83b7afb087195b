"""What a prompt takes over from the cache: as much as it can, and never a different answer for it.

Logits are held against those of a fresh run in another context. They are not equal to the bit: a prompt that
is decoded in other pieces goes through matrix products of other shapes, whose float32 sums run in another
order, and gelu reads a table in half precision. Cutting one prompt at random alone leaves a divergence of up
to 3e-6 and logits within 0.007 in these models; wrong state leaves a thousand times as much (the last test).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest

from gemma4_gguf.engine import context as context_module
from gemma4_gguf.engine.context import Context
from gemma4_gguf.engine.kv_cache import Item, MediaSpan, SequencePool, SequenceState, n_positions
from gemma4_gguf.engine.model import Model
from gemma4_gguf.engine.prefix_reuse import WORTH_A_DECODE
from gemma4_gguf.files.model_file import check_model
from gemma4_gguf.options import SessionOptions

MEMBERS = ("e2b", "e4b", "12b", "26b", "31b")
N_CTX = 640
BATCH = 64
EXACT: dict[str, Any] = {"device": "cpu", "kv_type": "f32", "flash_attention": False, "n_threads": 2}
MAX_DIVERGENCE = 1e-5
MAX_DIFFERENCE = 0.02


@pytest.fixture(scope="module")
def opened(converted: Callable[..., dict[str, Path]]) -> Iterator[Callable[..., Context]]:
    """opened(member, **options) -> a context with a window of 32 and room for 256 tokens in it."""
    contexts: dict[str, Context] = {}

    def open_context(member: str, **options: Any) -> Context:
        key = f"{member} {options}"
        if key not in contexts:
            model = Model(check_model(converted(member)["model"]), device="cpu")
            with pytest.MonkeyPatch.context() as patch:
                for name in ("TEXT_BATCH", "CPU_TEXT_BATCH", "IMAGE_BATCH"):
                    patch.setattr(context_module, name, BATCH, raising=False)
                settings = SessionOptions(**EXACT | {"n_ctx": N_CTX} | options)
                contexts[key] = Context(model, settings, vision=True)
        return contexts[key]

    yield open_context
    for context in contexts.values():
        context.close()
        context.model.close()


@dataclass
class Talk:
    """A conversation as a template would render it: the thought of a reply is in the cache, not in the next
    prompt."""

    context: Context
    rng: np.random.Generator
    system: list[Item] = field(default_factory=list)
    turns: list[tuple[list[Item], list[Item]]] = field(default_factory=list)

    def words(self, n: int) -> list[Item]:
        return [int(i) for i in self.rng.integers(300, self.context.model.n_vocab, n)]

    def span(self, n_tokens: int) -> MediaSpan:
        embeddings = self.rng.normal(size=(n_tokens, self.context.model.n_embd)).astype(np.float32)
        both = self.context.model.facts.bidirectional_images
        return MediaSpan(f"{self.rng.random()}", n_tokens, lambda: embeddings, both)

    def ask(self, n: int, *media: MediaSpan) -> None:
        self.turns.append(([*media, *self.words(n)], []))

    def turn(self, role: str, content: list[Item]) -> list[Item]:
        read = self.context.model.tokenize
        return [*read(f"<|turn>{role}\n"), *content, *read("<turn|>\n")]

    def prompt(self) -> list[Item]:
        items: list[Item] = [self.context.model.bos, *self.turn("system", self.system)]
        for said, reply in self.turns:
            items += self.turn("user", said)
            items += self.turn("model", reply) if reply else self.context.model.tokenize("<|turn>model\n")
        return items

    def answer(self, state: SequenceState, n_thought: int, n: int) -> None:
        """Decodes a thought and a reply, and remembers the reply."""
        reply = self.words(n)
        for token in [*self.words(n_thought), *reply]:
            assert isinstance(token, int)
            self.context.extend_one(state, token)
        self.turns[-1] = (self.turns[-1][0], reply)


def new_pool(context: Context) -> SequencePool:
    """Sequences that nothing was decoded into yet."""
    pool = SequencePool(context.n_seq)
    for state in pool.states:
        context.reuse.clear(state)
    return pool


def fresh_logits(context: Context, items: list[Item]) -> np.ndarray:
    state = SequenceState(0)
    context.reuse.clear(state)
    context.extend(state, items)
    return context.logits().copy()


def assert_same(context: Context, fresh: Context, items: list[Item], where: str = "") -> None:
    """The logits that the context holds now are those of a fresh run."""
    found, expected = context.logits().copy(), fresh_logits(fresh, items)
    divergence = float(parity.divergence(expected, found))
    difference = float(np.abs(found - expected).max())
    assert divergence < MAX_DIVERGENCE and difference < MAX_DIFFERENCE, (
        f"{where}: divergence {divergence:.1e}, largest difference {difference:.1e}"
    )


def edit(talk: Talk, rng: np.random.Generator) -> str:
    """One random thing that people do to conversations; ends with a question."""
    what = str(rng.choice(["append", "append", "append", "edit", "drop", "system", "again"]))
    if not talk.turns or n_positions(talk.prompt()) > N_CTX - 260:
        what = "drop" if talk.turns else "append"
    if what == "again" and talk.turns:
        talk.turns[-1] = (talk.turns[-1][0], [])
        return what
    if what == "edit":
        del talk.turns[int(rng.integers(len(talk.turns))) :]
    elif what == "drop":
        del talk.turns[-int(rng.integers(1, len(talk.turns) + 1)) :]
    elif what == "system":
        talk.system = talk.words(int(rng.integers(1, 60)))
    media = [talk.span(int(rng.integers(4, 60)))] if rng.random() < 0.4 else []
    talk.ask(int(rng.integers(1, 70)), *media)
    return what


@pytest.mark.parametrize("n_seq", [1, 3])
@pytest.mark.parametrize("member", MEMBERS)
def test_random_edits_answer_like_a_fresh_run(
    member: str, n_seq: int, opened: Callable[..., Context]
) -> None:
    """Three conversations in turns, each edited at random, most of them longer than cache and window."""
    context, fresh = opened(member, n_seq=n_seq), opened(member)
    rng = np.random.default_rng(n_seq)
    pool = new_pool(context)
    talks = [Talk(context, rng) for _ in range(3)]
    for talk in talks:
        talk.system = talks[0].system or talk.words(50)
    n_reused = n_read = 0
    for step in range(7):
        i = int(rng.integers(3))
        if step and step % 4 == 0:
            other = talks[int(rng.integers(3))]
            talks[i] = Talk(context, rng, list(other.system), list(other.turns))
        what = edit(talks[i], rng)
        items = talks[i].prompt()
        with pool.lend(items, talks[i]) as state:
            n_reused += context.prefill(state, items, pool.states)
            n_read += n_positions(items)
            assert state.items == items and state.n_past == n_positions(items)
            assert_same(context, fresh, items, f"step {step}, {what}")
            talks[i].answer(state, int(rng.integers(0, 60)), int(rng.integers(1, 60)))
    assert n_reused > (0.05 if n_seq == 1 else 0.3) * n_read


# What is reused


def long_talk(context: Context, state: SequenceState, n_turns: int, *, n_thought: int = 0) -> Talk:
    """A conversation of turns of about 70 tokens each, decoded turn by turn."""
    talk = Talk(context, np.random.default_rng(7))
    talk.system = talk.words(60)
    for _ in range(n_turns):
        talk.ask(35)
        context.prefill(state, talk.prompt())
        talk.answer(state, n_thought, 20)
    return talk


def positions_before_turn(talk: Talk, number: int) -> int:
    return n_positions(Talk(talk.context, talk.rng, talk.system, talk.turns[:number]).prompt())


def empty(context: Context) -> SequenceState:
    state = SequenceState(0)
    context.reuse.clear(state)
    return state


def test_going_back_any_number_of_turns_costs_only_the_new_one(opened: Callable[..., Context]) -> None:
    context, fresh = opened("e2b"), opened("e2b", n_seq=2)
    for n_back in (8, 5, 2):
        state = empty(context)
        talk = long_talk(context, state, 8)
        kept = positions_before_turn(talk, 8 - n_back)
        del talk.turns[8 - n_back :]
        talk.ask(5)
        items = talk.prompt()
        reused = context.prefill(state, items)
        assert kept - 5 <= reused <= kept + 5, f"{n_back} turns back"
        assert_same(context, fresh, items)


@pytest.mark.parametrize("member", MEMBERS)
def test_a_dropped_thought_costs_neither_picture_nor_question(
    member: str, opened: Callable[..., Context]
) -> None:
    """The thought is longer than the whole sliding-window cache."""
    context, fresh = opened(member), opened(member, n_seq=2)
    state = empty(context)
    talk = Talk(context, np.random.default_rng(1))
    talk.system = talk.words(10)
    n_loads = 0

    def load() -> np.ndarray:
        nonlocal n_loads
        n_loads += 1
        return embeddings

    span = talk.span(60)
    embeddings = span.load()
    counted = MediaSpan(span.key, 60, load, span.bidirectional)
    talk.ask(WORTH_A_DECODE, counted)
    before = context.model.tokenize("<|turn>model\n")
    asked = n_positions(talk.prompt()) - len(before)
    context.prefill(state, talk.prompt())
    talk.answer(state, 260, 20)
    talk.ask(10)
    items = talk.prompt()
    assert context.prefill(state, items) == asked and n_loads == 1
    assert_same(context, fresh, items)
    del talk.turns[:]
    talk.ask(3, counted)
    n_loads = 0
    assert context.prefill(state, talk.prompt()) >= 60, "another question about the same picture"
    assert n_loads == 0
    assert_same(context, fresh, talk.prompt())


def test_snapshots_stay_within_their_bytes(opened: Callable[..., Context]) -> None:
    plenty = opened("e2b")
    state = empty(plenty)
    long_talk(plenty, state, 6)
    sizes = [snapshot.data.nbytes for snapshot in state.snapshots]
    assert len(sizes) >= 6 and max(sizes) < 40 * sizes[0]
    tight, fresh = opened("e2b", snapshot_bytes=2 * max(sizes)), opened("e2b", n_seq=2)
    state = empty(tight)
    talk = long_talk(tight, state, 6)
    assert 1 <= len(state.snapshots) <= 2
    talk.turns[-1] = (talk.words(9), [])
    assert tight.prefill(state, talk.prompt()) > 0
    assert_same(tight, fresh, talk.prompt())
    none = opened("e2b", snapshot_bytes=0)
    state = empty(none)
    talk = long_talk(none, state, 6)
    assert state.snapshots == []
    talk.turns[2:] = [(talk.words(9), [])]
    assert none.prefill(state, talk.prompt()) == 0
    assert_same(none, fresh, talk.prompt())


def test_nothing_is_copied_where_nothing_can_be_lost(opened: Callable[..., Context]) -> None:
    for options in ({"n_ctx": 250}, {"swa_full": True}):
        context = opened("e2b", **options)
        state = empty(context)
        long_talk(context, state, 2)
        assert state.snapshots == []


def test_a_snapshot_that_cannot_be_restored_costs_only_time(
    opened: Callable[..., Context], caplog: pytest.LogCaptureFixture
) -> None:
    context, fresh = opened("e2b"), opened("e2b", n_seq=2)
    state = empty(context)
    talk = long_talk(context, state, 6)
    for snapshot in state.snapshots:
        snapshot.data[:4] ^= 255
    talk.turns[1:] = [(talk.words(9), [])]
    assert context.prefill(state, talk.prompt()) == 0
    assert "decoded from its start" in caplog.text
    assert_same(context, fresh, talk.prompt())


def test_a_fork_shares_the_beginning_and_spoils_nothing(opened: Callable[..., Context]) -> None:
    context, fresh = opened("e2b", n_seq=3), opened("e2b")
    pool = new_pool(context)
    talk = Talk(context, np.random.default_rng(3))
    talk.system = talk.words(100)
    for _ in range(4):
        talk.ask(40)
        with pool.lend(talk.prompt(), talk) as state:
            context.prefill(state, talk.prompt(), pool.states)
            talk.answer(state, 30, 30)
    forks = [Talk(context, talk.rng, talk.system, talk.turns[:n]) for n in (4, 2)]
    states = {state.number}
    for fork, n_turns in zip(forks, (4, 2), strict=True):
        fork.ask(12)
        with pool.lend(fork.prompt(), fork) as state:
            states.add(state.number)
            reused = context.prefill(state, fork.prompt(), pool.states)
            assert reused >= positions_before_turn(talk, n_turns - 1)
            assert_same(context, fresh, fork.prompt())
            fork.answer(state, 0, 40)
    assert states == {0, 1, 2}
    talk.ask(9)
    with pool.lend(talk.prompt(), talk) as state:
        assert context.prefill(state, talk.prompt(), pool.states) >= positions_before_turn(talk, 3)
        assert_same(context, fresh, talk.prompt())


@pytest.mark.parametrize("member", ["e4b", "26b"])
def test_replies_in_turns_do_not_disturb_each_other(member: str, opened: Callable[..., Context]) -> None:
    """Three streams token by token, longer together than the cache of the sliding-window layers."""
    context, fresh = opened(member, n_seq=3), opened(member)
    pool = new_pool(context)
    talks = [Talk(context, np.random.default_rng(i)) for i in range(3)]
    system = talks[0].words(80)
    lent = []
    for talk in talks:
        talk.system = system
        talk.ask(50, talk.span(30))
        lent.append(pool.lend(talk.prompt(), talk))
        context.prefill(lent[-1].__enter__(), talk.prompt(), pool.states)
    states = list(pool.states)
    for _ in range(90):
        for talk, state in zip(talks, states, strict=True):
            token = talk.words(1)[0]
            assert isinstance(token, int)
            context.extend_one(state, token)
    for state in states:
        context.extend_one(state, 300)
        assert_same(context, fresh, state.items)
    for lending in lent:
        lending.__exit__(None, None, None)


def test_a_chat_finds_its_own_sequence_again() -> None:
    pool = SequencePool(2)
    one, other = Talk.__new__(Talk), Talk.__new__(Talk)
    with pool.lend([1, 2, 3], one) as first:
        first.append([1, 2, 3])
    with pool.lend([1, 2, 3, 4], other) as second:
        assert second is not first, "an empty one rather than what another goes on with"
        second.append([1, 2, 3, 4])
    with pool.lend([1, 2, 3, 4, 5], one) as lent:
        assert lent is first
    del other
    with pool.lend([9]) as lent:
        assert lent is second, "its owner is gone"


def test_wrong_state_would_be_noticed(opened: Callable[..., Context]) -> None:
    """What llama.cpp does when it is merely told to forget the end: the window is gone, nobody says so."""
    context, fresh = opened("e2b"), opened("e2b", n_seq=2)
    state = empty(context)
    talk = long_talk(context, state, 6)
    items = talk.prompt()[: positions_before_turn(talk, 2)]
    n_kept = len(items) - 5
    state.truncate(n_kept)
    assert context.reuse.forget(state, n_kept)
    context.extend(state, items[n_kept:])
    assert float(parity.divergence(fresh_logits(fresh, items), context.logits())) > 1e-3
