"""Sounds in any container."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np


def encoded(
    channels: np.ndarray,
    rate: int,
    container: str = "wav",
    codec: str = "pcm_s16le",
    layout: str = "",
    title: str = "",
    **options: Any,
) -> bytes:
    """Samples [n] or [channels, n] as a file."""
    channels = np.atleast_2d(channels)
    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as out:
        if title:
            out.metadata["title"] = title
        audio = out.add_stream(
            codec, rate=rate, layout=layout or ("mono", "stereo")[len(channels) - 1], **options
        )
        if title:
            audio.metadata["title"] = title
        size = audio.codec_context.frame_size or 1024
        for start in range(0, channels.shape[1], size):
            part = np.ascontiguousarray(channels[:, start : start + size])
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=audio.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            out.mux(audio.encode(frame))
        out.mux(audio.encode(None))
    return stream.getvalue()
