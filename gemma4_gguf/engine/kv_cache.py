"""Key/value cache: what it holds, sequence by sequence, so that a prompt pays only for what is new.

A sequence is a list of items, each a token id or a media span (an atom: part of a picture is worth
nothing). A new prompt keeps the items it has in common with a sequence. Sliding-window layers forget what
left their window, so going back is possible only as far as the window of the kept part is still there.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from gemma4_gguf.engine.compute_thread import require_wanted
from gemma4_gguf.engine.lifetime import Lifetime
from gemma4_gguf.errors import EngineError


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The window before one place of a sequence.

    Args:
        n_items: items of the sequence before it.
        n_past: their positions.
        data: uint8 [n_bytes], as llama.cpp wrote it.
    """

    n_items: int
    n_past: int
    data: np.ndarray


WORTH_KEEPING = 32  # positions of a sequence; with fewer to lose it is used again


@dataclass(frozen=True)
class MediaSpan:
    """One picture or sound inside a prompt. Two spans are equal when their keys are.

    Args:
        key: says what the embeddings are made from.
        n_tokens: soft tokens, one position each.
        load: makes the embeddings, float32 [n_tokens, n_embd]; called only if they are not in the cache yet.
        bidirectional: its tokens see each other in the sliding-window layers.
    """

    key: str
    n_tokens: int = field(compare=False)
    load: Callable[[], np.ndarray] = field(compare=False, repr=False)
    bidirectional: bool = field(default=False, compare=False)


Item = int | MediaSpan


def n_positions(items: Sequence[Item]) -> int:
    """Positions in the cache that items take: one per token.

    Args:
        items: token ids and media spans.

    Returns:
        Their number, soft tokens counted one by one.
    """
    return sum(1 if isinstance(item, int) else item.n_tokens for item in items)


def common_items(one: Sequence[Item], other: Sequence[Item]) -> int:
    """How many items two lists share from the start.

    Args:
        one: items.
        other: items.

    Returns:
        0 to the length of the shorter.
    """
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return i
    return min(len(one), len(other))


@dataclass(frozen=True, eq=False)
class SavedSequence:
    """A sequence outside of the cache.

    Args:
        items: what it holds; the embeddings of its media are not kept.
        data: uint8 [n_bytes], the state as llama.cpp wrote it.
    """

    items: tuple[Item, ...]
    data: np.ndarray

    @property
    def n_past(self) -> int:
        """Positions it takes."""
        return n_positions(self.items)


class SequenceState:
    """The items of one sequence of the cache.

    `dirty` is set while the cache is being changed; if it still is when the sequence is next used, an
    interrupt came in between and nothing in it can be trusted. `snapshots` are of places among its items,
    rising. `owner` is who used it last.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.items: list[Item] = []
        self.n_past = 0
        self.dirty = False
        self.used_at = 0
        self.snapshots: list[Snapshot] = []
        self.owner: weakref.ref[object] | None = None

    def append(self, items: Sequence[Item]) -> None:
        """Notes items that were decoded into it.

        Args:
            items: in order.
        """
        self.items.extend(items)
        self.n_past += n_positions(items)

    def truncate(self, n_items: int) -> None:
        """Notes that items at its end were dropped, and the snapshots among them.

        Args:
            n_items: items that stay.
        """
        del self.items[n_items:]
        self.n_past = n_positions(self.items)
        self.snapshots = [snapshot for snapshot in self.snapshots if snapshot.n_items <= n_items]

    def belongs_to_another(self, owner: object | None) -> bool:
        """Whether somebody else who may still come back used it last.

        Args:
            owner: who asks; None for nobody in particular.

        Returns:
            False if nobody used it, or if that one is gone.
        """
        last = self.owner() if self.owner is not None else None
        return last is not None and last is not owner


class SequencePool:
    """Lends the sequences of a context, each to one reply at a time.

    Args:
        n_seq: sequences there are.
        lifetime: of what is lent; whoever waits when it is closed gets its error.

    Attributes:
        states: all of them, lent or not.
    """

    def __init__(self, n_seq: int, lifetime: Lifetime | None = None) -> None:
        self._lifetime = lifetime or Lifetime()
        self._lifetime.on_stop(self.wake)
        self.states: tuple[SequenceState, ...] = tuple(SequenceState(i) for i in range(n_seq))
        self._free = list(self.states)
        self._holders: list[int] = []  # thread idents
        self._waiting: deque[object] = deque()  # who waits, in the order they came
        self._changed = threading.Condition()
        self._clock = 0

    @contextmanager
    def lend(self, items: Sequence[Item], owner: object | None = None) -> Iterator[SequenceState]:
        """Lends the free sequence that suits a prompt best; waits for one that another thread holds.

        Args:
            items: the prompt.
            owner: who comes back with a longer prompt, such as a Chat; held weakly.

        Yields:
            The sequence; it is given back at the end.

        Raises:
            EngineError: this very thread holds all (streams it has not finished): waiting would never end.
            Cancelled: it is not wanted any more.
        """
        me = threading.get_ident()
        with self._changed:
            self._wait_for_free(me)
            state = self._choose(items, owner)
            self._free.remove(state)
            self._holders.append(me)
            self._clock += 1
            state.used_at = self._clock
            state.owner = weakref.ref(owner) if owner is not None else None
        try:
            yield state
        finally:
            self._give_back(state, me)

    def _wait_for_free(self, me: int) -> None:
        """Waits for a free sequence; who came first has it first."""
        turn = object()
        self._waiting.append(turn)
        try:
            while not self._free or self._waiting[0] is not turn:
                if self._holders and all(holder == me for holder in self._holders) and not self._free:
                    raise EngineError(
                        f"All {len(self._holders)} conversations of this session are in mid-reply. "
                        "Finish or close the stream first, or open the session with a larger n_seq."
                    )
                self._changed.wait()
                self._lifetime.require()
                require_wanted()
        finally:
            self._waiting.remove(turn)
            self._changed.notify_all()

    @contextmanager
    def lend_own(self, owner: object) -> Iterator[SequenceState | None]:
        """Lends the sequence that somebody used last; None if another one has it by now.

        Args:
            owner: who used it last.

        Yields:
            The sequence, which is given back at the end, or None.

        Raises:
            EngineError: it is in mid-reply.
        """
        me = threading.get_ident()
        with self._changed:
            states = [s for s in self.states if s.owner is not None and s.owner() is owner]
            if any(state not in self._free for state in states):
                raise EngineError("This conversation is in mid-reply. Finish or close the stream first.")
            if states:
                self._free.remove(states[0])
                self._holders.append(me)
        try:
            yield states[0] if states else None
        finally:
            if states:
                self._give_back(states[0], me)

    def wake(self) -> None:
        """Has everybody who waits look again whether it is still wanted."""
        with self._changed:
            self._changed.notify_all()

    def _give_back(self, state: SequenceState, holder: int) -> None:
        with self._changed:
            self._holders.remove(holder)
            self._free.append(state)
            self._changed.notify_all()

    def _choose(self, items: Sequence[Item], owner: object | None) -> SequenceState:
        """One's own; else an empty one rather than what another needs or much is thrown away of."""
        for state in self._free:
            if owner is not None and state.owner is not None and state.owner() is owner:
                return state
        best = max(self._free, key=lambda state: self._worth(state, items, owner))
        spoilt = best.n_past - _shared(best, items)
        if best.belongs_to_another(owner) or spoilt > WORTH_KEEPING:
            return next((state for state in self._free if not state.items), best)
        return best

    @staticmethod
    def _worth(state: SequenceState, items: Sequence[Item], owner: object | None) -> tuple[int, bool, int]:
        """Most reuse first, unless it throws more away than it saves; else the one unused for longest."""
        kept = _shared(state, items)
        return (
            kept if 2 * kept >= state.n_past else 0,
            not state.belongs_to_another(owner),
            -state.used_at,
        )


def _shared(state: SequenceState, items: Sequence[Item]) -> int:
    """Positions that a sequence and a prompt have in common."""
    return 0 if state.dirty else n_positions(state.items[: common_items(state.items, items)])
