"""What every soft token of a nano picture or sound is taught to show."""

from __future__ import annotations

import random

import numpy as np
from nano.cells import KINDS, LETTERS, SAMPLES, spoken_truth, truth_of
from nano.dialogue import IGNORE
from nano.scenes import Item, Line, Scene, page, printed, scene
from nano.tasks_picture import printed_text
from nano.words import CAPTIONS, COLOURS, PRINTED, SPOKEN

EMPTY = np.zeros((8, 8, 3), np.uint8)


def test_a_cell_tells_the_object_that_covers_it() -> None:
    low = Item("circle", "blue", (500, 500, 1000, 1000))
    high = Item("button", "red", (0, 250, 250, 750), "Save")
    made = truth_of(Scene(EMPTY, (high, low)), 4, 4)
    kind = made["kind"].reshape(4, 4)
    assert kind[0].tolist() == [0, KINDS.index("button"), KINDS.index("button"), 0]
    assert kind[2:, 2:].tolist() == [[KINDS.index("circle")] * 2] * 2 and not kind[1].any()
    first, last = made["kind"][:, 0].argmax(), 15
    assert made["colour"][first] == list(COLOURS).index("red")
    assert made["caption"][first] == CAPTIONS.index("Save") and made["caption"][last] == IGNORE
    assert made["rank"][first] == 0 and made["rank"][last] == 1 and made["rank"][0] == IGNORE
    assert made["hundreds"][last].tolist() == [5, 5, 10, 10, 7, 7]
    assert made["tens"][last].tolist() == [0, 0, 0, 0, 5, 5]
    assert np.allclose(made["value"][last], [0.5, 0.5, 1.0, 1.0, 0.75, 0.75])
    assert np.isnan(made["value"][0]).all() and made["hundreds"][0, 0] == IGNORE


def test_a_cell_tells_the_letters_in_its_columns() -> None:
    line = Line("Cat", 0.25, 0.5, (0.25, 0.375, 0.5, 0.75))
    made = truth_of(Scene(EMPTY, (), (line,)), 4, 4)
    letters = made["letter"].reshape(4, 4, 3)

    def written(row: int, column: int) -> str:
        return "".join(" " if index == 0 else LETTERS[index - 1] for index in letters[row, column])

    assert [written(1, column) for column in (1, 2)] == ["Caa", "ttt"]
    assert (letters[0] == IGNORE).all() and (letters[1, 0] == IGNORE).all()
    cell = 5
    assert made["kind"][cell] == KINDS.index("text") and made["index"][cell].tolist() == [1, 2, 2]
    assert made["word"][cell] == 1 + PRINTED.index("cat")
    assert made["case"][cell] == 3  # neither a number nor all small nor all large


def test_a_sound_tells_the_word_that_was_just_said() -> None:
    made = spoken_truth(["two"], [(2 * SAMPLES, 12 * SAMPLES)], 20)[:, 0]
    two = 1 + list(SPOKEN).index("two")
    assert made.tolist() == [0] * 2 + [IGNORE] * 6 + [two] * 6 + [0] * 6


def test_letters_are_where_they_are_drawn() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        picture, line = printed(rng, printed_text(rng))
        height, width = picture.shape[:2]
        assert len(line.edges) == len(line.text) + 1 and list(line.edges) == sorted(line.edges)
        inside = picture[int(line.top * height) : int(line.bottom * height) + 1]
        inside = inside[:, int(line.edges[0] * width) : int(line.edges[-1] * width) + 1]
        assert np.ptp(inside.astype(int).sum(2)) > 200  # ink and ground
    full = page(random.Random(3), printed_text)
    assert len(full.lines) > 2 and all(0 <= one.top < one.bottom <= 1.05 for one in full.lines)
    crowd = scene(random.Random(4), 8)
    assert len(crowd.items) >= 4
    assert {line.text for line in crowd.lines} == {item.caption for item in crowd.items if item.caption}
