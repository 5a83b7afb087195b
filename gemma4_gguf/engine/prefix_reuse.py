"""Prefix reuse: as much of the beginning of a prompt as possible is taken from what the cache already holds.

There are four cases, best first: a sequence goes on from where it is or goes back a little; it goes back far
to a snapshot; it takes over the beginning of another sequence; it starts afresh. Going back is never taken on
trust: llama_memory_seq_rm reports success even when the sliding-window layers have lost what the next token
would look at (llama_kv_cache_iswa::seq_rm), so the oldest position still there is looked up each time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gemma4_gguf.engine.kv_cache import Item, MediaSpan, SequenceState, Snapshot, common_items, n_positions
from gemma4_gguf.engine.snapshots import WHOLE, WINDOW, SnapshotBudget, read_state, state_bytes, write_state
from gemma4_gguf.errors import EngineError

WORTH_A_SNAPSHOT = 32  # positions since the one before
WORTH_A_DECODE = 128  # the same, where taking it cuts a few tokens off the end of the prompt
WORTH_A_COPY = 16  # positions more than the sequence has in common itself
NEAR = 16  # a place so close behind what is kept is as good at its end, and cuts nothing there
NEWEST_TURNS = 8  # of a long prompt that is new as a whole

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Prefix:
    """The beginning of a prompt that a sequence can give the state of.

    Args:
        n_items: items in it.
        n_past: their positions.
        source: the sequence.
        snapshot: of it right there; None while the window is still in the cache.
    """

    n_items: int
    n_past: int
    source: SequenceState
    snapshot: Snapshot | None = None


class Reuse:
    """Decides and carries out reuse for one context. Hold the lock of the context around each call.

    Args:
        lib: llama.cpp.
        handle: the llama_context.
        n_swa: width of the sliding window.
        evicts: whether the window of a sequence can lose anything; without that snapshots are useless.
        snapshot_bytes: as in SessionOptions.
        turn: items that open any turn and a user's turn; empty without such tokens.
    """

    def __init__(
        self,
        lib: Any,
        handle: Any,
        *,
        n_swa: int,
        evicts: bool,
        snapshot_bytes: int | None,
        turn: tuple[int, tuple[int, ...]] | None,
    ) -> None:
        self._lib = lib
        self._handle = handle
        self._memory = lib.llama_get_memory(handle)
        self._n_swa = n_swa
        self._takes_snapshots = evicts and snapshot_bytes != 0
        self._budget = SnapshotBudget(snapshot_bytes)
        self._turn = turn

    # Before a prompt

    def fit(self, state: SequenceState, items: Sequence[Item], others: Iterable[SequenceState] = ()) -> int:
        """Leaves in a sequence what can be kept of a prompt, and at least one item to decode.

        Args:
            state: a lent sequence.
            items: the whole prompt.
            others: sequences whose beginning may be taken over; `state` among them is ignored.

        Returns:
            Items that are kept.
        """
        if state.dirty:
            self.clear(state)
        prefix = self._best_prefix(state, items, [o for o in others if o is not state and not o.dirty])
        if prefix is None:
            self.clear(state)
            return 0
        if prefix.source is state and prefix.snapshot is None and prefix.n_items == len(state.items):
            return prefix.n_items
        state.dirty = True
        if prefix.source is state:
            done = self._go_back(state, prefix)
        else:
            done = self._take_over(state, prefix)
        if not done or not self._reaches(state, prefix.n_past):
            _log.warning(
                "Going back to position %d failed; the prompt is decoded from its start", prefix.n_past
            )
            self.clear(state)
        state.dirty = False
        return len(state.items)

    def clear(self, state: SequenceState) -> None:
        """Empties a sequence.

        Args:
            state: any sequence.
        """
        state.dirty = True
        self._lib.llama_memory_seq_rm(self._memory, state.number, -1, -1)
        state.truncate(0)
        state.dirty = False

    def _best_prefix(
        self, state: SequenceState, items: Sequence[Item], others: Sequence[SequenceState]
    ) -> _Prefix | None:
        own = self._longest_prefix(state, items)
        prefix, least = own, (own.n_past if own else 0) + WORTH_A_COPY
        for other in others:
            found = self._longest_prefix(other, items)
            if found is not None and found.n_past >= least:
                prefix, least = found, found.n_past + 1
        return prefix

    def _longest_prefix(self, source: SequenceState, items: Sequence[Item]) -> _Prefix | None:
        """The longest beginning of a prompt that a sequence can give the state of."""
        common = min(common_items(source.items, items), len(items) - 1)
        n_past = n_positions(items[:common])
        if common and (common == len(source.items) or self._reaches(source, n_past)):
            return _Prefix(common, n_past, source)
        for snapshot in reversed(source.snapshots):
            if snapshot.n_items <= common:
                return _Prefix(snapshot.n_items, snapshot.n_past, source, snapshot)
        return None

    def _reaches(self, state: SequenceState, n_past: int) -> bool:
        """The next token attends to n_swa - 1 positions before it; the oldest of them must still be there."""
        oldest = self.oldest(state)
        newest = self._lib.llama_memory_seq_pos_max(self._memory, state.number)
        return bool(0 <= oldest <= max(0, n_past - self._n_swa + 1) and newest >= n_past - 1)

    def oldest(self, state: SequenceState) -> int:
        """The oldest position of a sequence that is still in the sliding-window layers.

        Args:
            state: any sequence.

        Returns:
            -1 if it is empty.
        """
        return int(self._lib.llama_memory_seq_pos_min(self._memory, state.number))

    def forget(self, state: SequenceState, n_past: int) -> bool:
        """Drops all positions of a sequence from one on.

        Args:
            state: any sequence.
            n_past: the first position to drop.

        Returns:
            Whether llama.cpp did it. True does not mean that the window before them is there.
        """
        return bool(self._lib.llama_memory_seq_rm(self._memory, state.number, n_past, -1))

    def _go_back(self, state: SequenceState, prefix: _Prefix) -> bool:
        state.truncate(prefix.n_items)
        if prefix.snapshot is not None and not self._restore(state, prefix.snapshot):
            return False
        self.forget(state, prefix.n_past)
        return True

    def _take_over(self, state: SequenceState, prefix: _Prefix) -> bool:
        """Copies the beginning of another sequence.

        The full-attention cells are shared from then on. The window must not be: a shared cell is never given
        up by llama_kv_cache::find_slot, and both sequences would soon find no room. Writing the window anew
        gives the sequence cells of its own.
        """
        source, lib = prefix.source, self._lib
        self.clear(state)
        state.dirty = True
        lib.llama_memory_seq_cp(self._memory, source.number, state.number, 0, prefix.n_past)
        window = (
            prefix.snapshot.data if prefix.snapshot else read_state(lib, self._handle, state.number, WINDOW)
        )
        if window is None or not write_state(lib, self._handle, state.number, window, WINDOW):
            return False
        state.append(source.items[: prefix.n_items])
        state.snapshots = [s for s in source.snapshots if s.n_items <= prefix.n_items]
        return True

    def _restore(self, state: SequenceState, snapshot: Snapshot) -> bool:
        return write_state(self._lib, self._handle, state.number, snapshot.data, WINDOW)

    # Whole sequences

    def read(self, state: SequenceState) -> np.ndarray:
        """The whole state of a sequence.

        Args:
            state: a lent sequence.

        Returns:
            uint8 [n_bytes], as llama.cpp writes it.

        Raises:
            EngineError: llama.cpp cannot write it.
        """
        data = read_state(self._lib, self._handle, state.number, WHOLE)
        if data is None:
            raise EngineError("llama.cpp cannot write the state of this conversation.")
        return data

    def write(self, state: SequenceState, items: Sequence[Item], data: np.ndarray) -> bool:
        """Puts a whole state into a sequence.

        Args:
            state: a lent sequence.
            items: that the state is of.
            data: uint8 [n_bytes], from `read` under the same model and options.

        Returns:
            False, and the sequence is empty, if it does not fit.
        """
        self.clear(state)
        state.dirty = True
        done = write_state(self._lib, self._handle, state.number, data, WHOLE)
        if done and self._reaches(state, n_positions(items)):
            state.append(items)
            state.dirty = False
            return True
        self.clear(state)
        return False

    # While a prompt is decoded

    def places(self, state: SequenceState, items: Sequence[Item]) -> list[int]:
        """Where to stop for a snapshot between what a fitted sequence holds and the end of a prompt.

        Args:
            state: fitted to the prompt.
            items: the whole prompt.

        Returns:
            Numbers of items, rising, from what is kept to the end of the prompt.
        """
        if not self._takes_snapshots or self._turn is None:
            return []
        kept = len(state.items)
        last = state.snapshots[-1].n_past if state.snapshots else 0
        at = dict(zip(range(len(items) + 1), _offsets(items), strict=True))
        chosen: list[int] = []
        for place, worth in _candidates(items, *self._turn):
            if place < kept:
                continue
            if place - kept < NEAR and at[place] - at[kept] < NEAR:
                place = kept
            if at[place] - last >= worth:
                chosen.append(place)
                last = at[place]
        return chosen

    def take(self, state: SequenceState, others: Iterable[SequenceState] = ()) -> None:
        """Takes a snapshot of a sequence as it is now; without room for it, none.

        Args:
            state: not dirty.
            others: sequences that share the budget.
        """
        if any(snapshot.n_items == len(state.items) for snapshot in state.snapshots):
            return
        if not self._budget.allows(state_bytes(self._lib, self._handle, state.number, WINDOW)):
            return
        data = read_state(self._lib, self._handle, state.number, WINDOW)
        if data is None:
            return
        snapshot = Snapshot(len(state.items), state.n_past, data)
        state.snapshots.append(snapshot)
        states = [state, *(other for other in others if other is not state)]
        self._budget.make_room(states, snapshot)


def _offsets(items: Sequence[Item]) -> list[int]:
    """Position at which each item begins, and the end."""
    offsets = [0]
    for item in items:
        offsets.append(offsets[-1] + (1 if isinstance(item, int) else item.n_tokens))
    return offsets


def _candidates(items: Sequence[Item], turn: int, user: tuple[int, ...]) -> list[tuple[int, int]]:
    """Places in a prompt to which a later one may go back, with the positions each must save.

    Before a user's turn: it is edited, or another conversation begins alike. After the last picture or sound
    of a turn: another question about it; it is decoded on its own anyway. Before the turn of the model: its
    thought is dropped, or it is to answer again.
    """
    turns = [i for i, item in enumerate(items) if item == turn]
    users = [i for i in turns if tuple(items[i + 1 : i + 1 + len(user)]) == user]
    found = [(i, WORTH_A_SNAPSHOT) for i in (*users[:1], *users[1:][-NEWEST_TURNS:])]
    media: dict[int, int] = {}  # turn → place
    n_turns = 0
    for i, item in enumerate(items):
        if isinstance(item, MediaSpan):
            media[n_turns] = i + 1
        elif item == turn:
            n_turns += 1
    found += [(place, WORTH_A_SNAPSHOT) for place in list(media.values())[-NEWEST_TURNS:]]
    if turns and turns[-1] not in users:
        found.append((turns[-1], WORTH_A_DECODE))
    return sorted(found)
