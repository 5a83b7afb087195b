"""Logits of a converted checkpoint against those transformers computes from the checkpoint itself.

Everything in float32, so what is left is the order of additions and ggml's table for GELU; a wrong mask,
norm, scale or head size is orders of magnitude above the bounds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import parity
import pytest
from reference import cases

from gemma4_gguf import Session

EXACT = {"device": "cpu", "n_ctx": 512, "kv_type": "f32", "flash_attention": False, "n_threads": 2}


@pytest.mark.parametrize("member", cases.TEXT_MEMBERS)
def test_logits_match(
    member: str,
    references: Path,
    checkpoint: Callable[..., Path],
    converted: Callable[..., dict[str, Path]],
) -> None:
    reference = parity.load_reference("text", member, checkpoint(member), references)
    ids = [int(i) for i in reference["ids"]]
    assert len(ids) > 3 * 32, "the prompt must be longer than the sliding window"
    with Session(converted(member)["model"], projector=None, **EXACT) as session:
        logits = session.logits(ids)
    check_logits(reference["logits"], logits)


def check_logits(reference: np.ndarray, logits: np.ndarray) -> None:
    assert logits.dtype == np.float32 and logits.shape == reference.shape
    assert parity.divergence(reference, logits).mean() <= 1e-5
    assert parity.divergence(reference, logits).max() <= 1e-4
    assert parity.agreement(reference, logits) >= 0.98


def test_a_wrong_logit_would_be_seen(checkpoint: Callable[..., Path]) -> None:
    reference = parity.load_reference("text", "e2b", checkpoint("e2b"), parity.REFERENCES)["logits"]
    with pytest.raises(AssertionError):
        check_logits(reference, np.roll(reference, 1, axis=0))
    with pytest.raises(AssertionError):
        check_logits(reference, reference * np.float32(1.05))


def test_ids_match(references: Path, converted: Callable[..., dict[str, Path]]) -> None:
    recorded = json.loads((references / "tokens.json").read_text(encoding="utf-8"))
    with Session(converted("e2b")["model"], projector=None, **EXACT) as session:
        found = {case["text"]: session.tokenize(case["text"]) for case in recorded}
    assert found == {case["text"]: case["ids"] for case in recorded}
