"""Frame sampling: which frames of a clip are taken, and the time each is labelled with.

Where frames follow each other evenly these are the numbers of transformers (5.23, video_utils.py,
default_sample_indices_fn and VideoMetadata.timestamps): frame k of n is picture number k * total // n, shown
at that number over the frame rate. Where they do not, what counts is when a picture is shown, not how many
came before it: an even grid of times, each picture on it once, with its own time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_FINEST_GRID = 100_000


def sample_times(
    times: Sequence[float], end_s: float, rate: float, *, fps: float | None, frames: int
) -> list[tuple[int, float]]:
    """Picks frames of a clip.

    Args:
        times: when each picture is shown, seconds from the first, rising; at least one.
        end_s: when the last one goes.
        rate: pictures per second that the clip says it has; 0 if it does not.
        fps: pictures taken per second, or None.
        frames: pictures taken at most.

    Returns:
        Number and time of each, rising; at least one.
    """
    total = len(times)
    if rate > 0 and _is_even(times, rate):
        return [(i, i / rate) for i in frame_indices(total, rate, fps=fps, frames=frames)]
    if fps is not None:
        n = min(frames, max(1, int(end_s * fps + 1e-6)))
        chosen = _shown_at(times, end_s, n)
    elif total <= frames:
        chosen = np.arange(total)
    else:
        chosen = _shown_at(times, end_s, _finest_grid(times, end_s, frames))
    return [(int(i), float(times[i])) for i in chosen]


def frame_indices(total: int, rate: float, *, fps: float | None, frames: int) -> list[int]:
    """Numbers of the pictures that are taken of an even clip.

    Args:
        total: pictures in the clip, ≥ 1.
        rate: pictures per second of the clip.
        fps: pictures taken per second, or None.
        frames: pictures taken at most.

    Returns:
        Rising, from 0; at least one.
    """
    n = frames if fps is None else min(frames, max(1, int(total / rate * fps)))
    n = min(n, total)
    return [k * total // n for k in range(n)]


def _is_even(times: Sequence[float], rate: float) -> bool:
    """Whether every picture is shown less than half a picture off its number over the rate."""
    return bool(np.abs(np.asarray(times) - np.arange(len(times)) / rate).max() <= 0.5 / rate)


def _shown_at(times: Sequence[float], end_s: float, n: int) -> np.ndarray:
    """Numbers of the pictures that are shown at n even times, each once."""
    grid = np.arange(n) * (end_s / n) + 1e-9 * end_s
    return np.unique(np.maximum(np.searchsorted(times, grid, side="right") - 1, 0))


def _finest_grid(times: Sequence[float], end_s: float, frames: int) -> int:
    """As many even times as meet no more than `frames` different pictures, so that a long still costs one."""
    low, high = frames, _FINEST_GRID
    while low < high:
        middle = (low + high + 1) // 2
        if len(_shown_at(times, end_s, middle)) <= frames:
            low = middle
        else:
            high = middle - 1
    return low
