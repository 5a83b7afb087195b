"""Snapshots: the sliding-window cache of a sequence as it was at an earlier place.

The full-attention layers keep every position, the sliding-window layers only the last few hundred. A copy of
those is enough to go back to where it was taken. Reference: llama_state_seq_get_data_ext with
LLAMA_STATE_SEQ_FLAGS_SWA_ONLY in llama.h, which writes just the cells that the next token can see.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from gemma4_gguf.engine.kv_cache import Snapshot

if TYPE_CHECKING:
    from gemma4_gguf.engine.kv_cache import SequenceState

WHOLE = 0  # LLAMA_STATE_SEQ_FLAGS_NONE
WINDOW = 1  # LLAMA_STATE_SEQ_FLAGS_SWA_ONLY
DEFAULT_BYTES = 256 << 20
DEFAULT_COUNT = 2  # a member whose window is larger than DEFAULT_BYTES still gets so many


def state_bytes(lib: Any, handle: Any, number: int, flags: int) -> int:
    """Size of the state of a sequence.

    Args:
        lib: llama.cpp.
        handle: the llama_context.
        number: of the sequence.
        flags: WHOLE or WINDOW.

    Returns:
        Bytes.
    """
    return int(lib.llama_state_seq_get_size_ext(handle, number, flags))


def read_state(lib: Any, handle: Any, number: int, flags: int) -> np.ndarray | None:
    """State of a sequence.

    Args:
        lib: llama.cpp.
        handle: the llama_context.
        number: of the sequence.
        flags: WHOLE or WINDOW.

    Returns:
        uint8 [n_bytes]; None if llama.cpp cannot write it.
    """
    data = np.empty(state_bytes(lib, handle, number, flags), np.uint8)
    n = lib.llama_state_seq_get_data_ext(handle, _pointer(data), data.nbytes, number, flags)
    return data if n == data.nbytes else None


def write_state(lib: Any, handle: Any, number: int, data: np.ndarray, flags: int) -> bool:
    """Puts a state into a sequence, over what was there.

    Args:
        lib: llama.cpp.
        handle: the llama_context.
        number: of the sequence.
        data: uint8 [n_bytes], from `read_state`.
        flags: those it was read with.

    Returns:
        False if it does not fit; nothing is in the sequence then.
    """
    return bool(
        lib.llama_state_seq_set_data_ext(handle, _pointer(data), data.nbytes, number, flags) == data.nbytes
    )


class SnapshotBudget:
    """Keeps the snapshots of all sequences within a number of bytes.

    Args:
        limit_bytes: None takes DEFAULT_BYTES, or room for DEFAULT_COUNT snapshots if that is more.
    """

    def __init__(self, limit_bytes: int | None) -> None:
        self._limit_bytes = limit_bytes

    def allows(self, n_bytes: int) -> bool:
        """Whether one snapshot of this size may be taken at all.

        Args:
            n_bytes: of the snapshot.

        Returns:
            False for an empty one, too.
        """
        return 0 < n_bytes <= self._limit(n_bytes)

    def make_room(self, states: Iterable[SequenceState], newest: Snapshot) -> None:
        """Drops snapshots until all fit: first those whose loss costs the fewest tokens.

        Args:
            states: every sequence of the context.
            newest: is kept.
        """
        held = [(state, snapshot) for state in states for snapshot in state.snapshots]
        limit = self._limit(newest.data.nbytes)
        while _total_bytes(held) > limit:
            droppable = [entry for entry in held if entry[1] is not newest]
            if not droppable:
                return
            state, snapshot = min(droppable, key=lambda entry: (_cost(*entry), entry[0].used_at))
            state.snapshots.remove(snapshot)
            held.remove((state, snapshot))

    def _limit(self, n_bytes: int) -> int:
        return max(DEFAULT_BYTES, DEFAULT_COUNT * n_bytes) if self._limit_bytes is None else self._limit_bytes


def _total_bytes(held: list[tuple[SequenceState, Snapshot]]) -> int:
    """Sequences that share their beginning share its snapshots."""
    return sum(snapshot.data.nbytes for snapshot in {id(s): s for _, s in held}.values())


def _cost(state: SequenceState, snapshot: Snapshot) -> int:
    """Tokens between a snapshot and the one before it, to be decoded again without it."""
    return snapshot.n_past - max((s.n_past for s in state.snapshots if s.n_past < snapshot.n_past), default=0)


def _pointer(data: np.ndarray) -> Any:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
