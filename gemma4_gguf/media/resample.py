"""Sample rates: a windowed-sinc resampler, stream in, stream out.

Written out rather than left to FFmpeg's, which by default folds 9 kHz at -61 dB into speech; this one stays
below -100 dB and gives the same numbers with every build of FFmpeg. After J. O. Smith, "Digital Audio
Resampling Home Page", https://ccrma.stanford.edu/~jos/resample/.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

_ZERO_CROSSINGS = 96  # of the sinc on each side
_BETA = 10.5  # Kaiser window: side lobes near -105 dB
_ROLL_OFF = 0.965  # middle of the slope, as a share of the lower Nyquist frequency
_BLOCK = 1 << 21  # numbers gathered per product


def resample(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Resamples a whole sound.

    Args:
        samples: float32 [n].
        from_hz: its rate, > 0.
        to_hz: wanted rate, > 0.

    Returns:
        float32 [ceil(n * to_hz / from_hz)], in time with the input.
    """
    parts = list(resample_blocks([np.asarray(samples, np.float32)], from_hz, to_hz))
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def resample_blocks(blocks: Iterable[np.ndarray], from_hz: int, to_hz: int) -> Iterator[np.ndarray]:
    """Resamples a stream of blocks, float32 [n] each; memory does not grow with its length.

    Yields:
        float32 [m], together as `resample` of all blocks joined.
    """
    if from_hz == to_hz:
        yield from blocks
        return
    common = math.gcd(from_hz, to_hz)
    up, down = to_hz // common, from_hz // common
    bank = _filter_bank(up, down)  # [up, taps]
    half = bank.shape[1] // 2
    buffer = np.zeros(half, np.float32)
    n_in = n_out = 0
    for block in blocks:
        n_in += len(block)
        out, buffer = _whole_groups(np.concatenate([buffer, block]), bank, up, down)
        n_out += len(out)
        if len(out):
            yield out
    rest = np.concatenate([buffer, np.zeros(2 * half + down, np.float32)])
    n_left = -(-n_in * up // down) - n_out
    if n_left > 0:
        yield _whole_groups(rest, bank, up, down)[0][:n_left]


def _whole_groups(buffer: np.ndarray, bank: np.ndarray, up: int, down: int) -> tuple[np.ndarray, np.ndarray]:
    """Turns every `down` samples into `up`, as far as the buffer reaches. Returns them and the rest of it."""
    taps = bank.shape[1]
    n_groups = max(0, (len(buffer) - taps) // down)
    out = np.empty((n_groups, up), np.float32)
    step = max(1, _BLOCK // taps)
    for begin in range(0, n_groups, step):
        n = min(step, n_groups - begin)
        windows = np.lib.stride_tricks.sliding_window_view(buffer[begin * down :], taps)
        for phase in range(up):
            first = phase * down // up + 1
            out[begin : begin + n, phase] = windows[first : first + n * down : down] @ bank[phase]
    return out.reshape(-1), buffer[n_groups * down :]


def _filter_bank(up: int, down: int) -> np.ndarray:
    """One windowed sinc per place an output sample can have between two input samples, float32 [up, taps]."""
    ratio = min(1.0, up / down)
    half = math.ceil(_ZERO_CROSSINGS / ratio)
    between = (np.arange(up) * down % up / up)[:, None]
    offset = np.arange(-half + 1, half + 1)[None, :] - between  # [up, taps], in input samples
    window = np.i0(_BETA * np.sqrt(np.clip(1.0 - (offset / half) ** 2, 0.0, None))) / np.i0(_BETA)
    cutoff = ratio * _ROLL_OFF
    bank = cutoff * np.sinc(cutoff * offset) * window
    return (bank / bank.sum(axis=1, keepdims=True)).astype(np.float32)
