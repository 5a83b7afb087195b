"""What a file is: told by what it holds, whatever its name says, and what to do with what is no medium."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import heif
import numpy as np
import pytest
from clips import clip
from media_samples import PICTURE_FORMATS, sweep, wav
from PIL import Image as PILImage
from PIL import features
from sounds import encoded

from gemma4_gguf.errors import Gemma4Error, MediaError, MessageError
from gemma4_gguf.media.audio import load_audio
from gemma4_gguf.media.kinds import kind_of_file
from gemma4_gguf.media.picture import read_image
from gemma4_gguf.media.signatures import picture_formats
from gemma4_gguf.media.video import sample_frames
from gemma4_gguf.prompt.messages import user_message
from gemma4_gguf.types import MODALITIES, Audio, Image, Video

COLOURS = np.array(
    [[(255, 0, 0), (0, 255, 0), (0, 0, 255)], [(255, 255, 0), (0, 255, 255), (90, 90, 90)]], np.uint8
)
SCENE = PILImage.fromarray(np.ascontiguousarray(COLOURS.repeat(64, axis=0).repeat(64, axis=1)))


def saved(kind: str, picture: PILImage.Image = SCENE, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def moving(kind: str) -> bytes:
    other = PILImage.new("RGB", SCENE.size, "white")
    return saved(kind, save_all=True, append_images=[other], duration=200)


def sound_in(container: str, codec: str, **options: object) -> Callable[[], bytes]:
    return lambda: encoded(sweep(600), 48_000, container, codec, **options)


def with_cover(sound: bytes) -> bytes:
    """An MP3 with a picture in its tags."""
    picture = b"\0image/png\0\x03\0" + saved("PNG")
    frame = b"APIC" + struct.pack(">IH", len(picture), 0) + picture
    size = bytes((len(frame) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + size + frame + sound


def rebranded(content: bytes, brand: bytes) -> bytes:
    return content[:8] + brand + content[12:]


PICTURES: dict[str, Callable[[], bytes]] = {
    **{
        kind: lambda kind=kind: saved(kind)  # type: ignore[misc]
        for kind in PICTURE_FORMATS
    },
    "JPEG 2000": lambda: saved("JPEG2000"),
    "JPEG 2000, bare": lambda: saved("JPEG2000", no_jp2=True),
    "one bit, PBM": lambda: saved("PPM", SCENE.convert("1")),
    "one bit, XBM": lambda: saved("XBM", SCENE.convert("1")),
    "heic": lambda: heif.encoded(SCENE),
    "heic, tiles": lambda: heif.tiled(SCENE),
    **{
        f"heic, brand {brand}": lambda brand=brand: heif.tiled(SCENE, brand=brand.encode())  # type: ignore[misc]
        for brand in ("heix", "mif1", "msf1", "hevc", "mp42")
    },
}
if features.check("avif"):
    PICTURES |= {
        "avif": lambda: saved("AVIF"),
        "avif, brand mif1": lambda: rebranded(saved("AVIF"), b"mif1"),
    }
SOUNDS: dict[str, Callable[[], bytes]] = {
    "wav": lambda: wav(sweep(300)),
    "mp3": sound_in("mp3", "libmp3lame"),
    "mp3, a cover": lambda: with_cover(sound_in("mp3", "libmp3lame")()),
    "aac": sound_in("adts", "aac"),
    "flac": sound_in("flac", "flac"),
    "opus": sound_in("ogg", "libopus"),
    "aiff": sound_in("aiff", "pcm_s16be"),
    "caf": sound_in("caf", "pcm_s16le"),
    "m4a": sound_in("ipod", "aac"),
    "mp4": sound_in("mp4", "aac"),
    "mov": sound_in("mov", "aac"),
    "webm": sound_in("webm", "libopus"),
    "matroska": sound_in("matroska", "flac"),
    "avi": sound_in("avi", "pcm_s16le"),
    "wma": sound_in("asf", "wmav2", bit_rate=64_000),
    "transport stream": sound_in("mpegts", "aac"),
    "flv": sound_in("flv", "aac"),
}
CLIPS: dict[str, Callable[[], bytes]] = {
    **{
        kind: lambda kind=kind: clip(3, 5, container=kind)  # type: ignore[misc]
        for kind in ("mp4", "mov", "matroska", "mpegts", "flv", "3gp")
    },
    "with sound": lambda: clip(3, 5, sound=True),
    "webm": lambda: clip(3, 5, container="webm", codec="libvpx-vp9"),
    "avi": lambda: clip(3, 5, container="avi", codec="mpeg4"),
    "mpeg": lambda: clip(3, 25, container="mpeg", codec="mpeg2video", bf="0"),
    "h264": lambda: clip(3, 5, container="h264"),
    "gif that moves": lambda: moving("GIF"),
    "webp that moves": lambda: moving("WEBP"),
    "png that moves": lambda: moving("PNG"),
}
CONTENTS = {
    "image": PICTURES,
    "audio": SOUNDS,
    "video": CLIPS,
}


@pytest.mark.parametrize(
    ("kind", "content"), [(kind, name) for kind, contents in CONTENTS.items() for name in contents]
)
def test_a_file_is_what_it_holds(kind: str, content: str, tmp_path: Path) -> None:
    data = CONTENTS[kind][content]()
    for name in ("file", "file.jpg", "FILE.MP4", "file.Wav", "file.heic", "file.txt"):
        path = tmp_path / name
        path.write_bytes(data)
        (part,) = user_message([path])["content"]
        assert part["type"] == kind, name
        assert part[kind] == MODALITIES[kind].type(path)
        path.unlink()
    if kind == "image":
        assert np.abs(fields(read_image(data)) - fields(SCENE)).max() <= (255 if "one bit" in content else 40)
        with pytest.raises(MediaError, match="pass it as Image"):
            load_audio(data)
    elif kind == "audio":
        assert len(load_audio(data)) > 0
        with pytest.raises(MediaError, match=r"only audio|pass it as Audio"):
            sample_frames(data)
        with pytest.raises(MediaError, match="pass it as"):
            read_image(data)
    else:
        assert len(sample_frames(data)) == (2 if "moves" in content else 3)


def fields(picture: PILImage.Image) -> np.ndarray:
    """Colours of its six fields, int [6, 3]."""
    width, height = picture.size
    places = [(x * width // 6, y * height // 4) for y in (1, 3) for x in (1, 3, 5)]
    return np.array([picture.getpixel(place) for place in places], int)


@pytest.mark.parametrize("suffix", [s for m in MODALITIES.values() for s in m.suffixes])
def test_names_tell_where_content_does_not(suffix: str, tmp_path: Path) -> None:
    (kind,) = [m.kind for m in MODALITIES.values() if suffix in m.suffixes]
    for name in (f"file{suffix}", f"FILE{suffix.upper()}"):
        assert kind_of_file(tmp_path / name) == kind, "there is no such file; who reads it will say so"
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"\x81\x82 nothing that is known")
    assert kind_of_file(path) == kind


def test_every_suffix_of_pillow_is_known() -> None:
    PILImage.init()
    known = set(MODALITIES["image"].suffixes)
    read = {s for s, kind in PILImage.registered_extensions().items() if kind in picture_formats()}
    assert read <= known


def test_tga_by_its_name(tmp_path: Path) -> None:
    """It has no mark."""
    path = tmp_path / "PICTURE.TGA"
    path.write_bytes(saved("TGA"))
    (part,) = user_message([path])["content"]
    assert part == {"type": "image", "image": Image(path)}
    np.testing.assert_array_equal(np.asarray(read_image(path)), np.asarray(SCENE))


@pytest.mark.parametrize(("turns", "mirrored"), [(0, False), (1, False), (2, False), (3, False), (1, True)])
def test_pictures_of_phones_are_whole_and_turned_once(turns: int, mirrored: bool) -> None:
    """Made of tiles, turned by the container, and once more in EXIF, which must not count then."""
    expected = SCENE.rotate(90 * turns, expand=True)
    if mirrored:
        expected = expected.transpose(PILImage.Transpose.FLIP_LEFT_RIGHT)
    found = read_image(heif.tiled(SCENE, turns=turns, mirrored=mirrored))
    assert found.size == expected.size
    assert np.abs(np.asarray(found, int) - np.asarray(expected, int)).mean() < 8
    assert np.array_equal(np.asarray(read_image(found)), np.asarray(found)), "read again, it stays as it is"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_heic(orientation: int) -> None:
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    content = heif.encoded(SCENE, exif=exif.tobytes())
    expected = read_image(saved("PNG", exif=exif))
    found = read_image(content)
    assert found.size == expected.size
    assert np.abs(fields(found) - fields(expected)).max() <= 12


def test_heic_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MediaError, match="pip install pillow-heif"):
        read_image(heif.encoded(SCENE))


def test_deep_heic() -> None:
    """10 bits a channel, as newer phones save."""
    import pillow_heif

    stream = io.BytesIO()
    deep = np.asarray(SCENE, np.uint16) * 257
    pillow_heif.from_bytes("RGB;16", SCENE.size, deep.tobytes()).save(stream, quality=95)
    assert np.abs(fields(read_image(stream.getvalue())) - fields(SCENE)).max() <= 12


OTHERS = {
    "pdf": (b"%PDF-1.7\n", "is a PDF"),
    "svg": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG drawing"),
    "svg, bare": (b"\xef\xbb\xbf <svg/>", "SVG drawing"),
    "html": (b"<!DOCTYPE html><html>404</html>", "web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "zip": (b"PK\x03\x04" + bytes(40), "ZIP"),
    "gzip": (b"\x1f\x8b\x08" + bytes(40), "gzip"),
    "midi": (b"MThd\0\0\0\x06" + bytes(20), "MIDI"),
    "array": (b"\x93NUMPY\x01\0", "np.load"),
    "playlist": (b"#EXTM3U\n", "playlist"),
    "jpeg xl": (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    "canon raw": (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "raw camera file"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_medium_is_named(name: str, tmp_path: Path) -> None:
    content, words = OTHERS[name]
    for reader in (read_image, load_audio, sample_frames):
        with pytest.raises(MediaError, match=words):
            reader(content)
    path = tmp_path / "file"
    path.write_bytes(content)
    if name != "canon raw":
        with pytest.raises(MessageError, match=words):
            user_message([path])


def test_wrong_wrappers_say_what_it_is() -> None:
    with pytest.raises(MediaError, match="pass it as Video or Audio"):
        read_image(clip(3, 5))
    with pytest.raises(MediaError, match="pass it as Image"):
        load_audio(saved("PNG"))
    with pytest.raises(MediaError, match=r"does not move\. Pass it as Image"):
        sample_frames(saved("JPEG"))
    with pytest.raises(MediaError, match="no pictures, only audio"):
        sample_frames(with_cover(SOUNDS["mp3"]()))


def test_pages() -> None:
    pages = [SCENE, PILImage.new("RGB", SCENE.size, "white")]
    document = saved("TIFF", pages[0], save_all=True, append_images=pages[1:])
    with pytest.raises(MediaError, match="several pages"):
        read_image(document)
    with PILImage.open(io.BytesIO(document)) as opened:
        opened.seek(1)
        assert read_image(opened).getpixel((0, 0)) == (255, 255, 255), "the page that is open"
        opened.seek(0)
        assert read_image(opened).getpixel((0, 0)) == (255, 0, 0)


def test_a_preview_is_no_picture() -> None:
    """As raw files of cameras keep one before the data."""
    preview = saved("TIFF", SCENE.resize((12, 8)), tiffinfo={254: 1}, save_all=True, append_images=[SCENE])
    with pytest.raises(MediaError, match="raw camera file"):
        read_image(preview)


@pytest.mark.parametrize("name", ["missing.bin", "directory"])
def test_files_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(MessageError, match="cannot be read"):
        user_message([tmp_path / name])


def test_types_are_exported() -> None:
    assert {m.type for m in MODALITIES.values()} == {Image, Audio, Video}
    assert issubclass(MediaError, Gemma4Error)
