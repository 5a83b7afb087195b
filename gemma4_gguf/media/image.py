"""Picture preparation: any file Pillow reads → the pixels that Gemma 4 sees and llama.cpp leaves alone.

The size follows transformers exactly (5.23, models/gemma4/image_processing_pil_gemma4.py): the picture is
scaled to fill its budget of soft tokens, each side is cut down to a multiple of 48 pixels, and it is
stretched to that with Pillow's bicubic filter.
"""

from __future__ import annotations

import hashlib
import math
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gemma4_gguf.errors import MediaError
from gemma4_gguf.media.decode import name_of, open_source
from gemma4_gguf.types import DEFAULT_IMAGE_TOKENS, IMAGE_TOKEN_BUDGETS, ImageTokens

if TYPE_CHECKING:
    from PIL import Image as PILImage

TOKEN_PX = 48  # 16-pixel patches, pooled 3 by 3
MAX_PIXELS = 178_956_970  # where Pillow itself gives up: a 200-megapixel file, or a bomb

_WHITE = (255, 255, 255, 255)
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


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """A picture as the projector takes it.

    Args:
        pixels: uint8 [height, width, 3], C-contiguous; sides are multiples of the token size.
        n_tokens: soft tokens it becomes.
        original_size: (width, height) of the picture as a person sees it; boxes are in these pixels.
        digest: SHA-256 of pixels and size: equal digests give equal embeddings.
    """

    pixels: np.ndarray
    n_tokens: int
    original_size: tuple[int, int]
    digest: str


def prepare_image(
    source: str | Path | bytes | PILImage.Image | np.ndarray,
    image_tokens: ImageTokens = DEFAULT_IMAGE_TOKENS,
    *,
    token_px: int = TOKEN_PX,
    max_side_tokens: int | None = None,
) -> PreparedImage:
    """Brings a picture into the model's own shape.

    Args:
        source: a path, encoded bytes, a PIL image, or uint8 [height, width], [height, width, 3 or 4].
        image_tokens: budget of soft tokens: 70, 140, 280, 560 or 1120, or "auto", the smallest of these that
            does not shrink the picture.
        token_px: side of the square behind one soft token, from the projector.
        max_side_tokens: soft tokens along a side that "auto" keeps to, from the projector; None: no limit.

    Returns:
        Pixels to hand over as they are.

    Raises:
        MediaError: the budget is unknown, or the picture is missing, damaged, empty, huge or a mere line.
    """
    check_budget(image_tokens)
    picture = read_image(source)
    width, height = picture.size
    if image_tokens == "auto":
        image_tokens = smallest_budget(width, height, token_px=token_px, max_side_tokens=max_side_tokens)
    if min(_ideal_grid(width, height, image_tokens, token_px)) < 1:
        raise MediaError(
            f"{name_of(source, 'picture')} is {width} by {height} pixels: at {image_tokens} tokens its short "
            "side would be less than one token, and all on it distorted. Crop it into pieces, or pad it."
        )
    target = target_size(width, height, image_tokens, token_px=token_px)
    if target != picture.size:
        picture = picture.resize(target, _bicubic())
    pixels = np.ascontiguousarray(np.asarray(picture))
    n_tokens = target[0] * target[1] // token_px**2
    digest = hashlib.sha256(struct.pack("<II", *target))
    digest.update(pixels.data)
    return PreparedImage(pixels, n_tokens, (width, height), digest.hexdigest())


def check_budget(image_tokens: ImageTokens) -> None:
    """Checks that the model was trained on a budget.

    Args:
        image_tokens: soft tokens, or "auto".

    Raises:
        MediaError: it was not.
    """
    if image_tokens != "auto" and image_tokens not in IMAGE_TOKEN_BUDGETS:
        known = ", ".join(map(str, IMAGE_TOKEN_BUDGETS))
        raise MediaError(f'image_tokens={image_tokens!r} is unknown; pass one of {known}, or "auto".')


def smallest_budget(
    width: int, height: int, *, token_px: int = TOKEN_PX, max_side_tokens: int | None = None
) -> int:
    """The smallest budget that does not shrink a picture; the largest that fits if all do.

    Args:
        width: of the picture, pixels, ≥ 1.
        height: of the picture, pixels, ≥ 1.
        token_px: side of the square behind one soft token.
        max_side_tokens: soft tokens that a side may have at most.

    Returns:
        One of IMAGE_TOKEN_BUDGETS.
    """
    best = IMAGE_TOKEN_BUDGETS[0]
    for budget in IMAGE_TOKEN_BUDGETS:
        to_width, to_height = target_size(width, height, budget, token_px=token_px)
        if max_side_tokens is not None and max(to_width, to_height) > max_side_tokens * token_px:
            break
        best = budget
        if to_width >= width and to_height >= height:
            break
    return best


def target_size(width: int, height: int, image_tokens: int, *, token_px: int = TOKEN_PX) -> tuple[int, int]:
    """Size that transformers gives a picture: the largest of about its shape within the budget.

    Args:
        width: of the picture, pixels, ≥ 1.
        height: of the picture, pixels, ≥ 1.
        image_tokens: budget of soft tokens.
        token_px: side of the square behind one soft token.

    Returns:
        (width, height), multiples of token_px.
    """
    columns, rows = map(math.floor, _ideal_grid(width, height, image_tokens, token_px))
    if rows == 0:
        columns, rows = min(width // height, image_tokens), 1
    elif columns == 0:
        columns, rows = 1, min(height // width, image_tokens)
    return columns * token_px, rows * token_px


def _ideal_grid(width: int, height: int, image_tokens: int, token_px: int) -> tuple[float, float]:
    """Tokens along each side if they could be cut: (columns, rows) whose product is the budget."""
    factor = math.sqrt(image_tokens * token_px**2 / (height * width))
    return factor * width / token_px, factor * height / token_px


def read_image(source: str | Path | bytes | PILImage.Image | np.ndarray) -> PILImage.Image:
    """Reads a picture as a person sees it.

    Turned as its camera says, on white where it is transparent (as transformers puts it), the first frame of
    an animation, 16-bit grey scaled to 8 bits, CMYK through its colour profile.

    Args:
        source: as for `prepare_image`.

    Returns:
        A PIL image of mode RGB.

    Raises:
        MediaError: the picture is missing, damaged, empty or huge.
    """
    from PIL import Image

    name = name_of(source, "picture")
    try:
        if isinstance(source, np.ndarray):
            return _as_seen(_from_array(source), name)
        if isinstance(source, Image.Image):
            return _as_seen(source, name)
        with open_source(source, "picture") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about what is judged here: size, truncation
            return _as_seen(Image.open(stream), name)
    except Image.DecompressionBombError as error:
        raise _too_large(name, str(error)) from error
    except MemoryError as error:
        raise _too_large(name, "it does not fit into memory") from error
    except Image.UnidentifiedImageError as error:
        raise MediaError(
            f"{name} is no picture that Pillow knows. Use PNG, JPEG, WebP, GIF, TIFF or BMP."
        ) from error
    except _FAULTS as error:
        raise MediaError(f"{name} is damaged: {error}. Save or download the picture again.") from error


def _bicubic() -> PILImage.Resampling:
    from PIL import Image

    return Image.Resampling.BICUBIC


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
        f"{name} is too large: {why}; at most {MAX_PIXELS:,} pixels are decoded. Scale it down first: "
        f"the model sees {IMAGE_TOKEN_BUDGETS[-1] * TOKEN_PX**2:,} at best."
    )


def _from_array(pixels: np.ndarray) -> PILImage.Image:
    from PIL import Image

    shape = pixels.shape
    known = pixels.ndim == 2 or (pixels.ndim == 3 and shape[2] in (3, 4))
    if pixels.dtype != np.uint8 or not known:
        raise MediaError(
            f"The picture is an array of {pixels.dtype} {list(shape)}; expected uint8 [height, width], "
            "[height, width, 3] or [height, width, 4]."
        )
    if 0 in shape:
        raise MediaError(f"The picture has shape {list(shape)}: there is nothing to see. Pass another one.")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _as_seen(picture: PILImage.Image, name: str) -> PILImage.Image:
    from PIL import Image, ImageOps

    _check_size(picture, name)
    picture = ImageOps.exif_transpose(picture)
    bands = picture.getbands()
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return _from_deep_grey(picture).convert("RGB")
    if "A" in bands or "a" in bands or picture.info.get("transparency") is not None:
        picture = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
        ground = Image.new("RGBA", picture.size, _WHITE)
        return Image.alpha_composite(ground, picture).convert("RGB")
    if picture.mode == "CMYK" and picture.info.get("icc_profile"):
        return _through_profile(picture)
    return picture.convert("RGB")


def _from_deep_grey(picture: PILImage.Image) -> PILImage.Image:
    """Grey of more than 8 bits: Pillow would cut it off at 255."""
    from PIL import Image

    values = np.asarray(picture, np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    highest = values.max()
    if picture.mode == "F":
        full = 1.0 if highest <= 1.0 else 255.0 if highest <= 255.0 else 65535.0
    else:
        full = max(65535.0, highest)
    return Image.fromarray(np.round(np.clip(values / full, 0.0, 1.0) * 255.0).astype(np.uint8))


def _through_profile(picture: PILImage.Image) -> PILImage.Image:
    import io

    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"]))
    try:
        seen = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except ImageCms.PyCMSError:  # a profile of another colour space than the pixels
        return picture.convert("RGB")
    return picture.convert("RGB") if seen is None else seen
