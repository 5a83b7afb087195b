"""Clips whose frames can be told apart, in any container."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np

SAMPLE_RATE_HZ = 16_000


def brightness(number: int) -> int:
    """Grey of a frame, from which its number can be read back."""
    return (16 + 4 * number) % 256


def clip(
    n: int,
    rate: int,
    *,
    container: str = "mp4",
    codec: str = "libx264",
    size: tuple[int, int] = (96, 64),
    times: Sequence[int] | None = None,
    sound: bool = False,
    muxer: dict[str, str] | None = None,
    **options: str,
) -> bytes:
    """A clip whose frame k is grey of brightness(k)."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=container, options=muxer or {}) as out:
        pictures = out.add_stream(codec, rate=rate, options=options)
        pictures.width, pictures.height = size
        pictures.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        pictures.gop_size = 8
        noise = out.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for k in range(n):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), brightness(k), np.uint8))
            if times is not None:
                frame.pts, frame.time_base = times[k], Fraction(1, rate)
            out.mux(pictures.encode(frame))
        out.mux(pictures.encode(None))
        if noise is not None:
            samples = np.sin(np.arange(16_000) / 5).astype(np.float32)[None] / 2
            for start in range(0, 16_000, 1024):
                part = av.AudioFrame.from_ndarray(
                    samples[:, start : start + 1024], format="fltp", layout="mono"
                )
                part.sample_rate, part.pts = 16_000, start
                out.mux(noise.encode(part))
            out.mux(noise.encode(None))
    return stream.getvalue()
