"""Rows without padding: dialogues one after another, and questions about one picture side by side.

A row is ``LENGTH`` tokens. Every dialogue sees itself alone. Questions about the same picture or clip share
its tokens: each starts where the picture ends, sees the picture and itself, and is learned as if it were the
first; a picture costs far more than a question.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from nano.batch import ID, Encoder
from nano.dialogue import IGNORE, Dialogue

ROWS, LENGTH = 4, 256
AT_ONCE = 2  # pictures of one pass of the vision tower: their attention fits the cache
PATCHES = (144, 630, 2520)  # of pictures at budgets 16, 70 and 280; few lengths, as each is compiled
SMALL_PICTURE = 16
MEDIA = (ID["<|image|>"], ID["<|audio|>"])
PLACES = {"detect", "point", "tool_picture", "clip"}  # tasks that write thousandths of a side
UNIT_WEIGHT = 0.2  # their last digit is below what the eyes can tell: nearly nothing but noise to learn from


@dataclass
class Block:
    """Dialogues with a common start: ``shared`` tokens, then the rest of each."""

    encoded: list[dict[str, Any]]
    shared: int = 0
    tasks: list[str] = field(default_factory=list)
    digits: tuple[int, ...] = ()  # token ids

    @property
    def length(self) -> int:
        """Tokens in a row."""
        return self.shared + sum(len(one["ids"]) - self.shared for one in self.encoded)


def block(encoder: Encoder, dialogues: list[Dialogue], room: int = LENGTH) -> Block | None:
    """As many of the dialogues as fit; all are about the same picture or clip when there is more than one.

    Returns:
        None when not even the first fits.
    """
    first = encoder.encode(dialogues[0])
    made = Block([first], 0, [dialogues[0].task], encoder.digits)
    if made.length > room:
        return None
    if len(dialogues) > 1:
        made.shared = len(first["ids"]) - first["ids"][::-1].index(ID["<image|>"])
        media = {"pictures": first["pictures"], "sounds": []}
        for dialogue in dialogues[1:]:
            one = encoder.encode_beside(dialogue, media)
            if made.length + len(one["ids"]) - made.shared <= room:
                made.encoded.append(one)
                made.tasks.append(dialogue.task)
    return made


def last_digits(tokens: np.ndarray, digits: tuple[int, ...]) -> np.ndarray:
    """Where a number of two digits or more ends, bool ``[length]``."""
    digit = np.isin(tokens, digits)
    before, after = np.roll(digit, 1), np.roll(digit, -1)
    before[0] = after[-1] = False
    return digit & before & ~after


def arrange(blocks: list[Block], n_rows: int = ROWS, length: int = LENGTH) -> dict[str, np.ndarray]:
    """Puts blocks into rows, largest first, each where the least room is left; what does not fit is dropped.

    Returns:
        ``ids``, ``targets`` (the next token where it is learned), ``positions`` int64 and ``weights`` float32
        ``[rows, length]``; ``mask`` bool ``[rows, length, length]``; media as :class:`nano.fast.Packed` takes
        them.
    """
    free = [length] * n_rows
    rows: list[list[Block]] = [[] for _ in range(n_rows)]
    for one in sorted(blocks, key=lambda b: -b.length):
        fitting = [index for index in range(n_rows) if free[index] >= one.length]
        if fitting:
            best = min(fitting, key=lambda index: free[index])
            free[best] -= one.length
            rows[best].append(one)
    shape = (n_rows, length)
    ids, targets = np.zeros(shape, np.int64), np.full(shape, IGNORE, np.int64)
    positions, weights = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    group, branch = np.full(shape, -1), np.zeros(shape, np.int64)
    pictures, sounds = [], []
    for row, placed in enumerate(rows):
        at = 0
        for number, one in enumerate(placed):
            pictures += one.encoded[0]["pictures"]
            sounds += one.encoded[0]["sounds"]
            for index, dialogue in enumerate(one.encoded):
                begin = one.shared if index else 0
                n = len(dialogue["ids"]) - begin
                here = slice(at, at + n)
                ids[row, here] = dialogue["ids"][begin:]
                targets[row, at : at + n - 1] = dialogue["labels"][begin + 1 :]
                positions[row, here] = np.arange(begin, begin + n)
                group[row, here] = number
                branch[row, at + (one.shared - begin) : at + n] = index + 1
                # A word read counts like a long list of boxes, nearly.
                n_learned = int((targets[row, here] != IGNORE).sum())
                weights[row, here] = max(1, n_learned) ** -0.5
                if one.tasks[index] in PLACES:
                    weights[row, here] *= np.where(
                        last_digits(targets[row, here], one.digits), UNIT_WEIGHT, 1
                    )
                at += n
    order = np.arange(length)
    mask = (group[:, :, None] == group[:, None, :]) & (order[:, None] >= order[None, :])
    mask &= (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    batch = {"ids": ids, "targets": targets, "positions": positions, "weights": weights, "mask": mask}
    if pictures:
        batch |= picture_tensors(pictures)
    if sounds:
        batch |= sound_tensors(sounds)
    for name, token in (("at_pixels", MEDIA[0]), ("at_mel", MEDIA[1])):
        if (ids == token).any():
            batch[name] = np.flatnonzero(ids == token)
    ids[np.isin(ids, MEDIA)] = ID["<pad>"]
    return batch


def picture_tensors(pictures: list[tuple[np.ndarray, np.ndarray, int]]) -> dict[str, np.ndarray]:
    most = max(len(cut) for cut, _, _ in pictures)
    most = min((length for length in PATCHES if length >= most), default=most)
    n = -(-len(pictures) // AT_ONCE) * AT_ONCE  # whole passes of the tower
    pixels = np.zeros((n, most, 768), np.uint8)
    places = np.full((n, most, 2), -1, np.int64)
    for index, (cut, positions, _) in enumerate(pictures):
        pixels[index, : len(cut)] = cut
        places[index, : len(cut)] = positions
    return {"pixels": pixels, "places": places, "n_soft": np.array([count for _, _, count in pictures])}


def sound_tensors(sounds: list[tuple[np.ndarray, np.ndarray, int]]) -> dict[str, np.ndarray]:
    most = max(len(mel) for mel, _, _ in sounds)
    mel = np.zeros((len(sounds), most, 128), np.float32)
    mask = np.zeros((len(sounds), most), bool)
    for index, (features, known, _) in enumerate(sounds):
        mel[index, : len(features)] = features
        mask[index, : len(features)] = known
    return {"mel": mel, "mel_mask": mask}


def row_blocks(
    encoder: Encoder, rng: random.Random, draw: Any, n_rows: int = ROWS, length: int = LENGTH
) -> list[Block]:
    """Blocks of drawn dialogues until the rows are about full.

    Args:
        encoder: of the tokenizer.
        rng: where every choice comes from.
        draw: gives the dialogues of the next block.
        n_rows: how many rows.
        length: tokens of a row.
    """
    blocks: list[Block] = []
    filled = misses = 0
    while filled < n_rows * length and misses < 8:
        made = block(encoder, draw(rng), length)
        if made is None:
            misses += 1
            continue
        blocks.append(made)
        filled += made.length
    return blocks
