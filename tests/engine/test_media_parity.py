"""Pictures and sounds against transformers: sizes, soft tokens, and what the model makes of a picture.

The bounds are well above what is measured (1 - cosine: 5e-8 for pictures, 2e-7 for sounds; KL 1e-6) and well
below what the two differences between llama.cpp and the trained model would cost (7e-5 for its GELU in the
vision tower, 1.4e-4 for its floor under quiet sounds; a wrong mask: KL above 0.6).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest
from media_samples import SAMPLE_RATE_HZ, picture, sweep
from PIL import Image as PILImage
from reference import cases

from gemma4_gguf import Audio, Image, Session
from gemma4_gguf.media.image import target_size

EXACT: dict[str, Any] = {
    "device": "cpu",
    "n_ctx": 1024,
    "kv_type": "f32",
    "flash_attention": False,
    "n_threads": 2,
}
SIZES = json.loads((parity.REFERENCES / "image_sizes.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def sessions(converted: Callable[..., dict[str, Path]]) -> Any:
    """sessions(member) -> an open Session with its projector."""
    opened: dict[str, Session] = {}

    def open_session(member: str) -> Session:
        if member not in opened:
            files = converted(member)
            opened[member] = Session(files["model"], projector=files["projector"], **EXACT)
        return opened[member]

    yield open_session
    for session in opened.values():
        session.close()


@pytest.mark.parametrize("row", SIZES, ids=lambda row: f"{row['width']}x{row['height']}-{row['budget']}")
def test_target_size(row: dict[str, Any]) -> None:
    assert target_size(row["width"], row["height"], row["budget"]) == (row["to_width"], row["to_height"])


@pytest.mark.parametrize("member", cases.IMAGE_MEMBERS)
def test_image_embeddings(
    member: str,
    references: Path,
    checkpoint: Callable[..., Path],
    sessions: Callable[[str], Session],
) -> None:
    reference = parity.load_reference("image", member, checkpoint(member), references)
    for name, expected in reference.items():
        size, _, budget = name.partition("_")
        width, height = map(int, size.split("x"))
        source = PILImage.fromarray(picture(width, height))
        embeddings = sessions(member).embed(Image(source, image_tokens=int(budget)))
        assert embeddings.dtype == np.float32
        assert parity.cosines(expected, embeddings).min() >= 0.99999, name


@pytest.mark.parametrize("member", cases.AUDIO_MEMBERS)
def test_audio_embeddings(
    member: str,
    references: Path,
    checkpoint: Callable[..., Path],
    sessions: Callable[[str], Session],
) -> None:
    reference = parity.load_reference("audio", member, checkpoint(member), references)
    assert len(reference) == len(cases.AUDIO_MS)
    for name, expected in reference.items():
        samples = sweep(int(name.removesuffix("ms")))
        embeddings = sessions(member).embed(Audio(samples, sample_rate_hz=SAMPLE_RATE_HZ))
        assert embeddings.dtype == np.float32
        assert parity.cosines(expected, embeddings).min() >= 0.99999, name


@pytest.mark.parametrize("member", cases.PROMPT_MEMBERS)
def test_a_picture_inside_a_prompt(
    member: str, references: Path, checkpoint: Callable[..., Path], sessions: Callable[[str], Session]
) -> None:
    """Causal for e2b, bidirectional for 26b and 12b, at widths from which llama.cpp could not tell."""
    reference = parity.load_reference("prompt", member, checkpoint(member), references)
    prompt = cases.IMAGE_PROMPT
    image = Image(PILImage.fromarray(picture(*prompt.picture)), image_tokens=prompt.image_tokens)
    before, after = ([int(i) for i in reference[part]] for part in ("before", "after"))
    # The recorded lists hold the begin and end marks, which a session writes around a picture itself.
    logits = sessions(member).logits([*before[:-1], image, *after[1:]])
    assert len(logits) == len(before) + int(reference["n_soft"]) + len(after)
    divergence = parity.divergence(reference["logits"], logits[-len(after) :])
    assert divergence.mean() <= 1e-5
    assert parity.agreement(reference["logits"], logits[-len(after) :]) >= 0.95
