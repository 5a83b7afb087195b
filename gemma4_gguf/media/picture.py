"""Pictures: any file that Pillow reads, an array or a PIL image, as a person sees it.

Large ones are converted a strip of rows at a time, so that no step needs more than the picture and its
result.
"""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gemma4_gguf.errors import MediaError
from gemma4_gguf.media.decode import as_array, name_of, open_source
from gemma4_gguf.media.signatures import CAMERA_RAW, HEAD_BYTES, is_heif, picture_formats, what_else

if TYPE_CHECKING:
    from PIL import Image as PILImage

MAX_PIXELS = 178_956_970  # where Pillow itself gives up: a 200-megapixel file, or a bomb

_STRIP_PIXELS = 1 << 22
_ORIENTATION = 0x0112  # of EXIF
_SUBFILE, _SUBDIRECTORIES = 254, 330  # tags of TIFF: what a page is for, and pages below this one
_REDUCED, _MASK = 1, 4
# Pillow's readers let these out of damaged files.
_FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    AttributeError,
    struct.error,
)


def read_image(source: str | Path | bytes | PILImage.Image | np.ndarray) -> PILImage.Image:
    """Reads a picture as a person sees it.

    Turned as its camera says, on white where it is transparent (as transformers puts it; on black if nothing
    of it would show on white), the first frame of an animation, 16-bit grey scaled to 8 bits, CMYK through
    its colour profile. One that breaks off is refused, not shown in part.

    Args:
        source: a path, encoded bytes, a PIL image (its current frame), or an array or tensor [height, width]
            or [height, width, 1, 3 or 4]: integers from 0 to 255, uint16 over its whole range, floats from 0
            to 1, or bool.

    Returns:
        A PIL image of mode RGB.

    Raises:
        MediaError: the picture is missing, damaged, empty or huge, or has several pages.
    """
    seen = read_colours(source)
    return seen if seen.mode == "RGB" else seen.convert("RGB")


def read_colours(source: str | Path | bytes | PILImage.Image | np.ndarray) -> PILImage.Image:
    """Reads a picture as `read_image` does, but leaves one without colours grey: a quarter of the memory.

    Args:
        source: as for `read_image`.

    Returns:
        A PIL image of mode RGB or L.

    Raises:
        MediaError: as for `read_image`.
    """
    from PIL import Image

    name = name_of(source, "picture")
    if isinstance(source, Image.Image):
        with _faults_of(name):
            return as_seen(source, name)
    if hasattr(source, "__array__"):
        with _faults_of(name):
            return as_seen(_from_array(source), name)
    with open_picture(source) as picture:
        _check_pages(picture, name)
        return as_seen(picture, name)


@contextlib.contextmanager
def open_picture(source: str | Path | bytes) -> Iterator[PILImage.Image]:
    """Opens a file with Pillow, or HEIF with pillow-heif.

    Args:
        source: a path or encoded bytes.

    Yields:
        A PIL image whose pixels are not decoded yet. Faults of Pillow inside the block become MediaError.

    Raises:
        MediaError: there is no such file, or it is no picture.
    """
    from PIL import Image

    name = name_of(source, "picture")
    with open_source(source, "picture") as stream, _faults_of(name):
        head = stream.read(HEAD_BYTES)
        stream.seek(0)
        try:
            yield _heif(stream, name) if is_heif(head) else Image.open(stream, formats=picture_formats())
        except Image.UnidentifiedImageError as error:
            found = what_else(head, "picture")
            raise MediaError(
                f"{name} is no picture that can be read{f': {found}' if found else ''}. Use PNG, JPEG, HEIC, "
                "WebP, AVIF, GIF, TIFF or BMP."
            ) from error


def as_seen(picture: PILImage.Image, name: str) -> PILImage.Image:
    """Turns a picture as its camera says, and brings it to 8 bits a colour.

    Args:
        picture: of any mode, its pixels decoded or not.
        name: for messages.

    Returns:
        A PIL image of mode RGB, or L if it has no colours.

    Raises:
        MediaError: it is empty or huge.
    """
    _check_size(picture, name)
    picture.load()
    seen = _to_8_bits(_turned(picture))
    # What says how to turn it must not be there when it is read again.
    seen.info = {key: value for key, value in seen.info.items() if key == "icc_profile"}
    return seen


def _to_8_bits(picture: PILImage.Image) -> PILImage.Image:
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return _from_deep_grey(picture)
    bands = picture.getbands()
    if "A" in bands or "a" in bands or picture.info.get("transparency") is not None:
        return _without_transparency(picture)
    if picture.mode == "CMYK" and picture.info.get("icc_profile"):
        return _through_profile(picture)
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


@contextlib.contextmanager
def _faults_of(name: str) -> Iterator[None]:
    """What Pillow raises, in words."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about what is judged here: size, truncation
            yield
    except Image.DecompressionBombError as error:
        raise _too_large(name, str(error)) from error
    except MemoryError as error:
        raise _too_large(name, "it does not fit into memory") from error
    except _FAULTS as error:
        raise MediaError(f"{name} is damaged: {error}. Save or download the picture again.") from error


def _heif(stream: Any, name: str) -> PILImage.Image:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise MediaError(
            f"{name} is a HEIC picture, which needs pillow-heif. Run `pip install pillow-heif`, or save it "
            "as JPEG."
        ) from error
    return HeifImageFile(stream)


def _check_size(picture: PILImage.Image, name: str) -> None:
    width, height = picture.size
    if width < 1 or height < 1:
        raise MediaError(
            f"{name} is {width} by {height} pixels: there is nothing to see. Pass another picture."
        )
    if width * height > MAX_PIXELS:
        raise _too_large(name, f"{width} by {height} pixels")


def _too_large(name: str, why: str) -> MediaError:
    return MediaError(
        f"{name} is too large: {why}; at most {MAX_PIXELS:,} pixels are decoded. Scale it down first: the "
        "model sees 2.6 million at best."
    )


def _check_pages(picture: PILImage.Image, name: str) -> None:
    """A TIFF may be a document, or wrap a camera's raw data behind a preview of the size of a stamp."""
    if picture.format != "TIFF":
        return
    n_pages = getattr(picture, "n_frames", 1)
    if _purpose(picture) & _REDUCED and (n_pages > 1 or _SUBDIRECTORIES in _tags(picture)):
        raise MediaError(f"{name} cannot be shown: {CAMERA_RAW}.")
    for page in range(1, n_pages):
        picture.seek(page)
        if not _purpose(picture) & (_REDUCED | _MASK):
            raise MediaError(
                f"{name} has several pages, and a picture is one. Open it with PIL.Image.open, and pass a "
                "copy() of each page after seek(page)."
            )
    picture.seek(0)


def _tags(picture: PILImage.Image) -> Any:
    return getattr(picture, "tag_v2", {})


def _purpose(picture: PILImage.Image) -> int:
    value = _tags(picture).get(_SUBFILE, 0)
    return value if isinstance(value, int) else 0


def _turned(picture: PILImage.Image) -> PILImage.Image:
    """What ImageOps.exif_transpose does, without writing EXIF again, where a damaged tag would stop it."""
    from PIL import Image

    try:
        orientation = picture.getexif().get(_ORIENTATION)
    except _FAULTS:  # a picture is not worse for what is written beside it
        return picture
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    turn = turns.get(orientation) if isinstance(orientation, int) else None
    return picture if turn is None else picture.transpose(turn)


# Colours


def _by_strips(
    picture: PILImage.Image, mode: str, convert: Callable[[PILImage.Image], PILImage.Image]
) -> PILImage.Image:
    """A picture of another mode, made a strip of rows at a time."""
    from PIL import Image

    made = Image.new(mode, picture.size)
    for top, strip in _strips(picture):
        made.paste(convert(strip), (0, top))
    return made


def _strips(picture: PILImage.Image) -> Iterator[tuple[int, PILImage.Image]]:
    n_rows = max(1, _STRIP_PIXELS // picture.width)
    for top in range(0, picture.height, n_rows):
        yield top, picture.crop((0, top, picture.width, min(picture.height, top + n_rows)))


def _without_transparency(picture: PILImage.Image) -> PILImage.Image:
    from PIL import Image

    alphas: list[tuple[int, int]] = []

    def on(colour: str) -> Callable[[PILImage.Image], PILImage.Image]:
        def convert(strip: PILImage.Image) -> PILImage.Image:
            strip = (strip.convert("LA") if strip.mode == "La" else strip).convert("RGBA")
            alphas.append(strip.getchannel("A").getextrema())  # type: ignore[arg-type]
            if alphas[-1] == (255, 255):
                return strip.convert("RGB")
            return Image.alpha_composite(Image.new("RGBA", strip.size, colour), strip).convert("RGB")

        return convert

    seen = _by_strips(picture, "RGB", on("white"))
    lowest, highest = min(low for low, _ in alphas), max(high for _, high in alphas)
    if lowest < highest and all(extrema == (255, 255) for extrema in seen.getextrema()):
        return _by_strips(picture, "RGB", on("black"))
    return seen


def _from_deep_grey(picture: PILImage.Image) -> PILImage.Image:
    """Grey of more than 8 bits: Pillow would cut it off at 255."""
    from PIL import Image

    if picture.mode.startswith("I;16"):
        shades = np.round(np.arange(65536) / 65535 * 255).astype(np.uint8)
        return _by_strips(picture, "L", lambda strip: Image.fromarray(shades[np.asarray(strip)]))

    def values_of(strip: PILImage.Image) -> np.ndarray:
        return np.nan_to_num(np.asarray(strip, np.float64), nan=0.0, posinf=0.0, neginf=0.0)

    highest = max(values_of(strip).max() for _, strip in _strips(picture))
    if picture.mode == "F":
        full = 1.0 if highest <= 1.0 else 255.0 if highest <= 255.0 else 65535.0
    else:
        full = 255.0 if highest <= 255.0 else max(65535.0, highest)

    def convert(strip: PILImage.Image) -> PILImage.Image:
        shares = np.clip(values_of(strip) / full, 0.0, 1.0)
        return Image.fromarray(np.round(shares * 255.0).astype(np.uint8))

    return _by_strips(picture, "L", convert)


def _through_profile(picture: PILImage.Image) -> PILImage.Image:
    from PIL import ImageCms

    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"]))
        seen = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, *_FAULTS):  # damaged, or of another colour space than the pixels
        seen = None
    return picture.convert("RGB") if seen is None else seen


# Arrays


def _from_array(source: Any) -> PILImage.Image:
    from PIL import Image

    pixels = as_array(source, "picture")
    shape = pixels.shape
    if pixels.ndim == 3 and shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim != 2 and not (pixels.ndim == 3 and shape[2] in (3, 4)):
        turned = pixels.ndim == 3 and shape[0] in (1, 3, 4)
        raise MediaError(
            f"The picture is an array of {pixels.dtype} {list(shape)}; expected uint8 [height, width], "
            "[height, width, 3] or [height, width, 4]." + " Transpose it: np.moveaxis(a, 0, 2)." * turned
        )
    if 0 in shape:
        raise MediaError(f"The picture has shape {list(shape)}: there is nothing to see. Pass another one.")
    return Image.fromarray(np.ascontiguousarray(_to_bytes(pixels)))


def _to_bytes(pixels: np.ndarray) -> np.ndarray:
    """Any kind of number to uint8, where its range tells what white is."""
    kind = pixels.dtype.kind
    lowest, highest = (pixels.min(), pixels.max()) if kind in "uif" else (np.nan, np.nan)
    if kind == "b" or (kind in "ui" and pixels.ndim == 2 and (lowest, highest) == (0, 1)):
        return pixels.astype(np.uint8) * np.uint8(255)  # a mask, of which nothing could be seen
    if pixels.dtype.type is np.uint16:
        return np.round(pixels / np.float32(257)).astype(np.uint8)
    if kind in "ui" and lowest >= 0 and highest <= 255:
        return pixels.astype(np.uint8)
    if kind == "f" and lowest >= 0 and highest <= 1:  # NaN is neither
        return np.round(pixels.astype(np.float32) * 255).astype(np.uint8)
    found = f" from {lowest:g} to {highest:g}" if kind in "uif" else ""
    raise MediaError(
        f"The picture is an array of {pixels.dtype}{found}; expected uint8, uint16, bool, or floats from 0 "
        "to 1. Scale it to 0 to 255 and pass it as uint8."
    )
