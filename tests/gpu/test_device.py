"""What must hold on a device other than the processor: numbers, reuse, constraints, closing, lack of memory.

    GEMMA4_GGUF_TEST_DEVICE=cuda pytest -n 0 -m gpu tests/gpu

Bounds are the doctor's: cards round products to TF32 or F16 where the processor does not, so that KL 1e-5 is
right there, and a wrong mask or norm is 1e-2 and more. NVIDIA_TF32_OVERRIDE=0 makes NVIDIA's exact.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest
from media_samples import SAMPLE_RATE_HZ, picture, sweep
from nano_samples import GREEDY, NANO, scene
from PIL import Image as PILImage
from reference import cases

from gemma4_gguf import Audio, Image, Session
from gemma4_gguf.convert import convert_checkpoint
from gemma4_gguf.engine import devices
from gemma4_gguf.errors import Gemma4Error

Files = dict[str, Path]
DEVICE = os.environ.get("GEMMA4_GGUF_TEST_DEVICE", "auto")
MEAN_KL, MAX_KL = 5e-5, 5e-3
MIN_COSINE = 0.9999
REUSE_KL = 1e-4
MEMBERS = ("e2b", "e4b", "26b", "31b", "12b")
TYPES = ("F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_NL", "IQ4_XS", "Q3_K_M", "Q2_K")

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def device() -> Any:
    """The device's description; without one there is nothing to prove."""
    found = [d for d in devices.list_devices() if d.kind in ("gpu", "igpu") and DEVICE in ("auto", d.backend)]
    if DEVICE == "cpu":  # a rehearsal
        found = [d for d in devices.list_devices() if d.kind == "cpu"]
    if not found:
        pytest.skip(f"llama.cpp finds no device for {DEVICE!r}")
    return found[0]


def exact(**options: Any) -> dict[str, Any]:
    return {"device": DEVICE, "n_ctx": 1024, "kv_type": "f32", "flash_attention": False} | options


@pytest.fixture(scope="module")
def nano_f32(tmp_path_factory: pytest.TempPathFactory) -> Files:
    files = convert_checkpoint(NANO, tmp_path_factory.mktemp("nano-f32"), "F32", "F32")
    assert files.projector is not None
    return {"model": files.model, "projector": files.projector}


@pytest.fixture(scope="module")
def nano_session(nano: Path) -> Iterator[Session]:
    with Session(nano, device=DEVICE, n_ctx=1024, n_seq=2) as opened:
        yield opened


# Numbers


@pytest.mark.parametrize("member", cases.TEXT_MEMBERS)
def test_text(member: str, checkpoint: Callable[..., Path], converted: Callable[..., Files]) -> None:
    reference = parity.load_reference("text", member, checkpoint(member))
    with Session(converted(member)["model"], projector=None, **exact()) as session:
        logits = session.logits([int(i) for i in reference["ids"]])
    check_divergence(parity.divergence(reference["logits"], logits))


@pytest.mark.parametrize("member", cases.IMAGE_MEMBERS)
def test_pictures(member: str, checkpoint: Callable[..., Path], converted: Callable[..., Files]) -> None:
    reference = parity.load_reference("image", member, checkpoint(member))
    files = converted(member)
    with Session(files["model"], projector=files["projector"], **exact()) as session:
        for name, expected in reference.items():
            size, _, budget = name.partition("_")
            shown = PILImage.fromarray(picture(*map(int, size.split("x"))))
            found = session.embed(Image(shown, image_tokens=int(budget)))
            assert parity.cosines(expected, found).min() >= MIN_COSINE, name


@pytest.mark.parametrize("member", cases.AUDIO_MEMBERS)
def test_sounds(member: str, checkpoint: Callable[..., Path], converted: Callable[..., Files]) -> None:
    reference = parity.load_reference("audio", member, checkpoint(member))
    files = converted(member)
    with Session(files["model"], projector=files["projector"], **exact()) as session:
        for name, expected in reference.items():
            found = session.embed(Audio(sweep(int(name.removesuffix("ms"))), sample_rate_hz=SAMPLE_RATE_HZ))
            assert parity.cosines(expected, found).min() >= MIN_COSINE, name


@pytest.mark.parametrize("member", cases.PROMPT_MEMBERS)
def test_a_picture_in_a_prompt(
    member: str, checkpoint: Callable[..., Path], converted: Callable[..., Files]
) -> None:
    reference = parity.load_reference("prompt", member, checkpoint(member))
    files, prompt = converted(member), cases.IMAGE_PROMPT
    image = Image(PILImage.fromarray(picture(*prompt.picture)), image_tokens=prompt.image_tokens)
    before, after = ([int(i) for i in reference[part]] for part in ("before", "after"))
    with Session(files["model"], projector=files["projector"], **exact()) as session:
        logits = session.logits([*before[:-1], image, *after[1:]])
    check_divergence(parity.divergence(reference["logits"], logits[-len(after) :]))


@pytest.mark.parametrize("quant", TYPES)
def test_quantized_types_say_what_the_processor_says(quant: str, tmp_path: Path) -> None:
    model = convert_checkpoint(NANO, tmp_path, quant, None).model
    logits = {}
    for where in ("cpu", DEVICE):
        with Session(model, projector=None, device=where, n_ctx=512) as session:
            ids = session.tokenize("What is 12 + 30? My name is Anna. Name three colours." * 3)
            logits[where] = session.logits([2, *ids])
    assert parity.divergence(logits["cpu"], logits[DEVICE]).mean() <= 1e-2


@pytest.mark.parametrize(
    "options", [{"kv_type": "q8_0"}, {"flash_attention": True}, {"swa_full": True}], ids=str
)
def test_caches(options: dict[str, Any], nano: Path) -> None:
    with Session(nano, device=DEVICE, n_ctx=1024, **options) as session:
        assert (
            session.ask("What is 12 + 30?", **GREEDY).text == session.ask("What is 12 + 30?", **GREEDY).text
        )
        assert "red circle" in session.ask(scene(0), "detect", **GREEDY).text


@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_some_of_the_layers(n_layers: int, nano_f32: Files) -> None:
    logits = []
    for layers in (None, n_layers):
        options = exact(n_gpu_layers=layers)
        with Session(nano_f32["model"], projector=nano_f32["projector"], **options) as session:
            ids = session.tokenize("What is this?")
            logits.append(session.logits([2, scene(0), 107, *ids])[-len(ids) :])
    assert parity.divergence(*logits).mean() <= MEAN_KL


# Reuse


def test_edited_conversations_say_what_fresh_ones_say(nano_f32: Files) -> None:
    """Random turns and edits; the sliding window of the bundled checkpoint is left again and again."""
    rng = np.random.default_rng(1)
    media: list[Any] = [scene(0), Audio(sweep(800))]
    files = nano_f32["model"], nano_f32["projector"]
    with (
        Session(files[0], projector=files[1], **exact(n_ctx=2048)) as session,
        Session(files[0], projector=files[1], **exact(n_ctx=2048, snapshot_bytes=0)) as fresh,
    ):
        items: list[Any] = [2]
        for step in range(16):
            items += [int(i) for i in rng.integers(300, 900, int(rng.integers(4, 120)))]
            if step % 4 == 1:
                items += [media[step // 4 % 2], 107]
            if step % 3 == 2:
                items = [*items[: int(rng.integers(1, len(items)))], 107]
            reused = session.logits(items)[-1:]
            fresh.logits([2, 107])  # so that nothing of the last step is left
            alone = fresh.logits(items)[-1:]
            assert parity.divergence(alone, reused).max() <= REUSE_KL, step


def test_chats_go_on_after_edits_forks_and_files(nano: Path, nano_session: Session, tmp_path: Path) -> None:
    chat = nano_session.chat()
    chat.send(scene(0), "detect", **GREEDY)
    fork = chat.fork()
    said = chat.send("What is 12 + 30?", **GREEDY)
    assert said.usage.reused_tokens > 50
    assert fork.send("What is 12 + 30?", **GREEDY).text == said.text
    chat.save(tmp_path / "talk.chat")
    with Session(nano, device=DEVICE, n_ctx=1024) as other:
        loaded = other.load_chat(tmp_path / "talk.chat")
        reply = loaded.send("Thank you!", **GREEDY)
    assert reply.text == chat.send("Thank you!", **GREEDY).text
    assert reply.usage.reused_tokens > 50


# Constraints and streams


def test_constraints_hold(nano_session: Session) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "ok": {"type": "boolean"}},
    }
    schema |= {"required": ["n", "ok"], "additionalProperties": False}
    for seed in range(5):
        reply = nano_session.ask("Give me JSON.", schema=schema, seed=seed, temperature=2.0, max_tokens=200)
        assert json.loads(reply.text) == reply.parsed and set(reply.parsed) == {"n", "ok"}
    assert nano_session.ask("A colour?", schema=["red", "green"]).parsed in ("red", "green")
    assert nano_session.detect(scene(0), "circle")


def test_a_closed_stream_leaves_the_session_usable(nano_session: Session) -> None:
    for _ in range(5):
        stream = nano_session.stream("Count to five.", **GREEDY)
        next(stream)
        stream.close()
    assert nano_session.ask("What is 12 + 30?", **GREEDY).text


# Memory


def test_closing_gives_the_memory_back(nano: Path, device: Any) -> None:
    def free() -> int:
        return next(d.free_bytes for d in devices.list_devices() if d.name == device.name)

    def use() -> None:
        with Session(nano, device=DEVICE, n_ctx=4096) as session:
            session.ask(scene(0), "detect", max_tokens=4)

    use()  # what a driver keeps for ever
    before = free()
    for _ in range(5):
        use()
    assert before - free() < 32 << 20


def test_too_little_memory_is_an_error_and_no_end(nano: Path, nano_session: Session) -> None:
    if DEVICE == "cpu":
        pytest.skip("the system would end other processes first")
    with pytest.raises(Gemma4Error):
        Session(nano, device=DEVICE, n_ctx=1 << 20, n_seq=256, swa_full=True, kv_type="f32")
    assert nano_session.ask("What is 12 + 30?", **GREEDY).text
    with Session(nano, device=DEVICE, n_ctx=512) as session:
        assert session.ask("What is 12 + 30?", **GREEDY).text


def check_divergence(kl: np.ndarray) -> None:
    assert kl.mean() <= MEAN_KL and kl.max() <= MAX_KL, f"KL {kl.mean():.1e}, at most {kl.max():.1e}"
