"""Boxes out of replies, and onto pictures."""

from __future__ import annotations

import pytest
from PIL import Image

from gemma4_gguf.boxes import Box, draw_boxes, read_boxes

ONE = '{"box_2d": [100, 200, 300, 400], "label": "red circle"}'
BOX = Box("red circle", 40.0, 10.0, 80.0, 30.0)  # of a picture 200 wide, 100 high


@pytest.mark.parametrize(
    "text",
    [
        f"[{ONE}]",
        ONE,
        f"Here it is:\n```json\n[\n  {ONE}\n]\n```\nAnything else?",
        ONE.replace("100", "0100").replace("200", "00200"),
        ONE.replace("100", "100.0"),
        ONE.replace("[100, 200, 300, 400]", "[300, 400, 100, 200]"),
        f'[{ONE}, {{"box_2d": [1, 2, 3',
        f'[{ONE}, {{"box_2d": [1, 2, 3], "label": "three numbers"}}]',
        '{"label": "red circle", "box_2d": [100,200,300,400]}',
    ],
)
def test_boxes_are_read_however_they_are_written(text: str) -> None:
    assert read_boxes(text, (200, 100)) == [BOX]


def test_order_labels_and_borders() -> None:
    text = '[{"box_2d": [-5, 0, 1200, 1000], "label": "a \\"b\\""}, {"box_2d": [0, 0, 10, 10]}]'
    assert read_boxes(text, (50, 60)) == [Box('a "b"', 0, 0, 50, 60), Box("", 0, 0, 0.5, 0.6)]


def test_text_without_boxes_gives_none() -> None:
    assert read_boxes("There is nothing in the picture.", (10, 10)) == []


def test_drawing_marks_edges_and_leaves_the_picture_alone() -> None:
    picture = Image.new("L", (400, 300), 255)
    drawn = draw_boxes(
        picture, [Box("below its label", 40, 100, 140, 200), Box("at the top", 350, 0, 399, 50)]
    )
    assert drawn.size == picture.size and drawn.mode == "RGB"
    assert picture.getextrema() == (255, 255)
    white = (255, 255, 255)
    assert white not in [drawn.getpixel(corner) for corner in ((40, 100), (140, 200), (399, 50))]
    assert [drawn.getpixel(place) for place in ((90, 150), (10, 290))] == [white, white]
    assert drawn.getpixel((41, 97)) == drawn.getpixel((40, 100)), "the ground of a label has its box's colour"
