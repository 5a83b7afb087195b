"""Log-mel features: exactly those of transformers' Gemma 4 feature extractor.

20 ms windows every 10 ms, 128 HTK mel bands of the magnitude, natural logarithm of energy plus a floor.
llama.cpp takes the larger of energy and floor where the model was trained on their sum;
`engine.projector_patches` puts these values in place of its own (transformers 5.23,
models/gemma4/feature_extraction_gemma4.py).
"""

from __future__ import annotations

import functools

import numpy as np

from gemma4_gguf.media.audio import SAMPLE_RATE_HZ

N_MELS = 128
WINDOW = 320
HOP = 160
N_FFT = 512
FLOOR = 1e-3


def count_frames(n_samples: int) -> int:
    """Frames whose WINDOW + 1 samples end inside the sound; the first frame is centred on its start.

    Args:
        n_samples: at 16 kHz, 0 or more.

    Returns:
        0 or more; 100 a second.
    """
    return max(0, (n_samples + WINDOW // 2 - (WINDOW + 1)) // HOP + 1)


def count_tokens(n_samples: int) -> int:
    """Soft tokens the conformer makes of a sound: two convolutions halve the frames, rounding up.

    Args:
        n_samples: at 16 kHz, 0 or more.

    Returns:
        0 or more; 25 a second.
    """
    half = (count_frames(n_samples) + 1) // 2
    return (half + 1) // 2


def mel_energies(samples: np.ndarray) -> np.ndarray:
    """Energy per mel band before the logarithm.

    Args:
        samples: float32 [n], 16 kHz mono in [-1, 1], n ≥ 161.

    Returns:
        float64 [n_frames, 128].
    """
    n_frames = count_frames(len(samples))
    padded = np.concatenate([np.zeros(WINDOW // 2, np.float32), np.asarray(samples, np.float32)])
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[
        : n_frames * HOP : HOP
    ]  # [n_frames, 320]
    spectrum = np.fft.rfft(frames * _window(), n=N_FFT, axis=-1)
    return np.abs(spectrum) @ _filters()


@functools.cache
def _window() -> np.ndarray:
    """Periodic Hann window, float32 [320]."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)


@functools.cache
def _filters() -> np.ndarray:
    """Triangles of height 1 between neighbouring points of the HTK mel scale, float64 [257, 128]."""
    top = 2595.0 * np.log10(1.0 + SAMPLE_RATE_HZ / 2 / 700.0)
    corners_hz = 700.0 * (10.0 ** (np.linspace(0.0, top, N_MELS + 2) / 2595.0) - 1.0)
    bins_hz = np.linspace(0.0, SAMPLE_RATE_HZ / 2, N_FFT // 2 + 1)[:, None]
    left, centre, right = corners_hz[:-2], corners_hz[1:-1], corners_hz[2:]
    rising, falling = (bins_hz - left) / (centre - left), (right - bins_hz) / (right - centre)
    return np.maximum(0.0, np.minimum(rising, falling))
