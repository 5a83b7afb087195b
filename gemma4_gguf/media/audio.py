"""Sounds: any container, or an array, to the 16 kHz mono samples that Gemma 4 hears.

Channels are averaged, as librosa does under transformers, and resampled (`media.resample`). One clip is 30
seconds at most: what the model was trained on, and where llama.cpp would cut without looking for a pause.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from numbers import Real
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from gemma4_gguf.errors import MediaError
from gemma4_gguf.media.decode import (
    as_array,
    decodable_packets,
    first_decodable,
    is_picture,
    name_of,
    open_container,
)
from gemma4_gguf.media.resample import resample_blocks

SAMPLE_RATE_HZ = 16_000
MAX_CLIP_S = 30.0
MAX_SAMPLES = int(MAX_CLIP_S * SAMPLE_RATE_HZ)
MAX_TRACK_S = 10_000.0  # a quarter of a million tokens: no context holds more
MIN_SAMPLES = 161  # one window of the conformer's front end

_SLACK_S = 0.1  # padding that encoders leave behind an exact 30 seconds
_SILENT_PEAK = 1e-4  # -80 dBFS, below the noise of any microphone
_LOUDEST = 8.0  # louder "samples in [-1, 1]" are integers in disguise
_RATES_HZ = (1_000, 768_000)
_MAX_CHANNELS = 8
_MAX_FILE_CHANNELS = 64  # of a file: ambisonics and rooms full of microphones


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a longer sound.

    Args:
        samples: float32 [n], 16 kHz mono.
        start_s: where it begins in the whole, seconds.
    """

    samples: np.ndarray
    start_s: float

    @property
    def end_s(self) -> float:
        return self.start_s + len(self.samples) / SAMPLE_RATE_HZ


def load_audio(
    source: str | Path | bytes | np.ndarray,
    *,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    max_s: float | None = MAX_CLIP_S,
) -> np.ndarray:
    """Reads a sound.

    Args:
        source: a path or the content of any file with sound (videos too), or an array or tensor of samples:
            floats in [-1, 1] or 16-bit integers, [n] or [n, channels].
        sample_rate_hz: of an array; files carry theirs.
        max_s: longest sound taken; None takes as much as a context can hold, for `cut_at_pauses`.

    Returns:
        float32 [n], 16 kHz mono.

    Raises:
        MediaError: no such file, no sound in it, damaged, empty, silent, or longer than max_s.
    """
    name = name_of(source, "sound")
    return _checked_sound(_gather(_blocks(source, sample_rate_hz, name), name, max_s), name)


def load_sound_track(source: str | Path | bytes, *, max_s: float | None = None) -> np.ndarray | None:
    """Reads the sound of a video.

    Args:
        source: a path or the content of a file.
        max_s: longest sound taken; None takes as much as a context can hold, for `cut_at_pauses`.

    Returns:
        float32 [n], 16 kHz mono; None when there is no sound track, or nothing can be heard on it.

    Raises:
        MediaError: no such file, damaged, or longer than max_s.
    """
    name = name_of(source, "video")
    if is_picture(source, "video"):
        return None
    with open_container(source, "video") as container:
        if not container.streams.audio:
            return None
        samples = _gather(_decode(container, name), name, max_s)
    if len(samples) < MIN_SAMPLES or is_silent(samples):
        return None
    return _checked_sound(samples, name)


def load_pieces(
    source: str | Path | bytes | np.ndarray,
    *,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    max_s: float = MAX_CLIP_S,
) -> Iterator[Piece]:
    """Reads a sound of any length piece by piece, cut as `cut_at_pauses` does; never holds all of it.

    Args:
        source: as for `load_audio`.
        sample_rate_hz: of an array; files carry theirs.
        max_s: longest piece, 1 to 30 seconds.

    Yields:
        Pieces that follow each other without gap or overlap; silent ones too.

    Raises:
        MediaError: as for `load_audio`, but for the length; a fault is found when it is reached.
    """
    name = name_of(source, "sound")
    heard = False
    for piece in _cut(_blocks(source, sample_rate_hz, name), _checked_length(max_s)):
        # Only a whole sound can be shorter than that.
        if len(piece.samples) < MIN_SAMPLES or not is_silent(piece.samples):
            _checked_sound(piece.samples, name)
            heard = True
        yield piece
    if not heard:
        _checked_sound(np.zeros(MIN_SAMPLES, np.float32), name)


def is_silent(samples: np.ndarray) -> bool:
    """Whether there is nothing to hear in a sound, float32 [n]."""
    return bool(np.abs(samples).max(initial=0.0) < _SILENT_PEAK)


def sound_duration_s(source: str | Path | bytes | np.ndarray, sample_rate_hz: int = SAMPLE_RATE_HZ) -> float:
    """Length of a sound as its file says, in seconds; 0 if it does not.

    Raises:
        MediaError: no such file, or damaged.
    """
    if hasattr(source, "__array__"):
        return len(as_array(source, "sound")) / sample_rate_hz
    with open_container(source, "sound") as container:
        return float(container.duration or 0) / 1e6


def cut_at_pauses(samples: np.ndarray, *, max_s: float = MAX_CLIP_S) -> list[Piece]:
    """Cuts a long sound into clips, each at the quietest tenth of a second of its last third.

    Args:
        samples: float32 [n], 16 kHz mono.
        max_s: longest clip, 1 to 30 seconds.

    Returns:
        Pieces that follow each other without gap or overlap; a sound of up to max_s is one piece.
    """
    return list(_cut(iter([samples]), _checked_length(max_s)))


def _cut(blocks: Iterator[np.ndarray], most: int) -> Iterator[Piece]:
    """Pieces of at most `most` samples."""
    rest, start = np.zeros(0, np.float32), 0
    for block in blocks:
        rest = np.concatenate([rest, block])
        done = 0
        # So much must be left that whatever follows the cut can stand alone.
        while len(rest) - done >= most + MIN_SAMPLES:
            size = _quietest(rest[done : done + most])
            yield Piece(rest[done : done + size], (start + done) / SAMPLE_RATE_HZ)
            done += size
        rest, start = rest[done:], start + done
    if len(rest) > most:
        size = min(_quietest(rest[:most]), len(rest) - MIN_SAMPLES)
        yield Piece(rest[:size], start / SAMPLE_RATE_HZ)
        rest, start = rest[size:], start + size
    yield Piece(rest, start / SAMPLE_RATE_HZ)


def _quietest(samples: np.ndarray) -> int:
    """Where to cut: the middle of the quietest tenth of a second of the last third."""
    step = SAMPLE_RATE_HZ // 10
    begin = len(samples) * 2 // 3
    n_steps = (len(samples) - begin) // step
    parts = samples[begin : begin + n_steps * step].reshape(n_steps, step)
    loudness = (parts.astype(np.float64) ** 2).mean(axis=1)
    # Of equally quiet places the last: fewer, longer pieces.
    quietest = n_steps - 1 - int(np.argmin(loudness[::-1]))
    return begin + quietest * step + step // 2


def _checked_length(max_s: float) -> int:
    """Samples of the longest piece."""
    if not 1 <= max_s <= MAX_CLIP_S:
        raise MediaError(f"max_s is {max_s}; expected 1 to {MAX_CLIP_S:.0f} seconds.")
    return int(max_s * SAMPLE_RATE_HZ)


def _blocks(source: str | Path | bytes | np.ndarray, sample_rate_hz: int, name: str) -> Iterator[np.ndarray]:
    """Mono at 16 kHz, float32 [n] each."""
    if not hasattr(source, "__array__"):  # as tensors have, too
        with open_container(source, "sound") as container:
            yield from _decode(container, name)
        return
    lowest, highest = _RATES_HZ
    if not isinstance(sample_rate_hz, Real) or not lowest <= sample_rate_hz <= highest:
        raise MediaError(f"sample_rate_hz is {sample_rate_hz!r}; expected {lowest} to {highest}.")
    yield from resample_blocks(
        [_checked_array(as_array(source, "sound"))], int(sample_rate_hz), SAMPLE_RATE_HZ
    )


def _decode(container: Any, name: str) -> Iterator[np.ndarray]:
    """Mono blocks at 16 kHz, float32 [n] each."""
    if not container.streams.audio:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise MediaError(f"{name} has no sound track, only {kinds}. Pass a file with sound.")
    stream = first_decodable(container.streams.audio, name)
    # A stream may change its rate midway, as joined MP3 files do.
    for rate, blocks in groupby(_mono_blocks(container, stream, name), key=itemgetter(0)):
        yield from resample_blocks((samples for _, samples in blocks), rate, SAMPLE_RATE_HZ)


def _mono_blocks(container: Any, stream: Any, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """Decodes: a rate and samples, small frames joined to a second or more: each costs a fixed effort."""
    import av

    to_float: Any = None  # channels side by side: PyAV does not give more than seven planes
    form: tuple[int, str, str] | None = None
    parts: list[np.ndarray] = []
    rate = n_gathered = 0
    n_bad = n_frames = 0
    for packet in decodable_packets(container, stream):
        try:
            frames = packet.decode()
        except (av.error.InvalidDataError, ValueError):
            n_bad += 1  # rubbish between good packets is common in MP3 streams
            continue
        for frame in frames:
            n_frames += 1
            if (frame.sample_rate, frame.format.name, frame.layout.name) != form:
                _check_form(frame, name)
                form = (frame.sample_rate, frame.format.name, frame.layout.name)
                to_float = av.AudioResampler(format="flt")
            if parts and (frame.sample_rate != rate or n_gathered >= rate):
                yield rate, np.concatenate(parts)
                parts, n_gathered = [], 0
            rate = frame.sample_rate
            for packed in to_float.resample(frame):
                channels = packed.to_ndarray().reshape(-1, packed.layout.nb_channels)
                parts.append(channels.mean(axis=1, dtype=np.float32))
                n_gathered += len(parts[-1])
    if n_bad > n_frames:
        raise MediaError(
            f"{name} is damaged: {n_bad} of its parts cannot be decoded. Save or download it again."
        )
    if parts:
        yield rate, np.concatenate(parts)


def _check_form(frame: Any, name: str) -> None:
    lowest, highest = _RATES_HZ
    if not lowest <= frame.sample_rate <= highest:
        raise MediaError(
            f"{name} has a sample rate of {frame.sample_rate} Hz; expected {lowest} to {highest}. Save it "
            "again as WAV or FLAC."
        )
    n_channels = frame.layout.nb_channels
    if not 1 <= n_channels <= _MAX_FILE_CHANNELS:
        raise MediaError(
            f"{name} has {n_channels} channels; expected 1 to {_MAX_FILE_CHANNELS}. Mix it down to mono."
        )


def _gather(blocks: Iterator[np.ndarray], name: str, max_s: float | None) -> np.ndarray:
    parts, n = [], 0
    longest_s = MAX_TRACK_S if max_s is None else max_s
    most = int(longest_s * SAMPLE_RATE_HZ)
    for block in blocks:
        parts.append(block)
        n += len(block)
        if n > most + _SLACK_S * SAMPLE_RATE_HZ:
            raise MediaError(
                f"{name} is longer than {longest_s:g} seconds, the most that one clip can have. Cut it into "
                "pieces, or use transcribe, which cuts at pauses."
            )
    samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return np.ascontiguousarray(samples[:most], np.float32)


def _checked_array(samples: np.ndarray) -> np.ndarray:
    if samples.ndim != 1 and not (samples.ndim == 2 and 1 <= samples.shape[1] <= _MAX_CHANNELS):
        raise MediaError(
            f"The samples have shape {list(samples.shape)}; expected [n] or [n, channels]. Transpose them?"
        )
    if samples.dtype.kind == "i" and samples.dtype.itemsize == 2:  # in either byte order
        samples = samples / 32768.0
    if samples.ndim == 2 and samples.dtype.kind == "f":
        samples = samples.mean(axis=1)
    if not np.issubdtype(samples.dtype, np.floating):
        raise MediaError(f"The samples are {samples.dtype}; expected floats in [-1, 1] or 16-bit integers.")
    return samples.astype(np.float32)


def _checked_sound(samples: np.ndarray, name: str) -> np.ndarray:
    if len(samples) < MIN_SAMPLES:
        raise MediaError(
            f"{name} has {len(samples)} samples at 16 kHz, less than 10 ms: nothing to hear. Record it again."
        )
    if not np.isfinite(samples).all():
        raise MediaError(f"{name} holds samples that are no numbers (NaN or infinite). Save it again.")
    peak = float(np.abs(samples).max())
    if peak < _SILENT_PEAK:
        raise MediaError(
            f"{name} is silent (its loudest sample is {peak:.1e} of 1). Check the microphone or the file."
        )
    if peak > _LOUDEST:
        raise MediaError(f"{name} reaches {peak:.4g}; expected samples in [-1, 1]. Divide integers by 32768.")
    return samples
