"""Pictures with known content: coloured shapes, drawn buttons with captions, printed words, moving shapes.

Everything is drawn with Pillow from a ``random.Random``, so a seed gives the same pictures everywhere; the
embedded font of Pillow is the only one the evaluation uses, while training also takes DejaVu where it is
installed. Coordinates are those of the native box format: integers 0-1000, ``[ymin, xmin, ymax, xmax]``.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nano.words import CAPTIONS, COLOURS, SHAPES
from PIL import Image, ImageDraw, ImageFont

FONT_DIRECTORIES = (Path("/usr/share/fonts/truetype/dejavu"),)
GRID = 1000  # a box coordinate is a thousandth of the side


@dataclass(frozen=True)
class Item:
    """One object of a scene; ``box`` is ``(ymin, xmin, ymax, xmax)`` in thousandths."""

    kind: str
    colour: str
    box: tuple[int, int, int, int]
    caption: str = ""

    @property
    def label(self) -> str:
        """``red circle``, or ``blue button Save``."""
        return f"{self.colour} {self.kind}" + (f" {self.caption}" if self.caption else "")

    @property
    def centre(self) -> tuple[int, int]:
        """``(y, x)`` in thousandths."""
        ymin, xmin, ymax, xmax = self.box
        return (ymin + ymax) // 2, (xmin + xmax) // 2


@dataclass(frozen=True)
class Line:
    """A printed line: its text, top and bottom, and the left edge of every letter and the last right one.

    All as shares of the picture's sides, 0 to 1.
    """

    text: str
    top: float
    bottom: float
    edges: tuple[float, ...]

    def shares(self, width: int, height: int) -> Line:
        """The same, from pixels."""
        return Line(self.text, self.top / height, self.bottom / height, tuple(x / width for x in self.edges))


@dataclass(frozen=True)
class Scene:
    """A picture (uint8 ``[height, width, 3]``), its objects from top to bottom, and what is printed in it."""

    picture: np.ndarray
    items: tuple[Item, ...]
    lines: tuple[Line, ...] = ()


@functools.cache
def font_files(extra: bool) -> tuple[str, ...]:
    """Font files to draw with; ``""`` is Pillow's own."""
    found = []
    if extra:
        names = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf")
        found = [
            str(folder / name) for folder in FONT_DIRECTORIES for name in names if (folder / name).is_file()
        ]
    return ("",) * 4 + tuple(found)


@functools.lru_cache(maxsize=512)
def font(file: str, size: int) -> ImageFont.FreeTypeFont:
    """A font of a size in pixels."""
    if file:
        return ImageFont.truetype(file, size)
    loaded = ImageFont.load_default(size)
    if not isinstance(loaded, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow has no FreeType support; install a Pillow wheel that has")
    return loaded


@functools.cache
def _noise() -> np.ndarray:
    """A sheet of noise that pictures take a random piece of (drawing it anew is slow)."""
    return np.random.default_rng(7).normal(0.0, 1.0, (1600, 1600, 3)).astype(np.float32)


def _jitter(rng: random.Random, colour: Sequence[int], amount: int) -> tuple[int, int, int]:
    red, green, blue = (max(0, min(255, value + rng.randint(-amount, amount))) for value in colour)
    return red, green, blue


def ground_colour(rng: random.Random) -> tuple[int, int, int]:
    """A light ground, now and then a dark one."""
    if rng.random() < 0.15:
        return _jitter(rng, (30, 30, 34), 20)
    base = rng.randint(205, 255)
    return _jitter(rng, (base, base, base), 14)


def picture_size(rng: random.Random) -> tuple[int, int]:
    """Width and height in pixels; mostly such that budget 70 needs no resizing."""
    draw = rng.random()
    if draw < 0.45:
        return 384, 384
    if draw < 0.7:
        return rng.choice([(480, 336), (336, 480), (432, 336), (336, 432), (528, 288), (432, 384)])
    width = rng.randint(160, 800)
    height = round(width * rng.choice([0.6, 0.75, 0.8, 1.0, 1.0, 1.25, 1.5]))
    return width, height


def _outline(kind: str, x0: float, y0: float, x1: float, y1: float) -> list[tuple[float, float]]:
    if kind == "triangle":
        return [((x0 + x1) / 2, y0), (x1, y1), (x0, y1)]
    points = []
    for corner in range(10):  # a star that touches the four sides of its box
        radius = 1.0 if corner % 2 == 0 else 0.45
        angle = -math.pi / 2 + corner * math.pi / 5
        points.append((radius * math.cos(angle), radius * math.sin(angle)))
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    scale_x, scale_y = (x1 - x0) / (max(xs) - min(xs)), (y1 - y0) / (max(ys) - min(ys))
    return [(x0 + (x - min(xs)) * scale_x, y0 + (y - min(ys)) * scale_y) for x, y in points]


def draw_shape(
    draw: ImageDraw.ImageDraw, kind: str, box: tuple[float, float, float, float], fill: tuple[int, int, int]
) -> None:
    """Draws one shape into ``(x0, y0, x1, y1)`` in pixels."""
    if kind == "circle":
        draw.ellipse(box, fill=fill)
    elif kind == "square":
        draw.rectangle(box, fill=fill)
    else:
        draw.polygon(_outline(kind, *box), fill=fill)


def _ink_on(fill: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black on what is light, white on what is dark."""
    light = 0.3 * fill[0] + 0.59 * fill[1] + 0.11 * fill[2] > 150
    return (20, 20, 20) if light else (255, 255, 255)


def _draw_button(
    draw: ImageDraw.ImageDraw,
    box: tuple[float, float, float, float],
    fill: tuple[int, int, int],
    caption: str,
    file: str,
) -> Line:
    """Draws it; the line is in pixels."""
    x0, y0, x1, y1 = box
    draw.rounded_rectangle(box, radius=(y1 - y0) * 0.25, fill=fill)
    ink = _ink_on(fill)
    size = max(8, int((y1 - y0) * 0.62))
    while size > 8 and font(file, size).getlength(caption) > (x1 - x0) * 0.86:
        size -= 1
    used, middle = font(file, size), ((x0 + x1) / 2, (y0 + y1) / 2)
    draw.text(middle, caption, font=used, fill=ink, anchor="mm")
    left, top, _, bottom = used.getbbox(caption, anchor="mm")
    edges = tuple(middle[0] + left + used.getlength(caption[:n]) for n in range(len(caption) + 1))
    return Line(caption, middle[1] + top, middle[1] + bottom, edges)


def _place(
    rng: random.Random,
    width: int,
    height: int,
    wide: float,
    high: float,
    taken: list[tuple[int, int, int, int]],
) -> tuple[int, int, int, int] | None:
    """A free box in thousandths ``(ymin, xmin, ymax, xmax)``, clear of the others and of their top edges."""
    for _ in range(30):
        x0 = rng.uniform(6, width - wide - 6)
        y0 = rng.uniform(6, height - high - 6)
        box = (
            round(y0 / height * GRID),
            round(x0 / width * GRID),
            round((y0 + high) / height * GRID),
            round((x0 + wide) / width * GRID),
        )
        clear = all(
            (
                box[2] + 15 < other[0]
                or other[2] + 15 < box[0]
                or box[3] + 15 < other[1]
                or other[3] + 15 < box[1]
            )
            and abs(box[0] - other[0]) > 40  # the order from top to bottom is never in doubt
            for other in taken
        )
        if clear:
            return box
    return None


def finish(rng: random.Random, picture: Image.Image) -> np.ndarray:
    """Adds a little noise and returns uint8 ``[height, width, 3]``."""
    pixels = np.asarray(picture)
    if rng.random() < 0.5:
        return pixels
    sheet = _noise()
    height, width = pixels.shape[:2]
    y, x = rng.randrange(1600 - height), rng.randrange(1600 - width)
    noise = sheet[y : y + height, x : x + width] * rng.uniform(1.0, 8.0)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def scene(
    rng: random.Random, n_items: int | None = None, buttons: float = 0.35, extra_fonts: bool = True
) -> Scene:
    """A picture of 1-4 shapes and buttons that do not touch.

    Args:
        rng: where every choice comes from.
        n_items: how many objects; random when None.
        buttons: chance of each object being a button.
        extra_fonts: whether fonts beside Pillow's own may be used.

    Returns:
        The picture and its objects, top to bottom; no two carry the same label.
    """
    width, height = picture_size(rng)
    picture = Image.new("RGB", (width, height), ground_colour(rng))
    draw = ImageDraw.Draw(picture)
    wanted = n_items or rng.choice([1, 1, 2, 2, 2, 3, 3, 4])
    side = min(width, height)
    items: list[Item] = []
    lines: list[Line] = []
    for _ in range(wanted * 3):
        if len(items) == wanted:
            break
        is_button = rng.random() < buttons
        kind = "button" if is_button else rng.choice(SHAPES)
        colour = rng.choice(tuple(COLOURS))
        if any((item.kind, item.colour) == (kind, colour) for item in items):
            continue
        scale = rng.uniform(0.16, 0.38 if wanted > 2 else 0.5) * side
        wide, high = (scale * rng.uniform(1.6, 2.2) * 0.8, scale * 0.62) if is_button else (scale, scale)
        if is_button:
            wide, high = max(wide, 0.3 * side), max(high, 0.13 * side)
        box = _place(rng, width, height, wide, high, [item.box for item in items])
        if box is None:
            continue
        corners = (
            box[1] * width / GRID,
            box[0] * height / GRID,
            box[3] * width / GRID,
            box[2] * height / GRID,
        )
        fill = _jitter(rng, COLOURS[colour], 16)
        caption = ""
        if is_button:
            captions = [item.caption for item in items]
            caption = rng.choice([word for word in CAPTIONS if word not in captions])
            line = _draw_button(draw, corners, fill, caption, rng.choice(font_files(extra_fonts)))
            lines.append(line.shares(width, height))
        else:
            draw_shape(draw, kind, corners, fill)
        items.append(Item(kind, colour, box, caption))
    return Scene(finish(rng, picture), tuple(sorted(items, key=lambda item: item.box)), tuple(lines))


def printed(rng: random.Random, text: str, extra_fonts: bool = True) -> tuple[np.ndarray, Line]:
    """A picture of one printed word or number.

    Returns:
        uint8 ``[height, width, 3]``, and where each letter is.
    """
    width, height = picture_size(rng)
    ground = ground_colour(rng)
    picture = Image.new("RGB", (width, height), ground)
    draw = ImageDraw.Draw(picture)
    file = rng.choice(font_files(extra_fonts))
    size = int(min(width, height) * rng.uniform(0.13, 0.3))
    while size > 10 and font(file, size).getlength(text) > width * 0.9:
        size -= 2
    used = font(file, size)
    wide, high = used.getlength(text), size * 1.2
    x, y = rng.uniform(4, max(5, width - wide - 4)), rng.uniform(4, max(5, height - high - 4))
    dark_ground = sum(ground) < 380
    ink = _jitter(rng, (235, 235, 235) if dark_ground else (25, 25, 25), 20)
    if rng.random() < 0.3:  # a coloured plate behind it
        colour = COLOURS[rng.choice(tuple(COLOURS))]
        fill = _jitter(rng, colour, 16)
        draw.rounded_rectangle((x - 8, y - 4, x + wide + 8, y + high + 4), radius=8, fill=fill)
        ink = _ink_on(fill)
    draw.text((x, y), text, font=used, fill=ink, stroke_width=1 if rng.random() < 0.3 else 0)
    return finish(rng, picture), _line_at(x, y, text, used).shares(width, height)


def _line_at(x: float, y: float, text: str, used: ImageFont.FreeTypeFont) -> Line:
    """Where the letters of a text drawn at a place are, in pixels."""
    _, top, _, bottom = used.getbbox(text)
    edges = tuple(x + used.getlength(text[:n]) for n in range(len(text) + 1))
    return Line(text, y + top, y + bottom, edges)


def page(rng: random.Random, word: Callable[[random.Random], str]) -> Scene:
    """A picture full of printed words, for eyes that learn to read."""
    width, height = picture_size(rng)
    ground = ground_colour(rng)
    picture = Image.new("RGB", (width, height), ground)
    draw = ImageDraw.Draw(picture)
    lines, y = [], rng.uniform(2, 0.1 * height)
    while True:
        size = int(min(width, height) * rng.uniform(0.1, 0.28))
        if size < 8 or y + size * 1.25 > height:
            break
        used, x = font(rng.choice(font_files(True)), size), rng.uniform(3, 0.2 * width)
        while x + used.getlength(text := word(rng)) < width - 3:
            ink = _jitter(rng, (235, 235, 235) if sum(ground) < 380 else (25, 25, 25), 20)
            if rng.random() < 0.3:
                fill = _jitter(rng, COLOURS[rng.choice(tuple(COLOURS))], 16)
                wide = used.getlength(text)
                draw.rounded_rectangle((x - 4, y - 1, x + wide + 4, y + size * 1.2), radius=6, fill=fill)
                ink = (
                    (20, 20, 20) if 0.3 * fill[0] + 0.59 * fill[1] + 0.11 * fill[2] > 150 else (255, 255, 255)
                )
            draw.text((x, y), text, font=used, fill=ink)
            lines.append(_line_at(x, y, text, used).shares(width, height))
            x += used.getlength(text) + size * rng.uniform(0.5, 1.5)
        y += size * rng.uniform(1.25, 1.8)
    return Scene(finish(rng, picture), (), tuple(lines))


@dataclass(frozen=True)
class Clip:
    """Frames (uint8 ``[height, width, 3]``), the second of each, what moved (``""`` if nothing) and where.

    ``centres`` holds ``(y, x)`` in thousandths of every object in every frame.
    """

    frames: list[np.ndarray]
    seconds: list[float]
    items: tuple[tuple[str, str], ...]  # (kind, colour)
    moved: str
    direction: str
    centres: list[list[tuple[int, int]]]


def clip(rng: random.Random, still: float = 0.0) -> Clip:
    """A clip of one or two shapes of which one moves straight, or (a fifth of them, and ``still``) none."""
    width, height = rng.choice([(384, 384), (384, 384), (480, 336), (240, 240), (320, 240)])
    ground = ground_colour(rng)
    n_frames = rng.choice([3, 4, 4, 5])
    interval = rng.choice([0.5, 1.0, 1.0, 2.0])
    direction = rng.choice(["left", "right", "up", "down", "still"])
    if still and rng.random() < still:
        direction = "still"
    pairs = rng.sample([(kind, colour) for kind in SHAPES for colour in COLOURS], rng.choice([1, 2, 2]))
    side = min(width, height)
    size = rng.uniform(0.2, 0.32) * side
    step_x, step_y = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}.get(direction, (0, 0))
    travel = rng.uniform(0.3, 0.5) * (width if step_x else height)
    fills = [_jitter(rng, COLOURS[colour], 12) for _, colour in pairs]
    # The mover has one half of the picture to itself, across its line of travel, so that nothing overlaps.
    half = rng.randrange(2)

    def start(lane: int, room: float) -> tuple[float, float]:
        if step_x or (not step_y and width >= height):
            low, high = (4, height / 2 - size - 4) if lane == 0 else (height / 2 + 4, height - size - 4)
            x = rng.uniform(4, width - size - room - 4)
            return (x + room if step_x < 0 else x), rng.uniform(low, max(low + 1, high))
        low, high = (4, width / 2 - size - 4) if lane == 0 else (width / 2 + 4, width - size - 4)
        y = rng.uniform(4, height - size - room - 4)
        return rng.uniform(low, max(low + 1, high)), (y + room if step_y < 0 else y)

    room = 0.0 if direction == "still" else travel
    places = [start(half, room)] + [start(1 - half, 0.0) for _ in pairs[1:]]
    frames, centres = [], []
    for index in range(n_frames):
        picture = Image.new("RGB", (width, height), ground)
        draw = ImageDraw.Draw(picture)
        here = []
        for number, ((kind, _), (x, y), fill) in enumerate(zip(pairs, places, fills, strict=True)):
            gone = travel * index / (n_frames - 1) if number == 0 else 0.0
            left, top = x + step_x * gone, y + step_y * gone
            draw_shape(draw, kind, (left, top, left + size, top + size), fill)
            middle = ((top + size / 2) / height, (left + size / 2) / width)
            here.append((round(middle[0] * GRID), round(middle[1] * GRID)))
        frames.append(finish(rng, picture))
        centres.append(here)
    moved = "" if direction == "still" else f"{pairs[0][1]} {pairs[0][0]}"
    seconds = [interval * index for index in range(n_frames)]
    return Clip(frames, seconds, tuple(pairs), moved, direction, centres)
