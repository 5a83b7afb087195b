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
from PIL import Image

from gemma4_gguf.errors import MediaError
from gemma4_gguf.media.audio import load_sound_track
from gemma4_gguf.media.image import prepare_image
from gemma4_gguf.media.picture import read_image
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
    "avi, frames out of order": {"container": "avi", "bf": "2"},
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


# A screen that does not change for nine of ten seconds.
STILL = [0, *range(90, 101)]
TIMED = ("mp4", "mp4, frames out of order", "mpeg-ts", "webm", "matroska", "avi")


@pytest.mark.parametrize("kind", TIMED)
def test_a_long_still_costs_one_picture(kind: str) -> None:
    content = clip(12, 10, times=STILL, **KINDS[kind])
    found = sample_frames(content, frames=6)
    assert len(found) == 6 and found[0].index == 0
    assert [frame.time_s for frame in found] == pytest.approx([STILL[f.index] / 10 for f in found], abs=1e-3)
    assert np.abs(np.array(numbers(found)) - [frame.index for frame in found]).max() <= ("avi" in kind)
    assert [frame.time_s for frame in sample_frames(content, fps=1)] == pytest.approx(
        [0, 9, 10][:2], abs=0.11
    )
    assert [frame.timestamp for frame in sample_frames(content)] == ["00:00", *["00:09"] * 10, "00:10"]


@pytest.mark.parametrize("kind", TIMED)
def test_pictures_per_second(kind: str) -> None:
    found = sample_frames(clip(50, 10, **KINDS[kind]), fps=1)
    assert [frame.index for frame in found] == [0, 10, 20, 30, 40]
    assert [frame.timestamp for frame in found] == ["00:00", "00:01", "00:02", "00:03", "00:04"]


@pytest.mark.parametrize("start", [7, 1000])
@pytest.mark.parametrize("kind", ["mp4", "mp4, frames out of order", "mpeg-ts", "webm", "matroska"])
def test_times_count_from_the_first_picture(kind: str, start: int) -> None:
    found = sample_frames(clip(10, 10, times=list(range(start, start + 10)), **KINDS[kind]), frames=5)
    assert [frame.index for frame in found] == numbers(found) == [0, 2, 4, 6, 8]
    assert [frame.time_s for frame in found] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


@pytest.mark.parametrize("container", ["webm", "matroska"])
def test_a_recording_that_says_neither_length_nor_count(container: str) -> None:
    content = clip(30, 10, container=container, codec="libvpx-vp9", muxer={"live": "1"})
    with av.open(io.BytesIO(content)) as opened:
        assert opened.duration is None and not opened.streams.video[0].frames
    found = sample_frames(content, fps=1)
    assert [(frame.index, frame.time_s) for frame in found] == [(0, 0), (10, 1), (20, 2)]
    half = sample_frames(content[: len(content) * 2 // 3], frames=4)
    assert len(half) == 4 and [frame.index for frame in half] == numbers(half)


def test_a_length_that_is_claimed_does_not_count() -> None:
    content = bytearray(clip(10, 10))
    for kind, place in ((b"mvhd", 16), (b"mdhd", 16), (b"tkhd", 20)):
        at = content.index(kind) + 4 + place
        content[at : at + 4] = b"\x7f\xff\xff\xff"
    found = sample_frames(bytes(content), frames=5)
    assert [(frame.index, frame.time_s) for frame in found] == [(k, k / 10) for k in (0, 2, 4, 6, 8)]


def test_damage_in_the_middle_costs_the_pictures_there() -> None:
    """Those after it keep their own times."""
    content = bytearray(clip(60, 10, container="mpegts"))
    packets = range(0, len(content), 188)
    for at in packets[len(packets) // 3 : len(packets) // 2]:
        content[at + 4 : at + 188] = bytes(184)
    found = sample_frames(bytes(content), frames=12)
    assert found[0].index == 0 and found[-1].time_s > 5
    for frame in found:
        assert numbers([frame])[0] == pytest.approx(frame.time_s * 10, abs=1.5)


def test_huge_pictures_are_refused() -> None:
    content = bytearray(clip(3, 5, container="ivf", codec="libvpx"))
    content[12:16] = struct.pack("<HH", 16_383, 16_383)
    at = content.index(b"\x9d\x01\x2a") + 3  # a key frame
    content[at : at + 4] = struct.pack("<HH", 16_383, 16_383)
    with pytest.raises(MediaError, match=r"too large|damaged"):
        sample_frames(bytes(content))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
@pytest.mark.parametrize("source", ["bytes", "path"])
def test_animations(kind: str, source: str, tmp_path: Path) -> None:
    """With a delay for each frame; on white where nothing is drawn."""
    greys = (0, 60, 120, 180, 240)
    pictures = [Image.new("RGB", (96, 64), (grey, grey, grey)) for grey in greys]
    stream = io.BytesIO()
    delays = [200, 1000, 300, 5000, 100]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    pictures[0].save(stream, kind, save_all=True, append_images=pictures[1:], duration=delays, **lossless)
    content: bytes | Path = stream.getvalue()
    if source == "path":
        (tmp_path / "animation").write_bytes(stream.getvalue())
        content = tmp_path / "animation"
    found = sample_frames(content)
    assert [frame.time_s for frame in found] == pytest.approx([0, 0.2, 1.2, 1.5, 6.5])
    assert [round(float(frame.picture.pixels.mean())) for frame in found] == list(greys)
    assert [frame.index for frame in sample_frames(content, fps=1)] == [0, 1, 3]
    assert load_image_of(content) == greys[0]
    assert load_sound_track(content) is None


def load_image_of(content: bytes | Path) -> int:
    return int(read_image(content).getpixel((5, 5))[0])


def test_delays_as_browsers_show_them() -> None:
    stream = io.BytesIO()
    pictures = [Image.new("L", (8, 8), grey) for grey in (0, 100, 200)]
    pictures[0].save(stream, "GIF", save_all=True, append_images=pictures[1:], duration=0)
    assert [f.time_s for f in sample_frames(stream.getvalue())] == pytest.approx([0, 0.1, 0.2])


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
    "options",
    [
        {"frames": 0},
        {"frames": 5000},
        {"fps": 0},
        {"fps": -1},
        {"frames": 2.5},
        {"frames": "4"},
        {"fps": "1"},
        {"image_tokens": 60},
    ],
)
def test_bad_numbers_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(MediaError, match=next(iter(options))):
        sample_frames(clip(3, 3), **options)


def test_a_clip_that_breaks_off_gives_what_there_is() -> None:
    content = clip(40, 20, container="mpegts")
    found = sample_frames(content[: len(content) // 2], frames=8)
    assert 1 <= len(found) <= 8 and found[0].index == 0
