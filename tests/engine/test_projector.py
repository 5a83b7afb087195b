"""The projector against recorded transformers embeddings, its two corrections, its refusals, its memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest
from media_samples import picture, sweep
from projector_files import rewrite
from reference import cases

from gemma4_gguf.engine import projector as projector_module
from gemma4_gguf.engine.model import Model
from gemma4_gguf.engine.projector import Projector
from gemma4_gguf.engine.projector_patches import GraphFixes
from gemma4_gguf.errors import EngineError, MediaError, PairingError
from gemma4_gguf.files.model_file import check_model
from gemma4_gguf.files.projector_file import check_layout
from gemma4_gguf.media.audio import MAX_SAMPLES, MIN_SAMPLES
from gemma4_gguf.media.image import prepare_image

Files = dict[str, Path]
Open = Callable[..., Projector]


@pytest.fixture(scope="module")
def open_projector(converted: Callable[..., Files]) -> Iterator[Open]:
    """open_projector(member, path=None) -> a Projector for that member's model."""
    models: dict[str, Model] = {}
    opened: list[Projector] = []

    def build(member: str, path: Path | None = None, **options: Any) -> Projector:
        files = converted(member)
        if member not in models:
            models[member] = Model(check_model(files["model"]), device="cpu")
        projector = Projector(path or files["projector"], models[member], n_threads=1, **options)
        opened.append(projector)
        return projector

    yield build
    for projector in opened:
        projector.close()
    for model in models.values():
        model.close()


def image_cosine(projector: Projector, reference: dict[str, np.ndarray]) -> float:
    """Lowest cosine over every token of every recorded picture; fails unless the counts are equal."""
    lowest = 1.0
    for name, expected in reference.items():
        size, _, budget = name.partition("_")
        width, height = map(int, size.split("x"))
        found = projector.encode_image(prepare_image(picture(width, height), int(budget)).pixels)
        lowest = min(lowest, float(parity.cosines(expected, found).min()))
    return lowest


def audio_cosine(projector: Projector, reference: dict[str, np.ndarray]) -> float:
    lowest = 1.0
    for name, expected in reference.items():
        found = projector.encode_audio(sweep(int(name.removesuffix("ms"))))
        lowest = min(lowest, float(parity.cosines(expected, found).min()))
    return lowest


# Numbers


@pytest.mark.parametrize("member", cases.IMAGE_MEMBERS)
def test_pictures_equal_transformers(
    member: str, references: Path, checkpoint: Callable[..., Path], open_projector: Open
) -> None:
    reference = parity.load_reference("image", member, checkpoint(member), references)
    assert image_cosine(open_projector(member), reference) >= 0.999_998


@pytest.mark.parametrize("member", cases.AUDIO_MEMBERS)
def test_sounds_equal_transformers(
    member: str, references: Path, checkpoint: Callable[..., Path], open_projector: Open
) -> None:
    reference = parity.load_reference("audio", member, checkpoint(member), references)
    assert audio_cosine(open_projector(member), reference) >= 0.999_998


def test_without_flash_attention_the_numbers_are_the_same(
    references: Path, checkpoint: Callable[..., Path], open_projector: Open
) -> None:
    reference = parity.load_reference("image", "e2b", checkpoint("e2b"), references)
    one = {"517x233_140": reference["517x233_140"]}
    assert image_cosine(open_projector("e2b", flash_attention=False), one) >= 0.999_998


def test_the_corrections_are_needed_and_leave_a_right_file_alone(
    references: Path,
    checkpoint: Callable[..., Path],
    converted: Callable[..., Files],
    open_projector: Open,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """llama.cpp alone is measurably off; told by the file, it computes what the correction makes of it."""
    images = parity.load_reference("image", "e2b", checkpoint("e2b"), references)
    sounds = parity.load_reference("audio", "e2b", checkpoint("e2b"), references)
    source = converted("e2b")["projector"]
    without = rewrite(source, tmp_path / "without.gguf", keys={"clip.use_gelu": None})
    told = rewrite(source, tmp_path / "told.gguf", keys={"clip.use_gelu": True})
    assert not check_layout(without).says_gelu and check_layout(told).says_gelu
    corrected = open_projector("e2b", without)
    prepared = prepare_image(picture(400, 300), 70).pixels
    np.testing.assert_array_equal(
        corrected.encode_image(prepared), open_projector("e2b", told).encode_image(prepared)
    )
    monkeypatch.setattr(GraphFixes, "process_node", lambda self, tensor, ask: not ask)
    alone = open_projector("e2b", without)
    assert 0.999 < image_cosine(alone, images) < 0.999_99
    assert 0.99 < audio_cosine(alone, sounds) < 0.999_99


def test_unknown_features_are_left_alone(
    open_projector: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Were llama.cpp to compute something else one day, it would not be overwritten."""
    projector, samples = open_projector("e2b"), sweep(500)
    right = projector.encode_audio(samples)
    monkeypatch.setattr(
        "gemma4_gguf.engine.projector_patches.mel_energies", lambda x: np.ones((len(x) // 160 - 1, 128))
    )
    alone = projector.encode_audio(samples)
    assert "stay as they are" in caplog.text
    assert 0.99 < parity.cosines(right, alone).min() < 0.999_99


def test_ctrl_c_inside_the_callback_is_not_lost(
    open_projector: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    projector = open_projector("e2b")
    with monkeypatch.context() as patch:

        def interrupt(*_: Any) -> bool:
            raise KeyboardInterrupt

        patch.setattr(GraphFixes, "process_node", interrupt)
        with pytest.raises(KeyboardInterrupt):
            projector.encode_audio(sweep(500))
    assert np.isfinite(projector.encode_audio(sweep(500))).all()


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send itself a Ctrl-C")
def test_ctrl_c_stops_a_picture_that_is_being_encoded(
    open_projector: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nodes are computed, not only while the graph is laid out."""
    projector = open_projector("e2b")
    pixels = prepare_image(picture(120, 90), 280).pixels
    visit, steps = GraphFixes.process_node, [0]

    def look(self: GraphFixes, tensor: int, ask: bool) -> bool:
        steps[0] += not ask
        if not ask and steps[0] == 2:
            os.kill(os.getpid(), signal.SIGINT)
            end = time.monotonic() + 20
            while not self._stopped and time.monotonic() < end:
                time.sleep(0.01)
        return visit(self, tensor, ask)

    with monkeypatch.context() as patch:
        patch.setattr(GraphFixes, "process_node", look)
        patch.setattr("gemma4_gguf.engine.projector_patches.STEP", 4)
        with pytest.raises(KeyboardInterrupt):
            projector.encode_image(pixels)
        stopped_after, steps[0] = steps[0], 3
        projector.encode_image(pixels)
    assert stopped_after == 2 < steps[0] - 3
    assert np.isfinite(projector.encode_image(pixels)).all()


def test_repeated_and_interleaved_calls_give_the_same(open_projector: Open) -> None:
    projector = open_projector("e2b")
    small, large = (prepare_image(picture(120, 90), budget).pixels for budget in (70, 280))
    first = [projector.encode_image(small), projector.encode_audio(sweep(400)), projector.encode_image(large)]
    again = [projector.encode_image(small), projector.encode_audio(sweep(400)), projector.encode_image(large)]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_threads_take_turns(open_projector: Open) -> None:
    projector = open_projector("e2b")
    pictures = [prepare_image(picture(100 + 20 * k, 80), 70).pixels for k in range(4)]
    expected = [projector.encode_image(pixels) for pixels in pictures]
    found: dict[int, np.ndarray] = {}

    def work(k: int) -> None:
        for _ in range(3):
            found[k] = projector.encode_image(pictures[k])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(4):
        np.testing.assert_array_equal(found[k], expected[k])


# Abilities and shapes


def test_abilities(open_projector: Open) -> None:
    both, eyes = open_projector("e2b"), open_projector("26b")
    assert (both.has_vision, both.has_audio, both.n_embd) == (True, True, 256)
    assert (eyes.has_vision, eyes.has_audio) == (True, False)
    with pytest.raises(MediaError, match="no ears"):
        eyes.encode_audio(sweep(500))


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((100, 48, 3), np.uint8), "multiples of 48"),
        (np.zeros((0, 48, 3), np.uint8), "multiples of 48"),
        (np.zeros((48, 48), np.uint8), "multiples of 48"),
        (np.zeros((48, 48, 3), np.float32), "multiples of 48"),
        (np.zeros((48, 48 * 86, 3), np.uint8), "knows 85 places"),
        (np.zeros((48 * 34, 48 * 34, 3), np.uint8), "at most 1120"),
    ],
)
def test_pictures_that_do_not_fit(pixels: np.ndarray, words: str, open_projector: Open) -> None:
    """llama.cpp would resize them, or end the process on a place outside its table."""
    with pytest.raises(MediaError, match=words):
        open_projector("e2b").encode_image(pixels)


def test_the_longest_strip_and_the_largest_picture_fit(open_projector: Open) -> None:
    projector = open_projector("e2b")
    assert projector.encode_image(np.zeros((48, 48 * 85, 3), np.uint8)).shape == (85, 256)
    assert projector.encode_image(np.zeros((48 * 32, 48 * 35, 3), np.uint8)).shape == (1120, 256)


@pytest.mark.parametrize("member", ["e2b", "12b"])
def test_lengths_of_sounds(member: str, open_projector: Open) -> None:
    projector = open_projector(member)
    for n, tokens in ((MIN_SAMPLES, 1), (640, 1), (16_000, 25), (MAX_SAMPLES, 750)):
        samples = np.resize(sweep(1000), n)
        assert projector.encode_audio(samples).shape == (tokens, projector.n_embd)
    for wrong in (sweep(1000)[: MIN_SAMPLES - 1], np.resize(sweep(1000), MAX_SAMPLES + 1)):
        with pytest.raises(MediaError, match="samples; expected"):
            projector.encode_audio(wrong)
    with pytest.raises(MediaError, match=r"float32 \[n\]"):
        projector.encode_audio(sweep(500).astype(np.float64))


# Life


def test_closing(open_projector: Open) -> None:
    projector = open_projector("e2b")
    assert projector.has_vision
    projector.close()
    projector.close()
    with pytest.raises(EngineError, match="closed"):
        projector.encode_image(np.zeros((48, 48, 3), np.uint8))


def test_a_projector_of_another_width_is_refused(
    converted: Callable[..., Files], open_projector: Open
) -> None:
    with pytest.raises(PairingError, match="width 128; the model takes 256"):
        open_projector("e2b", converted("12b")["projector"])


LOADS = """
import os, sys
from pathlib import Path
from gemma4_gguf.engine.model import Model
from gemma4_gguf.engine.projector import Projector
from gemma4_gguf.errors import EngineError
from gemma4_gguf.files.model_file import check_model
model, sizes = Model(check_model(Path(sys.argv[1])), device="cpu"), []
for _ in range(25):
    try:
        Projector(Path(sys.argv[2]), model, n_threads=1)
    except EngineError as error:
        assert "head_count" in str(error)
        sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6)
print(len(sizes), sizes[-1] - sizes[3])
"""


def test_what_llama_cpp_cannot_load_is_freed_and_quoted(
    converted: Callable[..., Files], tmp_path: Path
) -> None:
    """A key that only llama.cpp asks for: the checks pass, loading fails, and nothing stays behind.

    In a process of its own, whose memory nobody else fills or frees.
    """
    files = converted("12b")
    path = rewrite(files["projector"], tmp_path / "a.gguf", keys={"clip.audio.attention.head_count": None})
    command = [sys.executable, "-c", LOADS, str(files["model"]), str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    n_failed, grown = done.stdout.split()
    assert int(n_failed) == 25 and float(grown) < 20


def test_numbers_that_overflow_are_refused(
    converted: Callable[..., Files], open_projector: Open, tmp_path: Path
) -> None:
    def huge(name: str, values: np.ndarray) -> np.ndarray:
        return np.full_like(values, np.inf) if name == "mm.input_projection.weight" else values

    path = rewrite(converted("e2b")["projector"], tmp_path / "a.gguf", tensors=huge)
    with pytest.raises(EngineError, match="overflowed"):
        open_projector("e2b", path).encode_image(np.zeros((48, 48, 3), np.uint8))


def test_a_surprising_count_is_refused(open_projector: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    projector = open_projector("e2b")
    monkeypatch.setattr(projector_module, "count_tokens", lambda n: 7)
    with pytest.raises(EngineError, match="makes 13 tokens of this, transformers 7"):
        projector.encode_audio(sweep(500))


def resident_mb() -> float:
    with Path("/proc/self/statm").open() as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_memory_does_not_grow(open_projector: Open) -> None:
    projector = open_projector("e2b")
    pixels, samples = np.zeros((96, 96, 3), np.uint8), sweep(500)

    def use(n: int) -> None:
        for k in range(n):
            projector.encode_image(pixels)
            if k % 5 == 0:
                projector.encode_audio(samples)

    use(20)
    before = resident_mb()
    use(200)
    assert resident_mb() - before < 8


# Types


@pytest.mark.parametrize("projector_type", ["BF16", "F16", "Q8_0"])
def test_every_projector_type_runs(
    projector_type: str, converted: Callable[..., Files], open_projector: Open
) -> None:
    exact = open_projector("e2b")
    other = open_projector("e2b", converted("e2b", projector_type=projector_type)["projector"])
    pixels = prepare_image(picture(190, 611), 70).pixels
    at_least = 0.999 if projector_type == "Q8_0" else 0.9999
    assert parity.cosines(exact.encode_image(pixels), other.encode_image(pixels)).min() > at_least
    assert parity.cosines(exact.encode_audio(sweep(500)), other.encode_audio(sweep(500))).min() > at_least
