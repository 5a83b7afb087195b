"""Clips: which frames, when, turned how; the same numbers as transformers' sampling."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import clip
from hypothesis import given
from hypothesis import strategies as st

from gemma4_gguf.errors import MediaError
from gemma4_gguf.media.audio import load_sound_track
from gemma4_gguf.media.image import prepare_image
from gemma4_gguf.media.sampling import frame_indices
from gemma4_gguf.media.video import Clip, Frame, sample_frames


def numbers(frames: Sequence[Frame]) -> list[int]:
    """Which frames these really are, by their brightness."""
    return [round((float(frame.picture.pixels.mean()) - 16) / 4) for frame in frames]


def transformers_indices(total: int, n: int) -> list[int]:
    """transformers 5.23, video_utils.default_sample_indices_fn."""
    return list(np.arange(n, dtype=int) * total // n)


KINDS: dict[str, dict[str, Any]] = {
    "mp4": {},
    "mp4, frames out of order": {"bf": "3"},
    "mpeg-ts": {"container": "mpegts", "bf": "2"},
    "webm": {"container": "webm", "codec": "libvpx-vp9"},
    "matroska": {"container": "matroska"},
    "avi": {"container": "avi", "codec": "mpeg4"},
    "gif": {"container": "gif", "codec": "gif"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "rate", "frames"), [(50, 25, 32), (50, 25, 7), (9, 10, 32), (1, 10, 4)])
def test_frames_are_spread_as_transformers_does(kind: str, n: int, rate: int, frames: int) -> None:
    found = sample_frames(clip(n, rate, **KINDS[kind]), frames=frames)
    expected = transformers_indices(n, min(n, frames))
    assert [frame.index for frame in found] == expected
    tolerance = 8 if kind == "gif" else 1  # its colours are few
    assert np.abs(np.array(numbers(found)) - expected).max() <= tolerance
    if n > 1:
        assert [frame.time_s for frame in found] == pytest.approx([k / rate for k in expected])


def test_rates() -> None:
    content = clip(60, 20)
    assert [f.index for f in sample_frames(content, fps=2)] == transformers_indices(60, 6)
    assert [f.index for f in sample_frames(content, fps=0.01)] == [0]
    assert [f.index for f in sample_frames(content, fps=20, frames=10)] == transformers_indices(60, 10)


@given(
    total=st.integers(1, 5000),
    rate=st.floats(1, 120),
    fps=st.none() | st.floats(0.01, 200),
    frames=st.integers(1, 64),
)
def test_indices(total: int, rate: float, fps: float | None, frames: int) -> None:
    found = frame_indices(total, rate, fps=fps, frames=frames)
    assert 1 <= len(found) <= min(total, frames)
    assert found[0] == 0 and found[-1] < total
    assert found == sorted(set(found))
    if fps is None:
        assert found == transformers_indices(total, min(total, frames))


UNEVEN = [0, 1, 2, 5, 6, 7, 20, 21, 40, 90]


@pytest.mark.parametrize("kind", ["mp4", "mp4, frames out of order", "mpeg-ts", "webm", "matroska"])
def test_uneven_pictures_are_labelled_with_their_own_times(kind: str) -> None:
    content = clip(10, 10, times=UNEVEN, **KINDS[kind])
    for frames in (5, 10, 32):
        found = sample_frames(content, frames=frames)
        assert len(found) == min(frames, 10)
        assert [frame.index for frame in found] == numbers(found)
        assert [frame.time_s for frame in found] == pytest.approx(
            [UNEVEN[f.index] / 10 for f in found], abs=1e-3
        )


def test_both_ways_through_a_clip_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    content = clip(48, 24, bf="2")
    by_time = sample_frames(content, frames=9)
    monkeypatch.setattr(Clip, "by_time", lambda *_: None)
    by_count = sample_frames(content, frames=9)
    assert [f.picture.digest for f in by_time] == [f.picture.digest for f in by_count]
    assert [f.index for f in by_time] == [f.index for f in by_count]


def test_frames_are_prepared_like_pictures() -> None:
    content = clip(4, 4, size=(160, 120))
    with av.open(io.BytesIO(content)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for budget in (70, 140):
        found = sample_frames(content, image_tokens=budget)
        expected = [prepare_image(pixels, budget) for pixels in decoded]
        assert [f.picture.digest for f in found] == [p.digest for p in expected]
        assert {f.picture.n_tokens for f in found} == {expected[0].n_tokens}


def test_timestamps() -> None:
    picture = prepare_image(np.zeros((48, 48, 3), np.uint8), 70)
    stamps = {0.0: "00:00", 0.999: "00:00", 59.99: "00:59", 60.0: "01:00", 671.5: "11:11", 6000.0: "100:00"}
    assert {s: Frame(picture, 0, s).timestamp for s in stamps} == stamps


def test_a_turned_phone() -> None:
    """The matrix of a track header that says: turn by 90 degrees clockwise."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as out:
        pictures = out.add_stream("libx264", rate=5)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        pixels = np.zeros((48, 64, 3), np.uint8)
        pixels[:24] = (255, 0, 0)
        for _ in range(3):
            out.mux(pictures.encode(av.VideoFrame.from_ndarray(pixels)))
        out.mux(pictures.encode(None))
    content = bytearray(stream.getvalue())
    matrix = content.index(b"tkhd") + 4 + 40
    one = 1 << 16
    content[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    picture = sample_frames(bytes(content), frames=1)[0].picture
    assert picture.original_size == (48, 64)
    height, width = picture.pixels.shape[:2]
    assert height > width
    left, right = picture.pixels[height // 2, width // 8], picture.pixels[height // 2, -width // 8]
    assert right[0] > 200 > 60 > left[0], "what was above is now on the right"


def test_sound_of_a_clip() -> None:
    sound = load_sound_track(clip(10, 10, sound=True))
    assert sound is not None and abs(len(sound) - 16_000) < 2_048
    assert load_sound_track(clip(10, 10)) is None


def sound_only() -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format="wav") as out:
        noise = out.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.ones((1, 4096), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        out.mux(noise.encode(frame))
    return stream.getvalue()


REFUSED: dict[str, tuple[Any, str]] = {
    "missing": ("no/such/clip.mp4", "does not exist"),
    "directory": (Path("."), "directory"),
    "no bytes": (b"", "no bytes"),
    "text": (b"not a clip at all, just words" * 40, "no video that can be read"),
    "sound only": (sound_only(), "has no pictures, only audio"),
    "cut off": (clip(30, 10)[:600], "no video that can be read|damaged"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_clips_are_refused_in_words(name: str) -> None:
    source, words = REFUSED[name]
    with pytest.raises(MediaError, match=words):
        sample_frames(source)


@pytest.mark.parametrize(
    "options", [{"frames": 0}, {"frames": 5000}, {"fps": 0}, {"fps": -1}, {"image_tokens": 60}]
)
def test_bad_numbers_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(MediaError, match=next(iter(options))):
        sample_frames(clip(3, 3), **options)


def test_a_clip_that_breaks_off_gives_what_there_is() -> None:
    content = clip(40, 20, container="mpegts")
    found = sample_frames(content[: len(content) // 2], frames=8)
    assert 1 <= len(found) <= 8 and found[0].index == 0
