"""Progress report: how far the writing of a file has come. Callbacks get it; nothing here shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One step.

    Args:
        file: name of the file being written.
        tensor: name of the tensor that the step belongs to.
        done_bytes: bytes written so far, over all files of the run.
        total_bytes: bytes to write, over all files of the run.
        fraction: share of the work done, in [0, 1]. A byte takes up to a hundred times longer in one type
            than in another, so time left follows from this and not from the bytes.
    """

    file: str
    tensor: str
    done_bytes: int
    total_bytes: int
    fraction: float


ProgressCallback = Callable[[Progress], None]
