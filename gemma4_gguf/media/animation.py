"""Animations: GIF, WebP, APNG and AVIF pictures that move, read with Pillow: what is shown and when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gemma4_gguf.errors import MediaError
from gemma4_gguf.media.decode import MAX_FRAME_PIXELS, name_of
from gemma4_gguf.media.picture import as_seen, open_picture

if TYPE_CHECKING:
    from PIL import Image as PILImage

Made = TypeVar("Made")

MAX_PIXELS = 2_000_000_000  # of all frames together: half a minute of decoding

# Formats whose frames follow each other in time, as pages of a TIFF and sizes of an icon do not.
_FORMATS = frozenset(("GIF", "WEBP", "PNG", "AVIF", "FLI"))
_SHORTEST_MS, _USUAL_MS = 10, 100  # as in browsers, where a delay of up to 10 ms means 100


def is_animation(source: str | Path | bytes) -> bool:
    """Whether a file is a picture that moves.

    Args:
        source: a path or the content of a file.

    Returns:
        False too for what cannot be read.
    """
    try:
        with open_picture(source) as picture:
            return _moves(picture)
    except MediaError:
        return False


def read_animation(
    source: str | Path | bytes,
    choose: Callable[[Sequence[float], float], Sequence[tuple[int, float]]],
    keep: Callable[[PILImage.Image], Made],
) -> list[tuple[int, float, Made]]:
    """Reads some frames of an animation.

    Args:
        source: a path or the content of a file.
        choose: takes when each frame is shown, in seconds from the first, and when the last one goes; gives
            number and time of those wanted, rising.
        keep: what is made of each, an RGB image.

    Returns:
        Number, time and what was made of each.

    Raises:
        MediaError: it does not move, is damaged, or huge.
    """
    name = name_of(source, "video")
    with open_picture(source) as picture:
        if not _moves(picture) and picture.format != "GIF":
            raise MediaError(f"{name} is a picture that does not move. Pass it as Image.")
        n_pixels = picture.width * picture.height
        if n_pixels > MAX_FRAME_PIXELS or n_pixels * _count(picture) > MAX_PIXELS:
            raise MediaError(
                f"{name} is too large: {_count(picture)} frames of {picture.width} by {picture.height} "
                "pixels. Scale it down, or save it as MP4."
            )
        times, end_s = _times(picture)
        made = []
        for number, time_s in choose(times, end_s):
            picture.seek(number)
            made.append((number, time_s, keep(as_seen(picture, name))))
        return made


def _moves(picture: PILImage.Image) -> bool:
    return picture.format in _FORMATS and _count(picture) > 1


def _count(picture: PILImage.Image) -> int:
    return int(getattr(picture, "n_frames", 1))


def _times(picture: PILImage.Image) -> tuple[list[float], float]:
    """When each frame is shown and when the last one goes, seconds."""
    times, now_ms = [], 0.0
    for number in range(_count(picture)):
        picture.seek(number)
        picture.load()  # some formats tell how long only then
        times.append(now_ms / 1000)
        delay = float(picture.info.get("duration") or 0)
        now_ms += delay if delay > _SHORTEST_MS else _USUAL_MS
    return times, now_ms / 1000
