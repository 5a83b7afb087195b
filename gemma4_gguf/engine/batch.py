"""Token batch: the llama_batch of one decode, tokens or embeddings, over arrays allocated once."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np


class Batch:
    """Owns the arrays of a llama_batch; each `set_…` returns the filled struct, valid until the next.

    Args:
        capacity: tokens it holds.
        n_seq: sequences it may name.
    """

    def __init__(self, lib: Any, capacity: int, n_seq: int) -> None:
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._rows = np.zeros(capacity, np.int8)
        self._counts = np.ones(capacity, np.int32)
        self._numbers = [ctypes.c_int32(i) for i in range(n_seq)]
        pointers = [ctypes.pointer(number) for number in self._numbers]
        self._sequences = [(ctypes.POINTER(ctypes.c_int32) * capacity)(*[p] * capacity) for p in pointers]
        self._embeddings: np.ndarray | None = None
        self._token_pointer = self._tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        self._struct = lib.llama_batch(
            n_tokens=0,
            token=self._token_pointer,
            embd=None,
            pos=self._positions.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            n_seq_id=self._counts.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=self._sequences[0],
            logits=self._rows.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def set_one(self, token: int, position: int, sequence: int) -> Any:
        """One token whose logits are wanted; for a batch that is used for nothing else.

        Args:
            token: its id.
            position: in the sequence, from 0.
            sequence: its number, below `n_seq`.

        Returns:
            The llama_batch.
        """
        self._tokens[0] = token
        self._positions[0] = position
        self._rows[0] = 1
        self._struct.n_tokens = 1
        self._struct.seq_id = self._sequences[sequence]
        return self._struct

    def set_tokens(self, tokens: Sequence[int], position: int, sequence: int, rows: int) -> Any:
        """Tokens, some of which want logits.

        Args:
            tokens: ids, at most `capacity`.
            position: of the first, from 0.
            sequence: its number, below `n_seq`.
            rows: how many of the last want logits.

        Returns:
            The llama_batch.
        """
        self._tokens[: len(tokens)] = tokens
        self._struct.token = self._token_pointer
        self._struct.embd = None
        return self._place(len(tokens), position, sequence, rows)

    def set_embeddings(self, embeddings: np.ndarray, position: int, sequence: int, rows: int) -> Any:
        """Embeddings, some of which want logits.

        Args:
            embeddings: float32 [n, n_embd], n at most `capacity`.
            position: of the first, from 0.
            sequence: its number, below `n_seq`.
            rows: how many of the last want logits.

        Returns:
            The llama_batch.
        """
        self._embeddings = np.ascontiguousarray(embeddings, np.float32)  # kept alive until the next call
        self._struct.token = None
        self._struct.embd = self._embeddings.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        return self._place(len(embeddings), position, sequence, rows)

    def _place(self, n: int, position: int, sequence: int, rows: int) -> Any:
        self._positions[:n] = np.arange(position, position + n)
        self._rows[:n] = 0
        self._rows[n - rows : n] = 1
        self._struct.n_tokens = n
        self._struct.seq_id = self._sequences[sequence]
        return self._struct
