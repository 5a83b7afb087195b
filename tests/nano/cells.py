"""What every soft token of a picture or a sound shows; :mod:`nano.towers` teaches the towers by it.

Pictures hold more than the text model will be asked about (up to eight objects, pages of words): there is
more to learn from in each. Needs numpy and Pillow alone; the features of sounds need transformers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from nano.batch import features
from nano.dialogue import IGNORE
from nano.packed import SMALL_PICTURE, picture_tensors, sound_tensors
from nano.picture import patches, target_size
from nano.scenes import Line, Scene, page, printed, scene
from nano.speech import Voices
from nano.tasks_picture import printed_text
from nano.words import CAPTIONS, COLOURS, PRINTED, SHAPES, SPOKEN

KINDS = ("", *SHAPES, "button", "text")
LETTERS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
RANKS = 8
CROWDED = 0.6  # share of pictures that hold more than the text model will be asked about: more to learn from
SLOTS = 3  # columns of a cell whose letter is told
LONGEST = 10  # letters of a printed word
OWN_SHARE = 0.3  # of the cell or of the object that must overlap
SAMPLES = 640  # of one soft token of sound
HEARD_FROM = 0.6  # share of a word after which it must be known
HEARD_AFTER = 1280  # samples after its end in which it still is told

#: Name of a head -> (classes, columns, weight in the loss).
EYES: dict[str, tuple[int, int, float]] = {
    "kind": (len(KINDS), 1, 2.0),
    "colour": (len(COLOURS), 1, 0.5),
    "rank": (RANKS, 1, 0.7),
    "hundreds": (11, 6, 1.0),
    "tens": (10, 6, 0.3),
    "caption": (len(CAPTIONS), 1, 1.5),
    "letter": (len(LETTERS) + 1, SLOTS, 3.0),
    "index": (LONGEST + 1, SLOTS, 0.3),
    "word": (len(PRINTED) + 1, 1, 0.5),
    "case": (4, 1, 0.3),
}
EARS: dict[str, tuple[int, int, float]] = {"spoken": (len(SPOKEN) + 1, 1, 1.0)}
Arrays = dict[str, np.ndarray]


def _cells(rows: int, columns: int) -> np.ndarray:
    """Edges of the cells as shares, float ``[rows * columns, 4]``: top, left, bottom, right."""
    y, x = np.divmod(np.arange(rows * columns), columns)
    return np.stack([y / rows, x / columns, (y + 1) / rows, (x + 1) / columns], 1)


def _empty(n: int) -> dict[str, np.ndarray]:
    made = {name: np.full((n, width), IGNORE, np.int64) for name, (_, width, _) in EYES.items()}
    made["kind"][:] = 0
    made["value"] = np.full((n, 6), np.nan, np.float32)
    return made


def truth_of(shown: Scene, rows: int, columns: int) -> dict[str, np.ndarray]:
    """What every cell shows of a picture.

    Args:
        shown: the picture and what is in it.
        rows: soft tokens from top to bottom.
        columns: soft tokens from left to right.

    Returns:
        Name of each head to int64 ``[cells, columns of the head]``, :data:`IGNORE` where nothing is asked,
        and ``value`` float32 ``[cells, 6]``: the box and its middle (y, x), 0 to 1, NaN where nothing is.
    """
    cells, made = _cells(rows, columns), _empty(rows * columns)
    most = np.zeros(len(cells))
    for rank, item in enumerate(shown.items):
        box = np.array(item.box) / 1000
        high = np.minimum(cells[:, 2], box[2]) - np.maximum(cells[:, 0], box[0])
        wide = np.minimum(cells[:, 3], box[3]) - np.maximum(cells[:, 1], box[1])
        both = np.maximum(high, 0) * np.maximum(wide, 0)
        share = both / min(1 / len(cells), (box[2] - box[0]) * (box[3] - box[1]))
        own = (share >= OWN_SHARE) & (share > most)
        most = np.maximum(most, share)
        places = np.array([*item.box, *item.centre])
        made["kind"][own] = KINDS.index(item.kind)
        made["colour"][own] = tuple(COLOURS).index(item.colour)
        made["rank"][own] = min(rank, RANKS - 1)
        made["hundreds"][own], made["tens"][own] = places // 100, places // 10 % 10
        made["value"][own] = places / 1000
        made["caption"][own] = CAPTIONS.index(item.caption) if item.caption else IGNORE
    most = np.zeros(len(cells))
    for line in shown.lines:
        overlap = np.minimum(cells[:, 2], line.bottom) - np.maximum(cells[:, 0], line.top)
        share = overlap / min(1 / rows, line.bottom - line.top)
        own = (share > OWN_SHARE) & (cells[:, 3] > line.edges[0]) & (cells[:, 1] < line.edges[-1])
        own &= share >= most
        most = np.where(own, share, most)
        _add_letters(made, line, cells, own, 1 / columns)
    return made


def _add_letters(
    made: dict[str, np.ndarray], line: Line, cells: np.ndarray, own: np.ndarray, wide: float
) -> None:
    alone = own & (made["caption"][:, 0] == IGNORE)
    made["kind"][alone] = KINDS.index("text")
    plain = line.text.lower()
    made["word"][alone] = 1 + PRINTED.index(plain) if plain in PRINTED else 0
    cases = (line.text.isdigit(), line.text.islower(), line.text.isupper(), True)
    made["case"][alone] = cases.index(True)
    for slot in range(SLOTS):
        at = (
            np.searchsorted(np.array(line.edges), cells[:, 1] + (slot + 0.5) / SLOTS * wide, side="right") - 1
        )
        # Two words may share a cell: what the other left empty is open.
        empty = own & (made["letter"][:, slot] == IGNORE)
        made["letter"][empty, slot] = made["index"][empty, slot] = 0
        for cell in np.flatnonzero(own & (at >= 0) & (at < len(line.text))):
            made["letter"][cell, slot] = 1 + LETTERS.index(line.text[at[cell]])
            made["index"][cell, slot] = 1 + min(at[cell], LONGEST - 1)


def spoken_truth(words: Sequence[str], spans: Sequence[tuple[int, int]], n: int) -> np.ndarray:
    """The word each soft token has just heard, int64 ``[n, 1]``: 0 is none, IGNORE while it is being said."""
    made = np.zeros((n, 1), np.int64)
    middle = (np.arange(n) + 0.5) * SAMPLES
    for word, (begin, end) in zip(words, spans, strict=True):
        known = begin + HEARD_FROM * (end - begin)
        made[(middle >= begin) & (middle < known)] = IGNORE
        made[(middle >= known) & (middle < end + HEARD_AFTER)] = 1 + tuple(SPOKEN).index(word)
    return made


def draw_pictures(rng: random.Random, budget: int, n: int, text: float) -> tuple[Arrays, Arrays]:
    """Pictures at a budget, and what their soft tokens shall tell."""
    prepared, truths = [], []
    for _ in range(n):
        if budget > SMALL_PICTURE and rng.random() < text:
            if rng.random() < CROWDED:
                shown = page(rng, printed_text)
            else:
                picture, line = printed(rng, printed_text(rng))
                shown = Scene(picture, (), (line,))
        else:
            buttons = 0.15 if budget == SMALL_PICTURE else 0.35
            shown = scene(rng, 8 if rng.random() < CROWDED else None, buttons)
        high, wide = target_size(*shown.picture.shape[:2], budget)
        truths.append(truth_of(shown, high // 48, wide // 48))
        prepared.append(patches(shown.picture, budget))
    if budget == SMALL_PICTURE:  # too small to be read
        for truth in truths:
            for name in ("caption", "letter", "index", "word", "case"):
                truth[name][:] = IGNORE
    return picture_tensors(prepared), {name: np.concatenate([t[name] for t in truths]) for name in truths[0]}


def draw_sounds(rng: random.Random, voices: Voices, n: int) -> tuple[Arrays, Arrays]:
    """Sounds, and what their soft tokens shall tell."""
    prepared, truths = [], []
    for _ in range(n):
        words = [rng.choice(tuple(SPOKEN)) for _ in range(rng.choice([1, 2, 3, 4, 5]))]
        sound, spans = voices.say_where(rng, words)
        prepared.append(features(sound))
        truths.append(spoken_truth(words, spans, prepared[-1][2]))
    return sound_tensors(prepared), {"spoken": np.concatenate(truths)}
