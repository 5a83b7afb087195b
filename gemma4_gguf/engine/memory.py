"""What the key/value cache holds, sequence by sequence, so that a prompt pays only for what is new.

A sequence is a list of items, each a token id or a media span (an atom: part of a picture is worth
nothing). A new prompt keeps the items it has in common with a sequence. Sliding-window layers forget what
left their window, so going back is possible only as far as the window of the kept part is still there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from gemma4_gguf.errors import EngineError


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
    """Positions in the cache that items take: one per token."""
    return sum(1 if isinstance(item, int) else item.n_tokens for item in items)


def common_items(one: Sequence[Item], other: Sequence[Item]) -> int:
    """How many items two lists share from the start."""
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return i
    return min(len(one), len(other))


class SequenceState:
    """The items of one sequence of the cache.

    `dirty` is set while the cache is being changed; if it still is when the sequence is next used, an
    interrupt came in between and nothing in it can be trusted.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.items: list[Item] = []
        self.n_past = 0
        self.dirty = False
        self.used_at = 0

    def append(self, items: Sequence[Item]) -> None:
        self.items.extend(items)
        self.n_past += n_positions(items)

    def truncate(self, n_items: int) -> None:
        del self.items[n_items:]
        self.n_past = n_positions(self.items)


class SequencePool:
    """Lends the sequences of a context, each to one reply at a time.

    Args:
        n_seq: sequences there are.
    """

    def __init__(self, n_seq: int) -> None:
        self._free = [SequenceState(i) for i in range(n_seq)]
        self._holders: list[int] = []  # thread idents
        self._changed = threading.Condition()
        self._clock = 0

    @contextmanager
    def lend(self, items: Sequence[Item]) -> Iterator[SequenceState]:
        """Lends the free sequence that shares most with a prompt; waits for one that another thread holds.

        Raises:
            EngineError: this very thread holds all (streams it has not finished): waiting would never end.
        """
        me = threading.get_ident()
        with self._changed:
            while not self._free:
                if all(holder == me for holder in self._holders):
                    raise EngineError(
                        f"All {len(self._holders)} conversations of this session are in mid-reply. "
                        "Finish or close the stream first, or open the session with a larger n_seq."
                    )
                self._changed.wait()
            state = max(self._free, key=lambda candidate: self._worth(candidate, items))
            self._free.remove(state)
            self._holders.append(me)
            self._clock += 1
            state.used_at = self._clock
        try:
            yield state
        finally:
            with self._changed:
                self._holders.remove(me)
                self._free.append(state)
                self._changed.notify()

    @staticmethod
    def _worth(state: SequenceState, items: Sequence[Item]) -> tuple[int, int]:
        """Most reuse first, unless it throws more away than it saves; else the one unused for longest."""
        kept = 0 if state.dirty else n_positions(state.items[: common_items(state.items, items)])
        return (kept if 2 * kept >= state.n_past else 0, -state.used_at)
