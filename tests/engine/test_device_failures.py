"""A card that fails mid-way: the error says how to go on without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gemma4_gguf import Session
from gemma4_gguf.engine import library, model
from gemma4_gguf.errors import EngineError

Converted = Callable[..., dict[str, Path]]
STEPS = {
    "llama_model_load_from_file": (None, "cannot load"),
    "llama_init_from_model": (None, "cannot make a context"),
    "llama_decode": (-3, "failed to decode"),
}


@pytest.fixture(params=[True, False], ids=["card", "processor"])
def on_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Layers go to a card, or are believed to: there is none here."""
    if request.param:
        monkeypatch.setattr(model, "select_device", lambda device: (None, True))
    return bool(request.param)


@pytest.mark.parametrize("step", STEPS)
def test_the_way_round_a_failing_card(
    step: str, on_gpu: bool, converted: Converted, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, told = STEPS[step]
    monkeypatch.setattr(library.llama(), step, lambda *_: result)
    with (
        pytest.raises(EngineError, match=told) as failure,
        Session(converted("e2b")["model"], projector=None, device="cpu", n_ctx=64, n_threads=2) as session,
    ):
        session.logits([2, 3])
    assert ("device='cpu'" in str(failure.value)) is on_gpu
