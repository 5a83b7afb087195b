"""Damaged pictures, sounds and clips: headers that lie, bytes turned, pieces missing or twice."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import heif
import numpy as np
from clips import clip
from media_samples import PICTURE_FORMATS, picture, sweep, wav
from PIL import Image
from sounds import encoded

from gemma4_gguf.media.audio import load_audio, load_pieces, load_sound_track
from gemma4_gguf.media.image import prepare_image
from gemma4_gguf.media.kinds import kind_of_file
from gemma4_gguf.media.video import sample_frames

COUNT = 1000
HEAD = 200  # where most of what a file claims stands
# Numbers that a header may claim, of 2, 4 and 8 bytes in both orders.
CLAIMS = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 100_000, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
SOUNDS = (
    ("wav", "pcm_f32le", 16_000),
    ("wav", "adpcm_ms", 16_000),
    ("flac", "flac", 44_100),
    ("mp3", "libmp3lame", 44_100),
    ("ogg", "libopus", 48_000),
    ("mp4", "aac", 44_100),
    ("webm", "libopus", 48_000),
    ("matroska", "flac", 32_000),
    ("adts", "aac", 16_000),
    ("aiff", "pcm_s16be", 16_000),
    ("caf", "pcm_s16le", 16_000),
    ("au", "pcm_s16be", 16_000),
)
CLIPS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("mp4", "libx264", {"bf": "2"}),
    ("mov", "libx264", {}),
    ("matroska", "libx264", {}),
    ("webm", "libvpx-vp9", {}),
    ("mpegts", "libx264", {}),
    ("avi", "mpeg4", {}),
    ("flv", "libx264", {}),
    ("ivf", "libvpx", {}),
    ("mpeg", "mpeg2video", {"bf": "0"}),
    ("h264", "libx264", {}),
    ("nut", "mpeg4", {}),
)


def prepare(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Whole files by name, each with its kind."""
    whole: dict[str, tuple[bytes, str]] = {}
    scene = Image.fromarray(picture(90, 60))
    for form in (*PICTURE_FORMATS, "TGA", "JPEG2000"):
        whole[form] = (_saved(scene, form), "image")
    whole["PSD"] = (_psd(), "image")
    deep = Image.fromarray(picture(90, 60)[..., 0].astype(np.uint16) * 257)
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16", "CMYK"):
        turned = deep if mode == "I;16" else scene.convert(mode)
        whole[f"{mode} as TIFF"] = (_saved(turned, "TIFF", compression="tiff_lzw"), "image")
        if mode != "CMYK":
            whole[f"{mode} as PNG"] = (_saved(turned, "PNG"), "image")
    whole["heic"] = (heif.encoded(scene), "image")
    whole["heic of tiles"] = (heif.tiled(scene, turns=1), "image")
    whole["avif"] = (_saved(scene, "AVIF"), "image")
    other = scene.transpose(Image.Transpose.ROTATE_180)
    for form in ("GIF", "WEBP", "PNG", "AVIF"):
        whole[f"{form} that moves"] = (
            _saved(scene, form, save_all=True, append_images=[other, scene]),
            "video",
        )
    whole["wav"] = (wav(sweep(800)), "audio")
    for container, codec, rate in SOUNDS:
        whole[f"{codec} in {container}"] = (encoded(sweep(800), rate, container, codec), "audio")
    for container, codec, options in CLIPS:
        sound = container in ("mp4", "mov", "matroska", "mpegts")
        whole[f"{codec} in {container}, a clip"] = (
            clip(12, 25, container=container, codec=codec, sound=sound, **options),
            "video",
        )
    return whole


def attempt(case: int, shared: dict[str, tuple[bytes, str]], folder: Path) -> str:
    chance = random.Random(case)
    name = sorted(shared)[case % len(shared)]
    whole, kind = shared[name]
    content = bytearray(whole)
    for _ in range(chance.choice((1, 1, 2, 4, 12))):
        chance.choice(DAMAGES)(content, chance)
    if chance.random() < 0.7:
        _mend_sums(content)
    path = folder / "file"
    path.write_bytes(content or b"\0")
    return f"{kind}: {READERS[kind](path)}, {kind_of_file(path)}"


def _see(path: Path) -> str:
    prepare_image(path)
    return "seen"


def _hear(path: Path) -> str:
    samples = load_audio(path)
    assert np.isfinite(samples).all()
    for _ in load_pieces(path):
        pass
    return "heard"


def _watch(path: Path) -> str:
    found = sample_frames(path, frames=6)
    times = [frame.time_s for frame in found]
    assert times == sorted(times) and times[0] >= 0
    track = load_sound_track(path)
    assert track is None or np.isfinite(track).all()
    return "watched"


READERS: dict[str, Callable[[Path], str]] = {"image": _see, "audio": _hear, "video": _watch}


def _place(content: bytearray, chance: random.Random, room: int = 1) -> int:
    end = len(content) if chance.random() < 0.4 else min(HEAD, len(content))
    return chance.randrange(max(1, end - room + 1))


def _turn_bits(content: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 8, 60))):
        if content:
            content[_place(content, chance)] ^= 1 << chance.randrange(8)


def _claim(content: bytearray, chance: random.Random) -> None:
    form = chance.choice("HIQ")
    size = struct.calcsize(form)
    at = _place(content, chance, size)
    number = chance.choice(CLAIMS) & (1 << 8 * size) - 1
    content[at : at + size] = struct.pack(chance.choice("<>") + form, number)


def _cut(content: bytearray, chance: random.Random) -> None:
    del content[chance.randrange(len(content) + 1) :]


def _take_out(content: bytearray, chance: random.Random) -> None:
    at = _place(content, chance)
    del content[at : at + chance.choice((1, 4, 40, 400))]


def _repeat(content: bytearray, chance: random.Random) -> None:
    at = _place(content, chance)
    content[at:at] = content[at : at + chance.choice((4, 40, 400))] * chance.choice((1, 3, 50))


def _blank(content: bytearray, chance: random.Random) -> None:
    at, size = _place(content, chance), chance.choice((4, 40, 400))
    content[at : at + size] = bytes([chance.choice((0, 255))]) * len(content[at : at + size])


DAMAGES: tuple[Callable[[bytearray, random.Random], Any], ...] = (
    _turn_bits,
    _claim,
    _claim,
    _claim,
    _cut,
    _take_out,
    _repeat,
    _blank,
)


def _mend_sums(content: bytearray) -> None:
    """Right checksums for a PNG, so that the damage behind them is reached."""
    if content[:4] != b"\x89PNG":
        return
    at = 8
    while at + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, at)
        if at + 12 + size > len(content):
            return
        struct.pack_into(">I", content, at + 8 + size, zlib.crc32(content[at + 4 : at + 8 + size]))
        at += 12 + size


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def _psd() -> bytes:
    """A document of one layer, as Photoshop saves it flat."""
    pixels = picture(90, 60)
    head = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, 60, 90, 8, 3) + bytes(12) + b"\0\0"
    return head + b"".join(pixels[..., channel].tobytes() for channel in range(3))
