"""Pictures: what a person sees, in the model's own shape; everything else is refused in words."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_samples import Tensor, picture
from PIL import Image, ImageCms

from gemma4_gguf.errors import MediaError
from gemma4_gguf.media import picture as reading
from gemma4_gguf.media.image import TOKEN_PX, prepare_image, smallest_budget
from gemma4_gguf.media.picture import read_image

# Six coloured fields, so that every turn and mirror gives another picture.
CORNERS = np.array(
    [[(255, 0, 0), (0, 255, 0), (0, 0, 255)], [(255, 255, 0), (0, 255, 255), (90, 90, 90)]], np.uint8
)
FIELDS = np.ascontiguousarray(CORNERS.repeat(16, axis=0).repeat(16, axis=1))  # [32, 48, 3]


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(header: bytes, rows: bytes) -> bytes:
    """A PNG of these parts."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def fields_of(source: Any) -> list[tuple[int, ...]]:
    """Colours of the six fields, read at their middles."""
    image = read_image(source)
    assert image.mode == "RGB"
    width, height = image.size
    places = [
        (x, y) for y in (height // 4, 3 * height // 4) for x in (width // 6, width // 2, 5 * width // 6)
    ]
    return [image.getpixel(place) for place in places]


EXPECTED = [tuple(int(v) for v in colour) for row in CORNERS for colour in row]


# The model's own shape


@pytest.mark.parametrize("budget", [70, 140, 280, 560, 1120])
@pytest.mark.parametrize("size", [(517, 333), (190, 611), (1, 1), (1080, 720)])
def test_pixels_are_pillows_bicubic_at_a_multiple_of_48(size: tuple[int, int], budget: int) -> None:
    pixels = picture(*size)
    prepared = prepare_image(pixels, budget)
    height, width = prepared.pixels.shape[:2]
    assert (width % TOKEN_PX, height % TOKEN_PX) == (0, 0)
    assert prepared.n_tokens == width * height // TOKEN_PX**2 <= budget
    assert prepared.original_size == size
    assert prepared.pixels.dtype == np.uint8 and prepared.pixels.flags.c_contiguous
    expected = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(prepared.pixels, np.asarray(expected))
    # One more row or column of tokens would not fit, or would leave the shape further.
    scale = (budget * TOKEN_PX**2 / (size[0] * size[1])) ** 0.5
    assert 0 <= size[0] * scale - width < TOKEN_PX and 0 <= size[1] * scale - height < TOKEN_PX


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16"])
def test_grey_is_scaled_as_colours_are(mode: str) -> None:
    """Kept grey until it is small, with the same result."""
    grey = Image.fromarray(picture(310, 220)[..., 0])
    given = Image.fromarray(np.asarray(grey, np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    np.testing.assert_array_equal(
        prepare_image(given, 70).pixels, prepare_image(read_image(given), 70).pixels
    )
    assert read_image(given).mode == "RGB"


@pytest.mark.parametrize("mode", ["I", "F"])
@pytest.mark.parametrize("factor", [1, 257], ids=["8 bits", "16 bits"])
def test_deep_grey_shows_what_was_put_into_it(mode: str, factor: int) -> None:
    """Also where it holds no more than a byte, as `convert` makes it."""
    shades = picture(310, 220)[..., 0]
    given = Image.fromarray(shades.astype(np.int32 if mode == "I" else np.float32) * factor)
    assert given.mode == mode
    np.testing.assert_array_equal(np.asarray(read_image(given))[..., 0], shades)


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    pixels = picture(480, 336)
    np.testing.assert_array_equal(prepare_image(pixels, 70).pixels, pixels)


def test_every_kind_of_source_gives_the_same_picture(tmp_path: Path) -> None:
    image = Image.fromarray(picture(100, 80))
    path = tmp_path / "grün 图.png"
    image.save(path)
    sources = [str(path), path, path.read_bytes(), image, np.asarray(image)]
    assert len({prepare_image(source, 70).digest for source in sources}) == 1


def test_digests_tell_pictures_and_budgets_apart() -> None:
    flat = np.zeros((96, 96, 3), np.uint8)
    other = flat.copy()
    other[0, 0, 0] = 255
    # Black pictures of two shapes have equal bytes at 2 x 3 and 3 x 2 tokens.
    shapes = [flat, other, np.zeros((96, 144, 3), np.uint8), np.zeros((144, 96, 3), np.uint8)]
    digests = [prepare_image(pixels, budget).digest for pixels in shapes for budget in (70, 140)]
    assert len(set(digests)) == len(digests)


def test_the_token_size_is_a_parameter() -> None:
    prepared = prepare_image(picture(300, 200), 70, token_px=28)
    assert prepared.pixels.shape[0] % 28 == prepared.pixels.shape[1] % 28 == 0
    assert prepared.n_tokens == prepared.pixels.size // 3 // 28**2


@pytest.mark.parametrize(
    ("size", "budget"),
    [((100, 80), 70), ((384, 384), 70), ((640, 480), 280), ((1584, 1584), 1120), ((4000, 3000), 1120)],
)
def test_smallest_budget_that_does_not_shrink(size: tuple[int, int], budget: int) -> None:
    assert smallest_budget(*size) == budget


# As a person sees it


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_camera_orientation(orientation: int, kind: str) -> None:
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(FIELDS)
    if orientation in turns:
        stored = stored.transpose(turns[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(stored, kind, exif=exif)
    found = np.array(fields_of(content), int)
    assert np.abs(found - np.array(EXPECTED)).max() <= (6 if kind == "JPEG" else 0)
    assert prepare_image(content, 70).original_size == (48, 32)


def make_cmyk() -> bytes:
    return encoded(Image.fromarray(FIELDS).convert("CMYK"), "TIFF")


def make_16_bit() -> bytes:
    grey = np.array([[0, 13107, 26214], [39321, 52428, 65535]], np.uint16).repeat(16, 0).repeat(16, 1)
    return encoded(Image.fromarray(grey))


def make_palette() -> bytes:
    return encoded(Image.fromarray(FIELDS).quantize(8), "PNG")


def make_animation(kind: str) -> Callable[[], bytes]:
    frames = [Image.fromarray(FIELDS), Image.new("RGB", (48, 32), "white")]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    return lambda: encoded(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)


def make_floats() -> bytes:
    return encoded(Image.fromarray(FIELDS[..., 0].astype(np.float32) / 255), "TIFF")


def make_cmyk_jpeg() -> bytes:
    """Inverted, as Adobe writes it and Pillow does too."""
    return encoded(Image.fromarray(FIELDS).convert("CMYK"), "JPEG", quality=100, subsampling=0)


def make_cmyk_with_a_profile_of_screens() -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return encoded(Image.fromarray(FIELDS).convert("CMYK"), "TIFF", icc_profile=profile)


def make_deep(*, alpha: int | None = None) -> bytes:
    """A PNG of 16 bits a channel, which Pillow does not write."""
    deep = FIELDS.astype(">u2") * 257
    if alpha is not None:
        deep = np.dstack([deep, np.full((32, 48), alpha, ">u2")])
    header = struct.pack(">IIBBBBB", 48, 32, 16, 2 if alpha is None else 6, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    return png(header, rows)


GREYS = [(v, v, v) for v in (0, 51, 102, 153, 204, 255)]
SEEN = {
    "cmyk": (make_cmyk, EXPECTED),
    "cmyk, a profile that does not fit": (make_cmyk_with_a_profile_of_screens, EXPECTED),
    "cmyk jpeg": (make_cmyk_jpeg, EXPECTED),
    "16 bit": (make_16_bit, GREYS),
    "16 bits of colour": (make_deep, EXPECTED),
    "16 bits of colour, nothing shows": (lambda: make_deep(alpha=0), [(255, 255, 255)] * 6),
    "palette": (make_palette, EXPECTED),
    "gif": (make_animation("GIF"), EXPECTED),
    "webp": (make_animation("WEBP"), EXPECTED),
    "apng": (make_animation("PNG"), EXPECTED),
    "floats": (make_floats, [(c[0],) * 3 for c in EXPECTED]),
    "one bit": (
        lambda: encoded(Image.fromarray(FIELDS[..., 1] > 128)),
        [(c[1] // 200 * 255,) * 3 for c in EXPECTED],
    ),
}


@pytest.mark.parametrize("name", SEEN)
def test_kinds_of_pictures(name: str) -> None:
    make, expected = SEEN[name]
    found = np.array(fields_of(make()), int)
    assert np.abs(found - np.array(expected)).max() <= (6 if "jpeg" in name else 0)


def rgba(alpha: int) -> Image.Image:
    image = Image.fromarray(FIELDS).convert("RGBA")
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize("alpha", [0, 128, 255])
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparent_pictures_stand_on_white(alpha: int, kind: str) -> None:
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    for source in (encoded(rgba(alpha), kind, **options), rgba(alpha), np.asarray(rgba(alpha))):
        found = np.array(fields_of(source), int)
        expected = np.round(255 + (np.array(EXPECTED, int) - 255) * (alpha / 255))
        assert np.abs(found - expected).max() <= 1


def test_transparent_colours_of_palettes_and_keys_stand_on_white() -> None:
    palette = Image.fromarray(FIELDS).quantize(8)
    red = palette.getpixel((0, 0))
    for content in (
        encoded(palette, "GIF", transparency=red),
        encoded(palette, "PNG", transparency=red),
        encoded(Image.fromarray(FIELDS), "PNG", transparency=(255, 0, 0)),
        encoded(Image.merge("LA", [Image.new("L", (48, 32), 0), Image.new("L", (48, 32), 0)])),
    ):
        assert fields_of(content)[0] == (255, 255, 255)


def test_what_would_vanish_on_white_stands_on_black() -> None:
    """White ink on nothing: a logo, a scan of one bit whose black is transparent."""
    drawn = np.zeros((32, 48), np.uint8)
    drawn[8:20, 10:30] = 255
    ink = Image.fromarray(drawn)
    white = Image.new("L", ink.size, 255)
    for content in (
        encoded(ink.convert("1"), transparency=0),
        encoded(ink, transparency=0),
        encoded(Image.merge("LA", [white, ink])),
        encoded(Image.merge("RGBA", [white, white, white, ink])),
    ):
        np.testing.assert_array_equal(np.asarray(read_image(content))[..., 0], drawn)
    faint = Image.merge("LA", [white, white])
    assert read_image(faint).getextrema() == ((255, 255),) * 3, "white paper stays white"


ARRAYS: dict[str, Callable[[], Any]] = {
    "bool": lambda: FIELDS[..., 0] > 128,
    "a mask of numbers": lambda: (FIELDS[..., 0] > 128).astype(np.uint8),
    "a mask of large numbers": lambda: (FIELDS[..., 0] > 128).astype(np.int64),
    "one channel": lambda: FIELDS[..., :1],
    "floats": lambda: FIELDS / 255,
    "half floats": lambda: (FIELDS / 255).astype(np.float16),
    "16 bits": lambda: FIELDS.astype(np.uint16) * 257,
    "16 bits, the other way round": lambda: (FIELDS.astype(np.uint16) * 257).astype(">u2"),
    "large integers": lambda: FIELDS.astype(np.int64),
    "a view": lambda: np.asfortranarray(FIELDS)[::-1, ::-1][::-1, ::-1],
    "a tensor": lambda: Tensor(FIELDS),
    "read only": lambda: np.frombuffer(FIELDS.tobytes(), np.uint8).reshape(FIELDS.shape),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(name: str) -> None:
    grey = name in ("bool", "a mask of numbers", "a mask of large numbers", "one channel")
    first = np.round(CORNERS[..., 0] / 255) * 255 if "mask" in name or name == "bool" else CORNERS[..., 0]
    expected = [(v, v, v) for v in first.reshape(-1)] if grey else EXPECTED
    assert fields_of(ARRAYS[name]()) == expected


def test_deep_grey_is_the_same_in_every_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.RandomState(0)
    for values in (
        rng.randint(0, 65536, (33, 7)).astype(np.uint16),
        rng.randint(0, 100_000, (33, 7)).astype(np.int32),
        rng.uniform(0, 1, (33, 7)).astype(np.float32),
        rng.uniform(0, 200, (33, 7)).astype(np.float32),
    ):
        whole = read_image(Image.fromarray(values))
        full = {"u": 65535.0, "i": float(values.max()), "f": 1.0 if values.max() <= 1 else 255.0}[
            values.dtype.kind
        ]
        expected = np.round(values / np.float64(full) * 255)
        np.testing.assert_array_equal(np.asarray(whole)[..., 0], expected)
        with monkeypatch.context() as patched:
            patched.setattr(reading, "_STRIP_PIXELS", 20)
            np.testing.assert_array_equal(np.asarray(read_image(Image.fromarray(values))), np.asarray(whole))


def exif_of(*tags: bytes, count: int | None = None) -> bytes:
    """EXIF that turns a picture by 90 degrees, with more tags after that."""
    turned = struct.pack("<HHII", 0x0112, 3, 1, 6)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count or 1 + len(tags)) + turned + b"".join(tags) + bytes(4)


EXIFS = {
    "a place outside": (exif_of(struct.pack("<HHII", 0x011A, 5, 1, 0x7FFFFFFF)), True),
    "nothing over nothing": (
        exif_of(struct.pack("<HHII", 0x9204, 10, 1, 38)) + struct.pack("<ii", -1, 0),
        True,
    ),
    "a byte that is a number": (exif_of(struct.pack("<HHII", 0x0005, 1, 1, 0)), True),
    "cut off": (exif_of(count=65_535), True),
    "rubbish": (b"\xff" * 40, False),
}


@pytest.mark.parametrize("name", EXIFS)
def test_damaged_exif_does_not_stop_a_picture(name: str) -> None:
    """Tags that Pillow reads but cannot write again, and worse: its issues 4238, 7340, 7839, 8965."""
    exif, turned = EXIFS[name]
    found = read_image(encoded(Image.fromarray(FIELDS), "JPEG", exif=b"Exif\0\0" + exif))
    assert found.size == ((32, 48) if turned else (48, 32))


def test_a_turned_picture_is_turned_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    once = read_image(encoded(Image.fromarray(FIELDS), exif=exif))
    assert once.size == (32, 48)
    assert read_image(once).size == read_image(encoded(once)).size == (32, 48)


def test_cmyk_with_a_profile_that_is_damaged() -> None:
    content = encoded(Image.fromarray(FIELDS).convert("CMYK"), "TIFF", icc_profile=b"no profile" * 20)
    assert fields_of(content) == EXPECTED


# Refusals


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be huge."""
    return png(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"\0" * 100)


REFUSED: dict[str, tuple[Any, str]] = {
    "missing": ("no/such/picture.png", "does not exist"),
    "name too long": ("a" * 5000, "cannot be read"),
    "null character": ("a\0b", "cannot be read"),
    "directory": (Path("."), "directory"),
    "no bytes": (b"", "no bytes"),
    "text": (b"<html>not found</html>", "no picture that can be read.*web page"),
    "cut off": (encoded(Image.fromarray(picture(200, 200)))[:3000], "damaged"),
    "cut off jpeg": (encoded(Image.fromarray(picture(200, 200)), "JPEG")[:2000], "damaged"),
    "zero size": (Image.new("RGB", (0, 5)), "nothing to see"),
    "zero array": (np.zeros((0, 4, 3), np.uint8), "nothing to see"),
    "bomb": (bomb(60_000, 60_000), "too large"),
    "short bomb": (bomb(2_000, 2_000), "damaged"),
    "line": (np.zeros((2, 9000, 3), np.uint8), "Crop it"),
    "upright line": (np.zeros((9000, 2), np.uint8), "Crop it"),
    "floats of a larger range": (np.full((4, 4, 3), 200.0, np.float32), "from 200 to 200; expected uint8"),
    "negative": (np.full((4, 4, 3), -1), "expected uint8"),
    "no numbers": (np.full((4, 4), np.nan), "expected uint8"),
    "objects": (np.full((4, 4), "x", object), "expected uint8"),
    "two channels": (np.zeros((4, 4, 2), np.uint8), "expected uint8"),
    "channels first": (np.zeros((3, 40, 60), np.uint8), "expected uint8.*Transpose"),
    "number": (7, "cannot be int"),
    "nothing": (None, "cannot be NoneType"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_pictures_are_refused_in_words(name: str) -> None:
    source, words = REFUSED[name]
    with pytest.raises(MediaError, match=words):
        prepare_image(source)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "empty.png"
    path.touch()
    with pytest.raises(MediaError, match=r"empty\.png is empty"):
        prepare_image(path)


def test_auto_is_the_smallest_budget_that_does_not_shrink() -> None:
    for size in ((48, 48), (600, 400), (1200, 900), (4000, 100)):
        pixels = picture(*size)
        expected = prepare_image(pixels, smallest_budget(*size))
        assert prepare_image(pixels, "auto").digest == expected.digest
    assert smallest_budget(4000, 4000, max_side_tokens=20) == 280
    assert prepare_image(picture(900, 900), "auto", max_side_tokens=12).n_tokens == 121


@pytest.mark.parametrize("budget", [0, -1, 71, 2240, 280.5, "280", "most", None])
def test_unknown_budgets_list_the_known(budget: Any) -> None:
    with pytest.raises(MediaError, match="70, 140, 280, 560, 1120"):
        prepare_image(FIELDS, budget)


SOURCES = [
    encoded(Image.fromarray(FIELDS)),
    encoded(Image.fromarray(FIELDS).quantize(8), "GIF"),
    encoded(Image.fromarray(FIELDS), "JPEG"),
    encoded(Image.fromarray(FIELDS), "WEBP"),
    encoded(Image.fromarray(FIELDS), "TIFF"),
    encoded(Image.fromarray(FIELDS), "BMP"),
]


@settings(max_examples=150, deadline=None)
@given(
    source=st.sampled_from(SOURCES),
    cut=st.integers(0, 10_000),
    places=st.lists(st.tuples(st.integers(0, 9_999), st.integers(0, 255)), max_size=6),
)
def test_damage_gives_a_picture_or_a_media_error(
    source: bytes, cut: int, places: list[tuple[int, int]]
) -> None:
    content = bytearray(source[: max(1, cut)])
    for place, value in places:
        content[place % len(content)] = value
    try:
        assert read_image(bytes(content)).mode == "RGB"
    except MediaError as error:
        assert str(error).endswith(".")
