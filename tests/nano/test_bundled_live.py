"""The doctor's record is what transformers gives for the bundled checkpoint today.

pip install -e '.[test,reference]'
pytest -m reference
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import gemma4_gguf
from gemma4_gguf.doctor.reference import Reference, load_reference

pytestmark = pytest.mark.reference
NANO = Path(gemma4_gguf.__file__).parent / "nano"


@pytest.fixture(scope="module")
def now(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """What transformers computes now."""
    from reference import bundled

    folder = shutil.copytree(NANO, tmp_path_factory.mktemp("now") / "nano")
    (folder / "reference.npz").unlink()
    bundled.record(folder)
    return load_reference(folder)


def test_numbers_are_the_same(now: Reference) -> None:
    recorded = load_reference(NANO)
    assert sorted(now.numbers) == sorted(recorded.numbers) and sorted(now.embeddings) == sorted(
        recorded.embeddings
    )
    for name, numbers in recorded.numbers.items():
        other = now.numbers[name]
        assert (numbers.before, numbers.medium, numbers.after) == (other.before, other.medium, other.after)
        np.testing.assert_array_equal(other.rows, numbers.rows)
        np.testing.assert_allclose(other.log_probabilities, numbers.log_probabilities, atol=2e-3, rtol=2e-3)
    for name, embedding in recorded.embeddings.items():
        vectors = now.embeddings[name].vectors.astype(np.float32)
        assert now.embeddings[name].medium == embedding.medium
        assert embedding.cosines(vectors).min() > 0.999999


def test_answers_are_the_same(now: Reference) -> None:
    recorded = load_reference(NANO)
    assert now.questions == recorded.questions and len(now.questions) >= 2
