"""Boxes out of replies, and onto pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gemma4_gguf.cli.files import picture_format
from gemma4_gguf.errors import MediaError, OutputError
from gemma4_gguf.tasks.boxes import Box, Point, draw_boxes, read_boxes, read_points

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
        f"[{ONE}, {ONE}]",
        f'[{ONE}, {{"box_2d": [500, 500, 500, 700], "label": "no height"}}]',
        f'[{ONE}, {{"box_2d": [1200, 0, 1300, 100], "label": "outside"}}]',
        f'{{"found": [{ONE}], "count": 1}}',
        ONE.replace("box_2d", "bbox_2d"),
    ],
)
def test_boxes_are_read_however_they_are_written(text: str) -> None:
    assert read_boxes(text, (200, 100)) == [BOX]


def test_order_labels_and_borders() -> None:
    text = '[{"box_2d": [-5, 0, 1200, 1000], "label": "a \\"b\\""}, {"box_2d": [0, 0, 10, 10]}]'
    assert read_boxes(text, (50, 60)) == [Box('a "b"', 0, 0, 50, 60), Box("", 0, 0, 0.5, 0.6)]


def test_labels_are_read_whatever_they_hold() -> None:
    labels = ["{braces}", "a, [b]", "Größe ↔ 猫", "line\nbreak", r"C:\\temp"]
    text = ", ".join(f'{{"box_2d": [0, 0, 9, {k}], "label": "{label}"}}' for k, label in enumerate(labels, 1))
    assert [box.label for box in read_boxes(text, (10, 10))] == [*labels[:3], "line\nbreak", "C:\\temp"]
    broken = read_boxes(r'{"box_2d": [0, 0, 9, 9], "label": "a\q"}', (10, 10))
    assert [box.label for box in broken] == [r"a\q"], "what is no JSON string is kept as written"


@given(st.text(st.sampled_from('{}[]",:\\ \n-.0123456789abox_2dlelpint'), max_size=80), st.booleans())
def test_any_text_gives_boxes_inside_the_picture(text: str, after_a_box: bool) -> None:
    for box in read_boxes(ONE * after_a_box + text, (200, 100)):
        assert 0 <= box.x0 < box.x1 <= 200 and 0 <= box.y0 < box.y1 <= 100
    for point in read_points(ONE * after_a_box + text, (200, 100)):
        assert 0 <= point.x <= 200 and 0 <= point.y <= 100


def test_points() -> None:
    twice = '{"point": [0250, 500.0], "label": "OK"}, {"point": [250, 500], "label": "OK"}'
    text = f'```json\n[{twice}, {{"point": [-1, 2000]}}]'
    assert read_points(text, (200, 100)) == [Point("OK", 100, 25), Point("", 200, 0)]
    assert read_points(f"[{ONE}]", (200, 100)) == [Point("red circle", 60, 20)], "the middle of a box"
    assert read_points("nowhere", (200, 100)) == []


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


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "PA", "La", "RGBX"]
)
def test_drawing_on_any_kind_of_picture(mode: str) -> None:
    for size in ((1, 1), (3, 200), (60, 40)):
        boxes = [Box("two\nlines", -5, -5, 2, 2), Box("é漢🎵" * 99, 0, 0, *size), Point("x", 0.5, 0.5)]
        drawn = draw_boxes(Image.new(mode, size), boxes)
        assert (drawn.mode, drawn.size) == ("RGB", size)


@pytest.mark.parametrize("suffix", ["", ".txt", ".xbm", ".msp", ".h5", ".heic", ".wmf"])
def test_a_name_that_no_drawing_can_have_is_told_at_once(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"Call it \.png or \.jpg"):
        picture_format(tmp_path / f"out{suffix}")
    with pytest.raises(OutputError, match="no directory"):
        picture_format(tmp_path / "missing" / "out.png")
    assert picture_format(tmp_path / "OUT.PNG") == "PNG"


def test_drawing_turns_the_picture_as_a_person_sees_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "phone.jpg"
    Image.new("RGB", (300, 200), "white").save(path, exif=exif)
    assert draw_boxes(path, []).size == draw_boxes(Image.open(path), []).size == (200, 300)
    with pytest.raises(MediaError, match="does not exist"):
        draw_boxes(tmp_path / "no.png", [])


def test_labels_of_stacked_boxes_do_not_cover_each_other() -> None:
    """One box three times over: the colour of every label is seen outside the outlines."""
    boxes = [Box(label, 100, 100, 300, 250) for label in ("first", "second", "third")]
    drawn = draw_boxes(Image.new("RGB", (500, 400), "white"), boxes)
    seen = dict(map(reversed, drawn.getcolors(500 * 400)))
    for k, box in enumerate(boxes):
        alone = draw_boxes(Image.new("RGB", (500, 400), "white"), boxes[: k + 1])
        colour = next(c for c in (alone.getpixel((x, 100)) for x in range(95, 110)) if c != (255, 255, 255))
        assert seen[colour] > 200, f"{box.label} cannot be read"


def test_many_labels_in_small_places_stay_inside_the_picture() -> None:
    boxes = [Box(f"thing number {k}", k, k, k + 5, k + 5) for k in range(0, 40, 3)]
    points = [Point("p", 0, 0), Point("q", 63, 47)]
    assert draw_boxes(Image.new("RGB", (64, 48)), [*boxes, *points]).size == (64, 48)
    assert draw_boxes(Image.new("RGB", (1, 1)), [Box("x", 0, 0, 1, 1)]).size == (1, 1)
