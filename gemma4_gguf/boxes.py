"""Boxes that a model writes as JSON: read them, scale them to the picture, draw them.

Gemma writes {"box_2d": [ymin, xmin, ymax, xmax], "label": "..."} in thousandths of the picture, from its
top left corner:
https://docs.cloud.google.com/vertex-ai/generative-ai/docs/bounding-box-detection
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image as PILImage

SCALE = 1000  # the model's units across a picture

_OBJECT = re.compile(r"\{[^{}]*\}")
_CORNERS = re.compile(r'"box_2d"\s*:\s*\[([^\]]*)\]')
_LABEL = re.compile(r'"label"\s*:\s*("(?:[^"\\]|\\.)*")')
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")

_PALETTE = ("#0b6e99", "#ad1a72", "#0f7b6c", "#d9730d", "#6940a5", "#64473a")


@dataclass(frozen=True)
class Box:
    """A labelled box in pixels of the picture as given; (x0, y0) is its top left corner.

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


def read_boxes(text: str, size: tuple[int, int]) -> list[Box]:
    """Read the boxes out of a reply.

    Read leniently, since a model writes them freely: inside a fence or between sentences, with leading zeros,
    swapped corners or fractions, the last one cut off. Edges outside the picture are moved to its border.

    Args:
        text: the reply.
        size: width and height of the picture, pixels.

    Returns:
        The boxes in the order written; what has no four numbers is left out.
    """
    width, height = size
    boxes = []
    for item in _OBJECT.findall(text):
        corners, label = _CORNERS.search(item), _LABEL.search(item)
        numbers = [float(n) for n in _NUMBER.findall(corners[1])] if corners else []
        if len(numbers) != 4:
            continue
        y0, x0, y1, x1 = (min(max(n, 0.0), SCALE) / SCALE for n in numbers)
        (x0, x1), (y0, y1) = sorted((x0, x1)), sorted((y0, y1))
        name = json.loads(label[1], strict=False) if label else ""
        boxes.append(Box(name, x0 * width, y0 * height, x1 * width, y1 * height))
    return boxes


def draw_boxes(image: PILImage.Image, boxes: Sequence[Box]) -> PILImage.Image:
    """Draw boxes with their labels; equal labels get the same colour.

    Args:
        image: the picture; it is not changed.
        boxes: in its pixels.

    Returns:
        An RGB copy of the same size.
    """
    from PIL import ImageDraw, ImageFont

    drawn = image.convert("RGB")
    draw = ImageDraw.Draw(drawn)
    longest = max(drawn.size)
    line = max(2, longest // 200)
    font = ImageFont.load_default(size=max(11, longest // 36))
    labels = list(dict.fromkeys(box.label for box in boxes))
    for box in boxes:
        colour = _PALETTE[labels.index(box.label) % len(_PALETTE)]
        draw.rectangle((box.x0, box.y0, box.x1, box.y1), outline=colour, width=line)
        if not box.label:
            continue
        left, top, right, bottom = font.getbbox(box.label)
        tall, wide = bottom + line * 2, right - left + line * 4
        # Above the box; inside it where the picture ends.
        x = max(0.0, min(box.x0, drawn.width - wide))
        y = box.y0 - tall if box.y0 >= tall else box.y0
        draw.rectangle((x, y, x + wide, y + tall), fill=colour)
        draw.text((x + line * 2 - left, y + line - top / 2), box.label, fill="white", font=font)
    return drawn
