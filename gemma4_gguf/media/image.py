"""Picture preparation: any picture → the pixels that Gemma 4 sees and llama.cpp leaves alone.

The size follows transformers exactly (5.23, models/gemma4/image_processing_pil_gemma4.py): the picture is
scaled to fill its budget of soft tokens, each side is cut down to a multiple of 48 pixels, and it is
stretched to that with Pillow's bicubic filter.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gemma4_gguf.errors import MediaError
from gemma4_gguf.media.decode import name_of
from gemma4_gguf.media.picture import read_colours
from gemma4_gguf.types import DEFAULT_IMAGE_TOKENS, IMAGE_TOKEN_BUDGETS, ImageTokens

if TYPE_CHECKING:
    from PIL import Image as PILImage

TOKEN_PX = 48  # 16-pixel patches, pooled 3 by 3


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
        source: as for `read_image`.
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
    picture = read_colours(source)
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
    pixels = np.ascontiguousarray(np.asarray(picture.convert("RGB")))
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


def _bicubic() -> PILImage.Resampling:
    from PIL import Image

    return Image.Resampling.BICUBIC
