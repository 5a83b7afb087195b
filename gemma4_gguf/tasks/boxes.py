"""Boxes and points: read from the JSON that a model writes, scaled to the picture, drawn.

Gemma writes {"box_2d": [ymin, xmin, ymax, xmax], "label": "..."} and {"point": [y, x], "label": "..."} in
thousandths of the picture, from its top left corner:
https://docs.cloud.google.com/vertex-ai/generative-ai/docs/bounding-box-detection
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemma4_gguf.media.picture import read_image

if TYPE_CHECKING:
    from PIL import Image as PILImage

SCALE = 1000  # the model's units across a picture

_STRING = r'"(?:[^"\\]|\\.)*"'
_OBJECT = re.compile(rf'\{{(?:[^{{}}"]|{_STRING})*\}}', re.DOTALL)  # braces inside a label do not count
_BOX = re.compile(r'"b?box(?:_2d)?"\s*:\s*\[([^\]]*)\]')
_POINT = re.compile(r'"point(?:_2d)?"\s*:\s*\[([^\]]*)\]')
_LABEL = re.compile(rf'"label"\s*:\s*({_STRING})', re.DOTALL)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")

# Told apart by hue and lightness, each dark enough for white letters.
_PALETTE = (
    "#c81e3a", "#1463c9", "#0b7d3e", "#8a2be2", "#b35900", "#007a87",
    "#c2187a", "#4d6600", "#5b3fd6", "#8c4a2f", "#2f4f6f", "#a3123f",
)  # fmt: skip


@dataclass(frozen=True)
class Box:
    """A labelled box in pixels of the picture as a person sees it; (x0, y0) is its top left corner.

    Args:
        label: what the model says is there.
        x0: left edge, pixels.
        y0: top edge, pixels.
        x1: right edge, pixels.
        y1: bottom edge, pixels.
    """

    label: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Point:
    """A labelled place in pixels of the picture as a person sees it, from its top left corner.

    Args:
        label: what the model says is there.
        x: from the left, pixels.
        y: from the top, pixels.
    """

    label: str
    x: float
    y: float


def read_boxes(text: str, size: tuple[int, int]) -> list[Box]:
    """Read the boxes out of a reply.

    Read leniently, since a model writes them freely: inside a fence or between sentences, with leading zeros,
    swapped corners or fractions, the last one cut off. Edges outside the picture are moved to its border.

    Args:
        text: the reply.
        size: width and height of the picture, pixels.

    Returns:
        The boxes in the order written, each once; what has no four numbers or no area is left out.
    """
    width, height = size
    boxes: dict[Box, None] = {}
    for (y0, x0, y1, x1), label in _items(text, _BOX, 4):
        (x0, x1), (y0, y1) = sorted((x0, x1)), sorted((y0, y1))
        if x0 < x1 and y0 < y1:
            boxes[Box(label, x0 * width, y0 * height, x1 * width, y1 * height)] = None
    return list(boxes)


def read_points(text: str, size: tuple[int, int]) -> list[Point]:
    """Read the points out of a reply, as leniently as `read_boxes`; a box stands for its middle.

    Args:
        text: the reply.
        size: width and height of the picture, pixels.

    Returns:
        The points in the order written, each once.
    """
    width, height = size
    points = {Point(label, x * width, y * height): None for (y, x), label in _items(text, _POINT, 2)}
    if not points:
        for box in read_boxes(text, size):
            points[Point(box.label, (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)] = None
    return list(points)


def _items(text: str, pattern: re.Pattern[str], n: int) -> Iterator[tuple[list[float], str]]:
    """Numbers as shares of the picture, and the label, of every object that has them."""
    for item in _OBJECT.findall(text):
        found, label = pattern.search(item), _LABEL.search(item)
        numbers = [float(number) for number in _NUMBER.findall(found[1])] if found else []
        if len(numbers) == n:
            shares = [min(max(number / SCALE, 0.0), 1.0) for number in numbers]
            yield shares, _unquoted(label[1]) if label else ""


def _unquoted(string: str) -> str:
    try:
        return str(json.loads(string, strict=False))
    except ValueError:  # a backslash that begins nothing
        return string[1:-1]


def draw_boxes(image: PILImage.Image | str | Path | bytes, boxes: Sequence[Box | Point]) -> PILImage.Image:
    """Draw boxes and points with their labels; equal labels get the same colour.

    Args:
        image: the picture, as for `read_image`; it is not changed.
        boxes: in its pixels.

    Returns:
        An RGB copy, turned as a person sees it.

    Raises:
        MediaError: the picture cannot be read.
    """
    from PIL import ImageDraw, ImageFont

    drawn = read_image(image).copy()
    draw = ImageDraw.Draw(drawn)
    reach = math.sqrt(drawn.width * drawn.height)
    line = max(2, round(reach / 250))
    font = ImageFont.load_default(size=max(10, round(reach / 36)))
    labels = list(dict.fromkeys(box.label for box in boxes))
    colours = {label: _PALETTE[i % len(_PALETTE)] for i, label in enumerate(labels)}
    taken: list[tuple[float, float, float, float]] = []
    for box in boxes:  # labels come last, so that no outline crosses them
        _outline(draw, box, colours[box.label], line)
    _, top, _, bottom = font.getbbox("Ålg")  # one height for all labels
    for box in boxes:
        if box.label:
            left, _, right, _ = font.getbbox(box.label)
            wide, tall = right - left + 4 * line, bottom - top + 2 * line
            place = _label_place(drawn.size, box, (wide, tall), line, taken)
            taken.append(place)
            draw.rectangle(place, fill=colours[box.label])
            corner = (place[0] + 2 * line - left, place[1] + line - top)
            draw.text(corner, box.label, fill="white", font=font)
    return drawn


def _outline(draw: Any, box: Box | Point, colour: str, line: int) -> None:
    """In colour with a thin white rim, to stand out from any ground."""
    if isinstance(box, Point):
        for radius, fill in ((4 * line, "white"), (3 * line, colour)):
            draw.ellipse((box.x - radius, box.y - radius, box.x + radius, box.y + radius), fill=fill)
        return
    rim = max(1, line // 2)
    outer = (box.x0 - rim, box.y0 - rim, box.x1 + rim, box.y1 + rim)
    draw.rectangle(outer, outline="white", width=line + 2 * rim)
    draw.rectangle((box.x0, box.y0, box.x1, box.y1), outline=colour, width=line)


def _label_place(
    size: tuple[int, int],
    box: Box | Point,
    label: tuple[float, float],
    line: int,
    taken: list[tuple[float, float, float, float]],
) -> tuple[float, float, float, float]:
    """The first place that is free and in the picture: above the box, inside it, below it, at its foot."""
    wide, tall = label
    if isinstance(box, Point):
        x, gap = box.x - wide / 2, 5 * line
        tops = [box.y - gap - tall, box.y + gap]
    else:
        x = box.x0
        tops = [box.y0 - tall, box.y0, box.y1, box.y1 - tall]
    x = max(0.0, min(x, size[0] - 1 - wide))
    inside = [y for y in tops if 0 <= y <= size[1] - 1 - tall] or [max(0.0, min(tops[0], size[1] - 1 - tall))]
    places = [(x, y, x + wide, y + tall) for y in inside]
    free = [p for p in places if not any(_intersect(p, other) for other in taken)]
    return (free or places)[0]


def _intersect(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    """Whether two rectangles (left, top, right, bottom) have an area in common."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
