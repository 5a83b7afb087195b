"""Signatures: what a file is by its first bytes, and what to do with one that is no medium at all."""

from __future__ import annotations

import functools
import struct

HEAD_BYTES = 4096

# Brands of HEIF (ISO/IEC 23008-12) and AVIF: pictures, bursts and sequences of them.
_HEIF_BRANDS = frozenset(
    b"heic heix heim heis hevc hevx hevm hevs avci avcs jpeg jpgs j2ki j2is mif1 mif2 mif3 msf1 miaf".split()
)
_AVIF_BRANDS = frozenset(b"avif avis avio".split())
# Offset and bytes of containers of sound and moving pictures, and of those that can only be sound.
_CONTAINERS = (
    (0, b"\x1aE\xdf\xa3"), (4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (4, b"wide"), (4, b"free"), (4, b"skip"),
    (8, b"AVI "), (0, b"OggS"), (0, b"FLV"), (0, b"0&\xb2u\x8ef\xcf\x11"), (0, b".RMF"), (0, b"\0\0\x01\xba"),
    (0, b"\x06\x0e+4\x02\x05\x01\x01"), (0, b"nut/multimedia"), (0, b"\0\0\x01\xb3"), (0, b"DKIF"),
    (0, b"YUV4MPEG2"), (0, b"\0\0\0\x01"), (0, b"\xb7\xd8\0 7I\xda\x11"),
)  # fmt: skip
_SOUNDS = (
    (8, b"WAVE"), (0, b"fLaC"), (0, b"ID3"), (8, b"AIFF"), (8, b"AIFC"), (8, b"8SVX"),
    (0, b"riff.\x91\xcf\x11"), (0, b"caff"), (0, b".snd"), (0, b"#!AMR"), (0, b"MAC "), (0, b"wvpk"),
    (0, b"TTA1"), (0, b"MPCK"), (0, b"MP+"), (0, b"DSD "), (0, b"NIST_1A"), (0, b"Creative Voice File"),
    (0, b"\x0bw"), (0, b"\x7f\xfe\x80\x01"), (0, b"tBaK"), (0, b"ajkg"), (0, b"qoaf"), (8, b"XWMA"),
    (8, b"QLCM"),
)  # fmt: skip
# What people pass for media, and what to do with it.
_OTHERS = (
    (b"%PDF", "it is a PDF; turn its pages into pictures first, with pypdfium2 or pdf2image"),
    (b"%!PS", "it is a PostScript program, which is not run; turn it into a PNG first"),
    (b"\xc5\xd0\xd3\xc6", "it is a PostScript program, which is not run; turn it into a PNG first"),
    (b"version https://git-lfs", "it is a pointer of Git LFS, not the file; run `git lfs pull`"),
    (b"#EXTM3U", "it is a playlist, whose addresses are not followed; pass the files that it names"),
    (b"ffconcat", "it is a list of files, which are not followed; pass the files that it names"),
    (b"[playlist]", "it is a playlist, whose addresses are not followed; pass the files that it names"),
    (b"v=0", "it is a description of a stream (SDP), which is not followed; record the stream first"),
    (b"MThd", "it is MIDI, notes without a sound; play it into a WAV file first"),
    (b"PK\x03\x04", "it is a ZIP archive or an office document; unpack it, or export its pages as pictures"),
    (b"\x1f\x8b", "it is packed with gzip; unpack it"),
    (b"7z\xbc\xaf", "it is packed with 7-Zip; unpack it"),
    (b"Rar!", "it is packed with RAR; unpack it"),
    (b"\x93NUMPY", "it is a NumPy array; pass np.load(path)"),
    (b"GGUF", "it is a model file"),
    (b"\x00\x00\x00\x0cJXL ", "it is JPEG XL, which Pillow does not read; save it as PNG or JPEG"),
    (b"\xff\n", "it is JPEG XL, which Pillow does not read; save it as PNG or JPEG"),
)  # fmt: skip
CAMERA_RAW = (
    "it is a raw camera file, of which only a small preview could be shown; develop it into a JPEG first"
)
# Pillow hands these to another program (Ghostscript, Windows), or knows their header but no pixels.
_NOT_READ = frozenset(("EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5"))
_NO_MAGIC = frozenset(("TGA", "SPIDER"))  # told by guesses about their header


def kind_of_bytes(head: bytes) -> str | None:
    """Tells what a file is by its first bytes.

    Args:
        head: HEAD_BYTES of it, or fewer if it is shorter.

    Returns:
        "image", "audio", "container" (of pictures, sound or both) or None.
    """
    if is_heif(head) or is_avif(head):
        return "image"
    if _starts(head, _SOUNDS) or _is_frame_of_sound(head):
        return "audio"
    if _starts(head, _CONTAINERS) or _is_transport_stream(head):
        return "container"
    return "image" if picture_format(head) else None


def is_heif(head: bytes) -> bool:
    """Whether a file is HEIF, but not AVIF, by its first bytes."""
    return bool(_brands(head) & _HEIF_BRANDS) and not is_avif(head)


def is_avif(head: bytes) -> bool:
    """Whether a file is AVIF by its first bytes: its own brand may be HEIF's common one."""
    return bool(_brands(head) & _AVIF_BRANDS)


def picture_format(head: bytes) -> str | None:
    """The format of a picture that Pillow would read, by its first bytes.

    Args:
        head: HEAD_BYTES of it, or fewer if it is shorter.

    Returns:
        Pillow's name, such as "PNG"; None where there is none, or none with a mark.
    """
    from PIL import Image

    for name in picture_formats():
        accept = Image.OPEN[name][1]
        try:
            # A reader that does not like what it accepts answers with words.
            if name not in _NO_MAGIC and accept is not None and accept(head) is True:
                return name
        except (LookupError, ValueError, TypeError, struct.error):  # of a plugin about a file not its own
            continue
    return None


@functools.cache
def picture_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read, its plugins' included.

    Returns:
        All of them but those that another program would have to read.
    """
    from PIL import Image

    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_READ)


def what_else(head: bytes, wanted: str) -> str | None:
    """What a file is that cannot be read as what it was given for, and what to do.

    Args:
        head: HEAD_BYTES of it, or fewer if it is shorter.
        wanted: what it was given for: "picture", "sound", "video".

    Returns:
        A clause; None where nothing is known.
    """
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for magic, words in _OTHERS:
        if text.startswith(magic) or head.startswith(magic):
            return words
    start = text[:1024].lower()
    if b"<svg" in start:
        return "it is an SVG drawing; turn it into a PNG first, with cairosvg or a browser"
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is a web page, not the file it was expected to be; download the file itself"
    if start.startswith(b"<?xml"):
        return "it is XML text"
    if b"crx " in _brands(head):
        return CAMERA_RAW
    kind = kind_of_bytes(head)
    if kind == "image" and wanted != "picture":
        return "it is a picture; pass it as Image"
    if kind == "audio" and wanted != "sound":
        return "it is a sound; pass it as Audio"
    if kind == "container" and wanted == "picture":
        return "it is a video or a sound; pass it as Video or Audio"
    return None


def _brands(head: bytes) -> set[bytes]:
    """The own and the compatible brands of an ISO base media file."""
    if head[4:8] != b"ftyp":
        return set()
    size = int.from_bytes(head[:4], "big")
    end = min(size, len(head)) if size >= 16 else 12
    return {head[8:12], *(head[i : i + 4] for i in range(16, end - 3, 4))}


def _starts(head: bytes, marks: tuple[tuple[int, bytes], ...]) -> bool:
    return any(head[offset : offset + len(mark)] == mark for offset, mark in marks)


def _is_frame_of_sound(head: bytes) -> bool:
    """A header of MPEG audio, layer II or III, or of AAC in ADTS; layer I would be a mark of UTF-16, too."""
    if len(head) < 4 or head[0] != 0xFF:
        return False
    if head[1] & 0xF6 == 0xF0:
        return True
    layer, rate = head[1] >> 1 & 3, head[2] >> 4
    return head[1] & 0xE0 == 0xE0 and layer in (1, 2) and head[1] >> 3 & 3 != 1 and rate not in (0, 15)


def _is_transport_stream(head: bytes) -> bool:
    """Packets of 188 bytes, as broadcast, or of 192, as on discs."""
    return any(
        len(head) > start + 2 * size and all(head[start + k * size] == 0x47 for k in range(3))
        for start, size in ((0, 188), (4, 192))
    )
