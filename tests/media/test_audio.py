"""Sounds: any container to 16 kHz mono, resampled well; what cannot be heard is refused in words."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import parity
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_samples import Tensor, sweep
from reference import cases
from sounds import encoded

from gemma4_gguf.errors import MediaError
from gemma4_gguf.media import audio
from gemma4_gguf.media.audio import (
    MAX_SAMPLES,
    MIN_SAMPLES,
    SAMPLE_RATE_HZ,
    cut_at_pauses,
    load_audio,
    load_pieces,
    load_sound_track,
    sound_duration_s,
)
from gemma4_gguf.media.decode import _tag_options
from gemma4_gguf.media.mel import FLOOR, HOP, count_frames, count_tokens, mel_energies
from gemma4_gguf.media.resample import resample, resample_blocks


def tone(hz: float, seconds: float, rate: int, loud: float = 0.5) -> np.ndarray:
    return (loud * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def silent_video() -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as out:
        video = out.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for _ in range(5):
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))))
        out.mux(video.encode(None))
    return stream.getvalue()


def snr_db(found: np.ndarray, truth: np.ndarray) -> float:
    """Away from the ends, where the sound begins and stops at once."""
    inner = slice(400, len(truth) - 400)
    noise = found[inner].astype(np.float64) - truth[inner]
    return float(10 * np.log10((truth[inner].astype(np.float64) ** 2).mean() / (noise**2).mean()))


# Containers

CONTAINERS = [
    ("wav", "pcm_s16le", 16_000, 60.0),
    ("wav", "pcm_u8", 22_050, 30.0),
    ("wav", "pcm_s24le", 48_000, 100.0),
    ("wav", "pcm_f32le", 44_100, 100.0),
    ("flac", "flac", 44_100, 60.0),
    ("mp3", "libmp3lame", 44_100, 15.0),
    ("ogg", "libopus", 48_000, 15.0),
    ("mp4", "aac", 44_100, 15.0),
    ("webm", "libopus", 48_000, 15.0),
    ("matroska", "flac", 32_000, 60.0),
]


@pytest.mark.parametrize(("container", "codec", "rate", "at_least_db"), CONTAINERS, ids=lambda v: str(v))
def test_containers(container: str, codec: str, rate: int, at_least_db: float) -> None:
    content = encoded(tone(440, 1.5, rate) + tone(1900, 1.5, rate, 0.2), rate, container, codec)
    found = load_audio(content)
    assert found.dtype == np.float32 and found.ndim == 1
    assert abs(len(found) - 24_000) <= 0.1 * SAMPLE_RATE_HZ, "codecs may pad, but not more than this"
    truth = tone(440, 1.5, SAMPLE_RATE_HZ) + tone(1900, 1.5, SAMPLE_RATE_HZ, 0.2)
    # Encoders shift the sound by their look-ahead: take the best place.
    middle = truth[8000:16_000]
    place = 8000 + max(range(-1600, 1600), key=lambda d: float(found[8000 + d : 16_000 + d] @ middle))
    noise = found[place : place + 8000] - middle
    assert 10 * np.log10((middle**2).mean() / (noise**2).mean()) >= at_least_db


TAGS = {
    "latin-1": "Straße".encode("latin-1"),
    "shift_jis": "音楽".encode("shift_jis"),
    "cp1251": "Музыка".encode("cp1251"),
    "utf-16": "Übung".encode("utf-16"),
    "utf-8": "Übung 音".encode(),
    "a surrogate": b"\xed\xa0\x80",
    "no text at all": bytes(range(255, 200, -1)),
}
PLACEHOLDER = b"-name-in-ascii-of-one-length-" * 2
TAGGED = [
    ("wav", "pcm_s16le"),
    ("flac", "flac"),
    ("mp3", "libmp3lame"),
    ("mp4", "aac"),
    ("matroska", "flac"),
    ("avi", "pcm_s16le"),
]


@pytest.mark.parametrize("encoding", TAGS)
@pytest.mark.parametrize(("container", "codec"), TAGGED, ids=lambda v: str(v))
def test_tags_in_any_encoding(container: str, codec: str, encoding: str) -> None:
    """What a file calls itself is no sound and must not stop it, in the container's tags and the stream's."""
    content = encoded(sweep(600), 48_000, container, codec, title=PLACEHOLDER.decode())
    assert PLACEHOLDER in content, "the tag is in the file"
    content = content.replace(PLACEHOLDER, TAGS[encoding].ljust(len(PLACEHOLDER))[: len(PLACEHOLDER)])
    found = load_audio(content)
    plain = load_audio(encoded(sweep(600), 48_000, container, codec))
    np.testing.assert_array_equal(found, plain)
    assert sound_duration_s(content) == pytest.approx(len(sweep(600)) / 48_000, abs=0.1)


NAMES = (b"caf\xe9.wav", "Lärm 音 🎵.wav".encode(), b"http:%2e\xff\xfe.wav", b"-\n.wav")


@pytest.mark.parametrize("name", NAMES)
def test_file_names_in_any_encoding(name: bytes, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(name)
    try:
        path.write_bytes(encoded(sweep(300), SAMPLE_RATE_HZ))
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    np.testing.assert_array_equal(load_audio(path), sweep(300))
    path.write_bytes(b"no sound" * 100)
    with pytest.raises(MediaError) as caught:
        load_audio(str(path))
    str(caught.value).encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("version", "argument"),
    [("14.2.0", True), ("18.1.0", True), ("19.0.2", False), ("19.0.0rc1", False), ("20.0", False)],
)
def test_the_argument_for_tags_is_given_where_pyav_has_it(version: str, argument: bool) -> None:
    assert bool(_tag_options(version)) is argument


def test_paths_and_bytes_agree(tmp_path: Path) -> None:
    path = tmp_path / "Lärm 音.wav"
    path.write_bytes(encoded(sweep(300), SAMPLE_RATE_HZ))
    from_bytes = load_audio(path.read_bytes())
    np.testing.assert_array_equal(load_audio(path), from_bytes)
    np.testing.assert_array_equal(load_audio(str(path)), from_bytes)
    np.testing.assert_array_equal(
        from_bytes, sweep(300), "16-bit samples at the right rate come through as they are"
    )


@pytest.mark.parametrize(("layout", "n"), [("stereo", 2), ("5.1", 6)])
def test_channels_are_averaged(layout: str, n: int) -> None:
    channels = np.stack([tone(300 + 100 * k, 0.5, SAMPLE_RATE_HZ, 0.1 * (k + 1)) for k in range(n)])
    found = load_audio(encoded(channels, SAMPLE_RATE_HZ, codec="pcm_f32le", layout=layout))
    np.testing.assert_allclose(found, channels.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(load_audio(channels.T), channels.mean(axis=0), atol=1e-6)


def test_arrays() -> None:
    samples = sweep(200)
    np.testing.assert_array_equal(load_audio(samples), samples)
    np.testing.assert_array_equal(load_audio(samples.astype(np.float64)), samples)
    np.testing.assert_array_equal(load_audio((samples * 32768).astype(np.int16)), samples)
    doubled = np.stack([(samples * 32768).astype(np.int16)] * 2, axis=1)
    np.testing.assert_array_equal(load_audio(doubled), samples)
    np.testing.assert_array_equal(load_audio(Tensor(samples)), samples)
    for order in ("<i2", ">i2"):
        np.testing.assert_array_equal(load_audio((samples * 32768).astype(order)), samples)
    np.testing.assert_array_equal(load_audio(samples[::-1][::-1]), samples)
    halved = load_audio(tone(440, 1, 48_000), sample_rate_hz=48_000)
    assert snr_db(halved, tone(440, 1, SAMPLE_RATE_HZ)) > 100


# Resampling, against the same sweep sampled at the wanted rate


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 37_800])
def test_resampling_keeps_what_the_rate_can_hold(rate: int) -> None:
    top = 0.9 * min(rate, SAMPLE_RATE_HZ) / 2

    def chirp(hz: int) -> np.ndarray:
        t = np.arange(2 * hz) / hz
        return 0.5 * np.sin(2 * np.pi * (100 * t + (top - 100) / 4 * t * t))

    found = resample(chirp(rate).astype(np.float32), rate, SAMPLE_RATE_HZ)
    assert found.dtype == np.float32 and len(found) == 2 * SAMPLE_RATE_HZ
    assert snr_db(found, chirp(SAMPLE_RATE_HZ)) > 75


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 37_800])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_tone_stays_a_tone(rate: int, share: float) -> None:
    """As loud as before within 0.02 dB, in time within a thousandth of a sample, and nothing beside it."""
    hz = round(share * min(rate, SAMPLE_RATE_HZ) / 2)
    found = resample(tone(hz, 2, rate), rate, SAMPLE_RATE_HZ)[2000:-2000].astype(np.float64)
    angle = 2 * np.pi * hz * np.arange(2000, 2000 + len(found)) / SAMPLE_RATE_HZ
    waves = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    fitted = np.linalg.lstsq(waves, found, rcond=None)[0]
    assert abs(20 * np.log10(np.hypot(*fitted) / 0.5)) < 0.02
    assert abs(np.arctan2(fitted[1], fitted[0])) / (2 * np.pi * hz) * SAMPLE_RATE_HZ < 1e-3
    assert 20 * np.log10(np.abs(found - waves @ fitted).max()) < -110


@pytest.mark.parametrize("rate", [24_000, 44_100, 48_000, 96_000])
def test_resampling_folds_nothing_back(rate: int) -> None:
    found = resample(tone(8_500, 1, rate), rate, SAMPLE_RATE_HZ)[400:-400]
    assert 20 * np.log10(np.sqrt((found**2).mean()) / np.sqrt(0.125)) < -95


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 3000), max_size=8),
    rates=st.sampled_from(
        [(44_100, 16_000), (8_000, 16_000), (48_000, 16_000), (16_000, 16_000), (16_000, 11_025)]
    ),
)
def test_a_stream_in_blocks_is_the_whole(sizes: list[int], rates: tuple[int, int]) -> None:
    whole = np.random.RandomState(0).uniform(-1, 1, sum(sizes)).astype(np.float32)
    blocks = np.split(whole, np.cumsum(sizes)[:-1]) if sizes else []
    found = [*resample_blocks(blocks, *rates), np.zeros(0, np.float32)]
    expected = resample(whole, *rates)
    assert len(expected) == -(-len(whole) * rates[1] // rates[0])
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-6)


# Refusals

SILENCE = np.zeros(16_000, np.float32)
GOOD = encoded(sweep(400), SAMPLE_RATE_HZ, "flac", "flac")
REFUSED: dict[str, tuple[Any, str]] = {
    "missing": ("no/such/sound.wav", "does not exist"),
    "web address": ("https://example.org/a.mp3", "does not exist; addresses on the network are not fetched"),
    "ffmpeg protocol": ("concat:a.mp3|b.mp3", "does not exist"),
    "address of a file": ("file:///tmp/a.mp3", "leave out file:"),
    "content as text": ("data:audio/wav;base64," + "UklGRg" * 20, "pass its content as bytes"),
    "directory": (Path("."), "directory"),
    "no bytes": (b"", "no bytes"),
    "text": (b"not a sound at all, just words" * 40, "no sound that can be read"),
    "no sound track": (silent_video(), "has no sound track, only video"),
    "header only": (encoded(sweep(10), SAMPLE_RATE_HZ)[:-320], "nothing to hear"),
    "damaged": (GOOD[:200] + bytes(len(GOOD) - 200), "damaged|nothing to hear"),
    "silent": (encoded(SILENCE, SAMPLE_RATE_HZ), "silent"),
    "silent array": (SILENCE, "silent"),
    "nearly silent": (tone(440, 1, SAMPLE_RATE_HZ, 5e-5), "silent"),
    "empty array": (np.zeros(0, np.float32), "nothing to hear"),
    "a click": (np.ones(MIN_SAMPLES - 1, np.float32), "nothing to hear"),
    "not a number": (np.full(16_000, np.nan, np.float32), "NaN"),
    "integers as floats": (tone(440, 1, SAMPLE_RATE_HZ) * 32768, r"expected samples in \[-1, 1\]"),
    "32-bit integers": (np.ones(16_000, np.int32), "expected floats"),
    "channels first": (np.ones((2, 16_000), np.float32), "Transpose"),
    "too long": (tone(440, 30.2, SAMPLE_RATE_HZ), "longer than 30 seconds.*transcribe"),
    "number": (3, "cannot be int"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_sounds_are_refused_in_words(name: str) -> None:
    source, words = REFUSED[name]
    with pytest.raises(MediaError, match=words):
        load_audio(source)


def riff(
    data: bytes, *, form: int = 1, channels: int = 1, rate: int = SAMPLE_RATE_HZ, bits: int = 16
) -> bytes:
    """A WAV file with whatever its header says."""
    align = channels * bits // 8 & 0xFFFF
    head = struct.pack("<HHIIHH", form, channels, rate, rate * align & 0xFFFFFFFF, align, bits)
    chunks = b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


NOISE = (np.random.RandomState(0).uniform(-1, 1, 200_000) * 30_000).astype("<i2").tobytes()
NO_NUMBERS = (
    np.where(np.arange(16_000) == 9_000, np.nan, tone(440, 1, SAMPLE_RATE_HZ)).astype("<f4").tobytes()
)
ABSURD = {
    "one a second": (riff(NOISE, rate=1), "sample rate of 1 Hz"),
    "no rate": (riff(NOISE, rate=0), "sample rate of 0 Hz|cannot|can be read"),
    "four billion a second": (riff(NOISE, rate=4_000_000_000), "sample rate|can be read"),
    "a million a second": (riff(NOISE, rate=1_000_000), "sample rate of 1000000 Hz"),
    "no channel": (riff(NOISE, channels=0), "channels|damaged"),
    "a crowd": (riff(NOISE, channels=255), "255 channels|damaged"),
    "all channels": (riff(NOISE, channels=65_535), "channels|damaged"),
    "a codec that nobody has": (riff(NOISE, form=0x1234), "cannot decode"),
    "no bits": (riff(NOISE, bits=0), "cannot decode"),
    "a hole": (riff(NO_NUMBERS, form=3, bits=32), "NaN"),
    "huge": (riff(np.full(16_000, 1e30, "<f4").tobytes(), form=3, bits=32), "reaches 1e"),
}


@pytest.mark.parametrize("n", [7, 8, 16, 64])
def test_many_channels(n: int) -> None:
    channels = np.stack([tone(300 + 10 * k, 0.2, SAMPLE_RATE_HZ) for k in range(n)], axis=1)
    content = riff((channels * 32767).astype("<i2").tobytes(), channels=n)
    np.testing.assert_allclose(load_audio(content), channels.mean(axis=1), atol=1e-4)


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_sounds_are_refused_in_words(name: str) -> None:
    content, words = ABSURD[name]
    for reader in (load_audio, load_sound_track, lambda source: list(load_pieces(source))):
        with pytest.raises(MediaError, match=words):
            reader(content)


def test_a_rate_that_changes_midway() -> None:
    """As of joined MP3 files."""
    parts = [encoded(tone(440, 1, rate), rate, "mp3", "libmp3lame") for rate in (44_100, 22_050)]
    one, other = (load_audio(part) for part in parts)
    joined = load_audio(parts[0] + parts[1])
    assert len(joined) == pytest.approx(len(one) + len(other), abs=4_000)
    middles = joined[4_000:12_000], joined[-12_000:-4_000]
    for middle in middles:
        assert np.abs(np.fft.rfft(middle)).argmax() == 220


def test_a_track_that_no_context_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "MAX_TRACK_S", 0.2)
    with pytest.raises(MediaError, match=r"longer than 0\.2 seconds"):
        load_sound_track(encoded(tone(440, 0.5, SAMPLE_RATE_HZ), SAMPLE_RATE_HZ))


def test_the_track_that_is_marked_is_heard() -> None:
    """Of several tracks, the one that a player would play."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as out:
        tracks = [out.add_stream("pcm_s16le", rate=SAMPLE_RATE_HZ, layout="mono") for _ in range(2)]
        for track, hz in zip(tracks, (300, 700), strict=True):
            samples = (tone(hz, 1, SAMPLE_RATE_HZ) * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE_HZ, 0
            out.mux(track.encode(frame))
            out.mux(track.encode(None))
    first = stream.getvalue()
    assert np.abs(np.fft.rfft(load_audio(first))).argmax() == 300
    at = first.rindex(b"\x88\x81\x00")  # FlagDefault of the second track
    second = first[: at + 2] + b"\x01" + first[at + 3 :]
    assert np.abs(np.fft.rfft(load_audio(second))).argmax() == 700


@pytest.mark.parametrize("rate", [0, -16_000, 10, 10_000_000, "16000", None, float("nan")])
def test_bad_rates_are_refused(rate: Any) -> None:
    with pytest.raises(MediaError, match="sample_rate_hz"):
        load_audio(sweep(100), sample_rate_hz=rate)


def test_length_limit() -> None:
    assert len(load_audio(tone(440, 30.05, SAMPLE_RATE_HZ))) == MAX_SAMPLES, (
        "padding of an encoder is cut off"
    )
    longer = tone(440, 31, 8_000)
    assert len(load_audio(longer, sample_rate_hz=8_000, max_s=None)) == 31 * SAMPLE_RATE_HZ
    with pytest.raises(MediaError, match="longer than 5 seconds"):
        load_audio(longer, sample_rate_hz=8_000, max_s=5)


@settings(max_examples=60, deadline=None)
@given(
    cut=st.integers(1, len(GOOD)),
    places=st.lists(st.tuples(st.integers(0, 9_999), st.integers(0, 255)), max_size=6),
)
def test_damage_gives_a_sound_or_a_media_error(cut: int, places: list[tuple[int, int]]) -> None:
    content = bytearray(GOOD[:cut])
    for place, value in places:
        content[place % len(content)] = value
    try:
        assert np.isfinite(load_audio(bytes(content))).all()
    except MediaError as error:
        assert str(error).endswith(".")


# Videos, long sounds


def test_sound_tracks() -> None:
    assert load_sound_track(silent_video()) is None
    assert load_sound_track(encoded(SILENCE, SAMPLE_RATE_HZ)) is None
    found = load_sound_track(encoded(tone(440, 0.5, SAMPLE_RATE_HZ), SAMPLE_RATE_HZ))
    assert found is not None and len(found) == SAMPLE_RATE_HZ // 2
    with pytest.raises(MediaError, match=r"longer than 0\.25 seconds"):
        load_sound_track(encoded(tone(440, 0.5, SAMPLE_RATE_HZ), SAMPLE_RATE_HZ), max_s=0.25)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 400_000), max_s=st.sampled_from([1.0, 2.5, 7.0]))
def test_pieces_are_short_and_make_the_whole(n: int, max_s: float) -> None:
    samples = np.random.RandomState(n % 100).uniform(-1, 1, n).astype(np.float32)
    pieces = cut_at_pauses(samples, max_s=max_s)
    np.testing.assert_array_equal(np.concatenate([piece.samples for piece in pieces]), samples)
    assert all(len(piece.samples) <= max_s * SAMPLE_RATE_HZ for piece in pieces)
    assert all(len(piece.samples) >= MIN_SAMPLES for piece in pieces) or n < MIN_SAMPLES
    starts = [piece.start_s for piece in pieces]
    assert starts == pytest.approx([0.0, *(piece.end_s for piece in pieces[:-1])])


def test_cuts_fall_into_pauses() -> None:
    samples = tone(440, 70, SAMPLE_RATE_HZ)
    pauses = [(24.0, 24.4), (47.0, 47.5)]
    for begin, end in pauses:
        samples[int(begin * SAMPLE_RATE_HZ) : int(end * SAMPLE_RATE_HZ)] *= 1e-3
    pieces = cut_at_pauses(samples)
    assert len(pieces) == 3
    for piece, (begin, end) in zip(pieces[1:], pauses, strict=True):
        assert begin <= piece.start_s <= end
    with pytest.raises(MediaError, match="max_s"):
        cut_at_pauses(samples, max_s=31)


# The conformer's front end


@pytest.mark.parametrize("milliseconds", cases.AUDIO_MS)
def test_tokens_are_counted_as_transformers_makes_them(milliseconds: int) -> None:
    with np.load(parity.REFERENCES / "audio_e2b.npz") as recorded:
        assert count_tokens(len(sweep(milliseconds))) == len(recorded[f"{milliseconds}ms"])


def test_counts_at_the_edges() -> None:
    assert [count_frames(n) for n in (0, 160, 161, 320, 321, 480_000)] == [0, 0, 1, 1, 2, 2999]
    assert [count_tokens(n) for n in (160, 161, 961, 16_000, 480_000)] == [0, 1, 2, 25, 750]


def log_mel(samples: np.ndarray) -> np.ndarray:
    return np.log(mel_energies(samples) + FLOOR).astype(np.float32)


def test_log_mel() -> None:
    quiet = log_mel(np.zeros(SAMPLE_RATE_HZ, np.float32))
    assert quiet.shape == (count_frames(SAMPLE_RATE_HZ), 128) and quiet.dtype == np.float32
    np.testing.assert_allclose(quiet, np.log(FLOOR), rtol=1e-6)
    # HTK mels: 1000 Hz is 1000 mel, the top 2840; 128 bands between 129 equal steps.
    peaks = log_mel(tone(1000, 1, SAMPLE_RATE_HZ)).argmax(axis=1)
    assert set(peaks[2:]) <= {44, 45}
    # A frame hears what lies around it and nothing else.
    click = np.zeros(SAMPLE_RATE_HZ, np.float32)
    click[50 * HOP] = 0.5
    heard = np.nonzero((log_mel(click) > np.log(FLOOR) + 1e-3).any(axis=1))[0]
    assert list(heard) == [50]
