"""Fixtures of the tests of what the bundled checkpoint was taught with."""

from __future__ import annotations

import numpy as np
import pytest
from nano.speech import Voices
from nano.tokenizer import train
from nano.words import SPOKEN
from tokenizers import Tokenizer


@pytest.fixture(scope="module")
def voices() -> Voices:
    """Two voices that hum instead of speaking: no espeak-ng needed."""
    generator = np.random.default_rng(0)

    def hum(length: int) -> np.ndarray:
        return (generator.standard_normal(length) * 3000).astype(np.int16)

    return Voices({name: {word: [hum(4000)] for word in SPOKEN} for name in ("en-us+a", "en-gb+b")})


@pytest.fixture(scope="module")
def tokenizer(voices: Voices) -> Tokenizer:
    """A tokenizer trained on a small part of the text."""
    from nano import tokenizer as module

    corpus = module.corpus
    module.corpus = lambda given: corpus(given, 6)
    try:
        return train(voices)
    finally:
        module.corpus = corpus
