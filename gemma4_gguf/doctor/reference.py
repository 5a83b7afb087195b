"""Reference values: what transformers computed for the bundled checkpoint, and how far others are from it.

tests/reference/bundled.py records it as reference.npz beside the checkpoint. Of each distribution only the
likeliest tokens are kept, the rest as one number: enough to tell right from wrong, in a few kilobytes.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gemma4_gguf.engine.token_stream import log_probabilities
from gemma4_gguf.errors import CheckpointError
from gemma4_gguf.media.picture import read_image
from gemma4_gguf.tasks.boxes import Box, read_boxes
from gemma4_gguf.types import Audio, Image

REFERENCE = "reference.npz"
SAME_BOX = 0.5  # share of two boxes that has to be common for them to be the same answer

MediaKind = Literal["picture", "sound"]


@dataclass(frozen=True)
class Medium:
    """A picture or sound of the reference.

    Args:
        kind: "picture" or "sound".
        file: below the checkpoint's folder; "" is `probe_sound`.
        image_tokens: budget of a picture.
    """

    kind: MediaKind
    file: str
    image_tokens: int = 70

    def part(self, folder: Path) -> Image | Audio:
        """What a session takes.

        Args:
            folder: of the checkpoint.

        Returns:
            A value that refers to its file, or holds the samples of `probe_sound`.
        """
        if self.kind == "picture":
            return Image(folder / self.file, self.image_tokens)
        return Audio(folder / self.file if self.file else probe_sound())


@dataclass(frozen=True)
class Numbers:
    """What the model predicts at some places of a fixed prompt.

    Args:
        text: of the tokens, for the tokenizer; "" where they are not one text.
        before: token ids, <bos> first.
        medium: what stands between the ids, without its marks; None for text alone.
        after: token ids after it.
        rows: places in the whole prompt, marks and soft tokens counted, [n].
        tokens: the likeliest tokens after each of them, int [n, n_top].
        log_probabilities: theirs, float32 [n, n_top].
    """

    text: str
    before: list[int]
    medium: Medium | None
    after: list[int]
    rows: np.ndarray
    tokens: np.ndarray
    log_probabilities: np.ndarray

    def divergence(self, logits: np.ndarray) -> np.ndarray:
        """KL(reference || logits) at each recorded place, in nats.

        Args:
            logits: float32 [n_positions, n_vocab] of the whole prompt.

        Returns:
            float64 [n]; infinite where the logits are no numbers.
        """
        found = log_probabilities(logits[self.rows])
        q = _with_rest(np.take_along_axis(found, self.tokens, axis=-1))
        p = _with_rest(self.log_probabilities.astype(np.float64))
        kl = (np.exp(p) * (p - q)).sum(axis=-1)
        return np.where(np.isfinite(kl), kl, np.inf)


@dataclass(frozen=True)
class Embedding:
    """What a tower makes of a picture or sound.

    Args:
        medium: which.
        vectors: float16 [n_tokens, n_embd].
    """

    medium: Medium
    vectors: np.ndarray

    def cosines(self, embeddings: np.ndarray) -> np.ndarray:
        """Cosine of each token's two vectors.

        Args:
            embeddings: float32 [n_tokens, n_embd].

        Returns:
            float64 [n_tokens]; one -1 if the shapes differ, -1 where there are no numbers.
        """
        if embeddings.shape != self.vectors.shape:
            return np.array([-1.0])
        a, b = self.vectors.astype(np.float64), embeddings.astype(np.float64)
        norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        cosines = (a * b).sum(axis=-1) / np.where(norms > 0, norms, 1)
        return np.where(np.isfinite(cosines), cosines, -1.0)


@dataclass(frozen=True)
class Question:
    """A question and what transformers answers, greedily.

    Args:
        text: what is asked.
        medium: about which picture or sound; None for text alone.
        answer: as written.
        boxes: the answer is boxes, which count as the same when labels are and places nearly are.
    """

    text: str
    medium: Medium | None
    answer: str
    boxes: bool

    def is_answered(self, reply: str, folder: Path) -> bool:
        """Whether a reply says what transformers says.

        Args:
            reply: text of the reply.
            folder: of the checkpoint.

        Returns:
            True for the same words, or for boxes as `same_boxes` compares them.
        """
        if not self.boxes or self.medium is None:
            return reply.split() == self.answer.split()
        size = read_image(folder / self.medium.file).size
        return same_boxes(read_boxes(self.answer, size), read_boxes(reply, size))

    def labels(self, reply: str) -> list[str]:
        """What the boxes of a reply are of.

        Args:
            reply: text of the reply.

        Returns:
            Labels in the order written; empty if there are no boxes.
        """
        return [box.label for box in read_boxes(reply, (1, 1))]


@dataclass(frozen=True)
class Reference:
    """Everything recorded.

    Args:
        folder: of the checkpoint.
        made_with: versions of what recorded it, and the SHA-256 of the weights.
        numbers: by name: "text", "picture", "sound".
        embeddings: by name: "picture", "sound".
        questions: with known answers.
    """

    folder: Path
    made_with: dict[str, str]
    numbers: dict[str, Numbers]
    embeddings: dict[str, Embedding]
    questions: list[Question]


def probe_sound() -> np.ndarray:
    """Two rising tones, for a checkpoint without a sample.

    Returns:
        float32 [24000] at 16 kHz, in [-1, 1].
    """
    t = np.arange(24_000) / 16_000
    sound = 0.4 * np.sin(2 * np.pi * (200 * t + 300 * t**2)) + 0.2 * np.sin(
        2 * np.pi * (900 * t + 500 * t**2)
    )
    return (sound * np.hanning(len(t))).astype(np.float32)


def same_boxes(expected: Sequence[Box], found: Sequence[Box]) -> bool:
    """Whether two lists have the same labels in nearly the same places, in any order.

    Args:
        expected: one list.
        found: the other.

    Returns:
        True if each box of one fits one of the other (SAME_BOX), and none is left over.
    """
    left = list(found)
    for box in expected:
        fits = [
            other
            for other in left
            if other.label == box.label and _intersection_over_union(box, other) >= SAME_BOX
        ]
        if not fits:
            return False
        left.remove(fits[0])
    return not left


def load_reference(folder: Path) -> Reference:
    """Read the record of a checkpoint.

    Args:
        folder: of the checkpoint.

    Returns:
        All of it, in memory.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = folder / REFERENCE
    try:
        with np.load(path) as arrays:
            head = json.loads(str(arrays["head"]))
            return Reference(
                folder=folder,
                made_with=head["made_with"],
                numbers={name: _numbers(name, row, arrays) for name, row in head["numbers"].items()},
                embeddings={
                    name: Embedding(Medium(**row["medium"]), arrays[f"{name}/vectors"])
                    for name, row in head["embeddings"].items()
                },
                questions=[
                    Question(**(row | {"medium": _medium(row["medium"])})) for row in head["questions"]
                ],
            )
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is no record of this version ({error}). Record it again.") from error


def _numbers(name: str, row: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Numbers:
    return Numbers(
        text=row["text"],
        before=arrays[f"{name}/before"].tolist(),
        medium=_medium(row["medium"]),
        after=arrays[f"{name}/after"].tolist(),
        rows=arrays[f"{name}/rows"],
        tokens=arrays[f"{name}/tokens"],
        log_probabilities=arrays[f"{name}/log_probabilities"],
    )


def _medium(row: Mapping[str, Any] | None) -> Medium | None:
    return None if row is None else Medium(**row)


def _with_rest(scores: np.ndarray) -> np.ndarray:
    """Log-probabilities, with that of all other tokens together as a last column."""
    rest = np.log(np.clip(1 - np.exp(scores).sum(axis=-1, keepdims=True), 1e-9, 1))
    return np.concatenate([scores, rest], axis=-1)


def _intersection_over_union(a: Box, b: Box) -> float:
    """Share of the area of two boxes that is in both, 0 to 1."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    if width <= 0 or height <= 0:
        return 0.0
    both = (a.x1 - a.x0) * (a.y1 - a.y0) + (b.x1 - b.x0) * (b.y1 - b.y0)
    return width * height / (both - width * height)
