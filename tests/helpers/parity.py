"""Recorded references and the measures by which llama.cpp's numbers are held against them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny

REFERENCES = Path(__file__).resolve().parents[1] / "data" / "reference"


def load_reference(
    case: str, member: str, checkpoint: Path, folder: Path = REFERENCES
) -> dict[str, np.ndarray]:
    """The recorded arrays of one case; fails if they were recorded from another checkpoint."""
    with np.load(folder / f"{case}_{member}.npz") as recorded:
        arrays = dict(recorded)
    if str(arrays.pop("digest")) != tiny.checkpoint_digest(checkpoint):
        pytest.fail(
            f"{case}_{member}.npz was recorded from another checkpoint than tiny.py writes now. "
            "Record again: tests/reference/record.py says how."
        )
    return arrays


def divergence(reference: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """KL(reference || logits) of each position, float64 [n_tokens], from logits [n_tokens, n_vocab]."""
    p, q = _log_softmax(reference), _log_softmax(logits)
    return (np.exp(p) * (p - q)).sum(axis=-1)


def agreement(reference: np.ndarray, logits: np.ndarray) -> float:
    """Share of positions whose most likely token is the same."""
    return float((reference.argmax(axis=-1) == logits.argmax(axis=-1)).mean())


def cosines(reference: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """Cosine of each token's two embeddings, float64 [n_tokens]; fails unless the counts are equal."""
    assert embeddings.shape == reference.shape, f"{embeddings.shape}, expected {reference.shape}"
    a, b = reference.astype(np.float64), embeddings.astype(np.float64)
    return (a * b).sum(axis=-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
