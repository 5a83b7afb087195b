"""Gives mapped file pages back: a checkpoint read through a mapping would count as memory used."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np


def release_pages(rows: np.ndarray) -> None:
    """Drops the pages of a file mapping that an array was read from; a later read fetches them again.

    Does nothing for an array that is no view of a mapping, or where the system cannot do it.

    Args:
        rows: any array; a view of a read-only mapping is what this is for.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    mapping = _mapping_of(rows)
    if mapping is None:
        return
    first = np.frombuffer(mapping, np.uint8, 1).ctypes.data
    start = (rows.ctypes.data - first) // mmap.PAGESIZE * mmap.PAGESIZE
    mapping.madvise(mmap.MADV_DONTNEED, start, rows.ctypes.data - first + rows.nbytes - start)


def _mapping_of(rows: np.ndarray) -> mmap.mmap | None:
    owner: Any = rows
    while owner is not None and not isinstance(owner, mmap.mmap):
        owner = owner.obj if isinstance(owner, memoryview) else getattr(owner, "base", None)
    return owner
