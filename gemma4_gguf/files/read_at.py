"""Reading at an offset: bytes of a file into a buffer, from any number of threads.

Files are read and never mapped: mapped pages would count as memory of this process, and a file that shrinks
under a map ends the process instead of raising.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np


def fill(path: Path, offset: int, target: np.ndarray) -> int:
    """Fills an array with bytes of a file.

    A handle per call: reads from many threads need no lock, and nothing has to be closed later.

    Args:
        path: the file.
        offset: where to begin, bytes.
        target: C-contiguous, of any type; as many bytes as it holds are wanted.

    Returns:
        Bytes that were there: fewer than wanted where the file ends before.

    Raises:
        OSError: the file cannot be read.
    """
    view = target.reshape(-1).view(np.uint8).data
    filled = 0
    with path.open("rb", buffering=0) as stream:
        stream.seek(offset)
        while filled < view.nbytes and (count := stream.readinto(view[filled:])):
            filled += count
    return filled
