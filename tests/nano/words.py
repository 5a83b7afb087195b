"""Every word the nano checkpoint is taught: colours, shapes, captions, printed and spoken words, names.

One place, so that the generators, the evaluation and the model card speak of the same sets.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


#: RGB of each colour before jitter.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (40, 150, 60),
    "blue": (40, 80, 210),
    "yellow": (245, 205, 40),
    "purple": (140, 60, 170),
    "orange": (245, 135, 30),
}

SHAPES = ("circle", "square", "triangle", "star")

#: Captions of drawn buttons.
CAPTIONS = words_of(
    """
    OK Save Open Send Stop Start Next Back Yes No Play Pause Help Exit Login Buy Cancel Delete Edit
    Print Share Search Upload Reset Apply Close Menu Home
    """
)

#: Words the model reads in pictures.
PRINTED = words_of(
    """
    apple arrow autumn bank bird blue book bread bridge bus cake camera car castle cat chair clock cloud
    coat coffee cold dance desk dog door dream drum eagle earth east engine exit farm field fire fish
    flag flower fog forest fox fruit game garden gate glass gold grass green hand hat hill home honey
    horse hotel house ice island jam jazz juice key king kite lake lamp leaf lemon light lion map market
    milk moon mouse music nest night north ocean open orange owl paper park pear pen piano pilot plane
    plant queen quiet radio rain red river road robot rose salt sand school sea ship shop silver snow
    south star stone sugar summer sun table tea tiger train tree tulip violin water west wheat wind
    window winter wolf wood yellow zebra zoo
    """
)

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

#: The twenty command words the model hears.
COMMANDS = words_of(
    """
    yes no up down left right on off stop go start pause play next back open close red green blue
    """
)

#: Spoken word -> how it is written (digits are written as digits).
SPOKEN: dict[str, str] = {
    **{word: str(i) for i, word in enumerate(DIGITS)},
    **{word: word for word in COMMANDS},
}

DIRECTIONS = ("left", "right", "up", "down")

CITIES = words_of(
    """
    Oslo Rome Paris Berlin Madrid Lisbon Vienna Prague Warsaw Athens Dublin London Helsinki Stockholm
    Zurich Geneva Milan Naples Turin Lyon Nice Porto Krakow Riga Vilnius Tallinn Sofia Cairo Lagos
    Nairobi Delhi Mumbai Tokyo Osaka Kyoto Seoul Beijing Hanoi Bangkok Manila Sydney Perth Auckland
    Toronto Montreal Boston Chicago Denver Seattle Dallas Miami Lima Quito Bogota Santiago
    """
)

NAMES = words_of(
    """
    Anna Ben Carla David Elena Felix Greta Hugo Irene Jonas Klara Leo Maria Nora Oscar Paula Quentin
    Rosa Samuel Tara Ulrich Vera Walter Xenia Yusuf Zoe Amir Bianca Chen Dora Emil Farah Goran Hana Ivan
    Julia
    """
)

ROOMS = ("kitchen", "bedroom", "bathroom", "garage", "office", "hall", "living room", "garden")

ITEMS = words_of(
    """
    milk bread eggs butter apples rice tea coffee soap paper sugar salt cheese tomatoes onions pasta
    fish oranges lemons juice
    """
)


def smalltalk() -> dict[str, Any]:
    """The questions and fixed answers of the small talk, by intent and language.

    Returns:
        ``{"intents": {intent: {language: {"ask": [...], "say": str}}}, "unknown": {...}}``; the last
        question of every list is kept for the evaluation.
    """
    result: dict[str, Any] = json.loads(
        (Path(__file__).parent / "smalltalk.json").read_text(encoding="utf-8")
    )
    return result
