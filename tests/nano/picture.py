"""From a picture to the patches of the vision tower, as transformers' Gemma 4 image processor makes them.

Reference: transformers 5.23, ``image_processing_pil_gemma4.py`` (a test compares the two). Kept in numpy and
Pillow so that worker processes need neither torch nor the processor's overhead.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

PATCH = 16
POOL = 3
SIDE = PATCH * POOL  # one soft token covers 48 x 48 pixels


def target_size(height: int, width: int, image_tokens: int) -> tuple[int, int]:
    """Height and width in pixels that fill the budget, aspect kept, each a multiple of 48."""
    factor = math.sqrt(image_tokens * SIDE * SIDE / (height * width))
    high = int(factor * height // SIDE) * SIDE
    wide = int(factor * width // SIDE) * SIDE
    if high == 0:
        return SIDE, min(width // height, image_tokens) * SIDE
    if wide == 0:
        return min(height // width, image_tokens) * SIDE, SIDE
    return high, wide


def patches(picture: np.ndarray, image_tokens: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Cuts a picture into patches.

    Args:
        picture: uint8 ``[height, width, 3]``.
        image_tokens: budget of soft tokens.

    Returns:
        Patches uint8 ``[n_patches, 768]``, positions int16 ``[n_patches, 2]`` as (x, y), and the number of
        soft tokens.
    """
    high, wide = target_size(picture.shape[0], picture.shape[1], image_tokens)
    if picture.shape[:2] != (high, wide):
        picture = np.asarray(Image.fromarray(picture).resize((wide, high), Image.Resampling.BICUBIC))
    rows, columns = high // PATCH, wide // PATCH
    cut = picture.reshape(rows, PATCH, columns, PATCH, 3).transpose(0, 2, 1, 3, 4)
    y, x = np.divmod(np.arange(rows * columns), columns)
    positions = np.stack([x, y], axis=1).astype(np.int16)
    return np.ascontiguousarray(cut).reshape(rows * columns, -1), positions, rows * columns // (POOL * POOL)
