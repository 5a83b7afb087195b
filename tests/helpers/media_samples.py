"""Pictures and sounds made from numbers: the same bytes wherever they are made."""

from __future__ import annotations

import io
import wave

import numpy as np

SAMPLE_RATE_HZ = 16_000
# Names under which Pillow writes a picture as it is.
PICTURE_FORMATS = [
    "PNG",
    "JPEG",
    "GIF",
    "WEBP",
    "BMP",
    "TIFF",
    "ICO",
    "PPM",
    "PCX",
    "SGI",
    "QOI",
    "DDS",
    "ICNS",
]


def picture(width: int, height: int) -> np.ndarray:
    """A scene with slopes, edges, a disc and grain. Returns uint8 [height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    red = 255 * x // max(width - 1, 1)
    green = 255 * y // max(height - 1, 1)
    blue = 128 + (((x // 7) + (y // 11)) % 2) * 90
    image = np.stack([red, green, blue], axis=-1)
    radius = min(width, height) // 4
    disc = (x - width // 3) ** 2 + (y - height // 2) ** 2 < radius**2
    image[disc] = (240, 30, 40)
    box = (abs(x - 3 * width // 4) < width // 8) & (abs(y - height // 3) < height // 6)
    image[box] = (20, 60, 200)
    grain = (x * 2654435761 + y * 40503 + x * y * 97) % 23 - 11
    return np.clip(image + grain[..., None], 0, 255).astype(np.uint8)


def sweep(milliseconds: int) -> np.ndarray:
    """A tone rising from 150 Hz under a slow tremolo, on 16-bit steps. Returns float32 [n] at 16 kHz."""
    n = SAMPLE_RATE_HZ * milliseconds // 1000
    t = np.arange(n) / SAMPLE_RATE_HZ
    tone = 0.45 * np.sin(2 * np.pi * (150 * t + 250 * t * t)) + 0.15 * np.sin(2 * np.pi * 997 * t)
    wave = tone * (0.6 + 0.4 * np.sin(2 * np.pi * 2.5 * t))
    return (np.round(wave * 32767) / 32768).astype(np.float32)


def speech(*seconds: float, pause_s: float = 0.4) -> np.ndarray:
    """Noise of these lengths with pauses between; each pause has a different faint hum."""
    rng = np.random.default_rng(len(seconds))
    parts = []
    for length in seconds:
        parts += [
            rng.normal(0, 0.1, int(length * SAMPLE_RATE_HZ)),
            rng.normal(0, 1e-3, int(pause_s * SAMPLE_RATE_HZ)),
        ]
    return np.concatenate(parts[:-1]).astype(np.float32)


class Tensor:
    """As of torch, jax and others: no array, but it gives one."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        return self.array


def wav(samples: np.ndarray, rate: int = SAMPLE_RATE_HZ) -> bytes:
    """The content of a WAV file of 16 bits."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as sound:
        sound.setparams((1, 2, rate, 0, "NONE", ""))
        sound.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return stream.getvalue()
