"""A session on the trained nano checkpoint: right answers pass, and each promise of `Session` is kept."""

from __future__ import annotations

import base64
import gc
import io
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from altered import altered
from nano_samples import GREEDY, NANO, SAMPLES, TRANSFORMERS, TRUTH, overlap, scene
from PIL import Image as PILImage

import gemma4_gguf.engine.engine as engine_module
from gemma4_gguf import Image, Session
from gemma4_gguf.convert import convert_checkpoint
from gemma4_gguf.engine.model import Model
from gemma4_gguf.engine.sampler import Sampler
from gemma4_gguf.errors import EngineError, GGUFError, MessageError, OptionError, PairingError

# Right answers


def test_greedy_answers_are_those_of_transformers(tmp_path: Path) -> None:
    """Every token of six answers about pictures, in float32."""
    model = convert_checkpoint(NANO, tmp_path, "F32", "F32").model
    with Session(model, device="cpu", n_ctx=512, kv_type="f32", flash_attention=False, n_threads=2) as exact:
        found = [exact.ask(scene(i), "detect", **GREEDY).text for i in range(len(TRANSFORMERS))]
    assert found == list(TRANSFORMERS)


def test_shapes_are_found_after_quantization(session: Session) -> None:
    overlaps = []
    for number, expected in enumerate(TRUTH):
        reply = session.ask(scene(number), "detect", **GREEDY)
        assert reply.finish_reason == "stop" and reply.thinking is None and reply.tool_calls == ()
        found = re.findall(r'\[(\d+), (\d+), (\d+), (\d+)\], "label": "([\w ]+)"', reply.text)
        assert [label for *_, label in found] == [box["label"] for box in expected]
        for (*box, _), truth in zip(found, expected, strict=True):
            overlaps.append(overlap([int(side) for side in box], truth["box_2d"]))
    assert np.mean(overlaps) > 0.5


def test_a_picture_can_come_in_any_form(session: Session, tmp_path: Path) -> None:
    path = SAMPLES / "scene2.png"
    expected = session.ask(scene(2), "detect", **GREEDY).text
    url = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    (tmp_path / "no suffix").write_bytes(path.read_bytes())
    for part in (
        path,
        Image(path.read_bytes()),
        Image(str(path)),
        PILImage.open(path),
        tmp_path / "no suffix",
    ):
        assert session.ask(part, "detect", image_tokens=70, **GREEDY).text == expected
    for address in (url, str(path), path.as_uri()):
        content = [
            {"type": "image_url", "image_url": {"url": address, "detail": "low"}},
            {"type": "text", "text": "detect"},
        ]
        reply = session.complete([{"role": "user", "content": content}], **GREEDY)
        assert reply.text == expected


def test_the_numbers_are_those_of_the_model(session: Session) -> None:
    """The greedy reply is the argmax of the logits after its prompt."""
    prompt = session.prompt([{"role": "user", "content": [{"type": "image", "image": scene(0)}, "detect"]}])
    reply = session.ask(scene(0), "detect", temperature=0, max_tokens=1)
    logits = session.logits(prompt)
    assert logits.shape == (prompt.n_tokens, session.facts.n_vocab)
    assert session.detokenize([int(logits[-1].argmax())]) == reply.text


# Streams


def test_joined_chunks_are_the_reply(session: Session) -> None:
    chunks = list(session.stream(scene(1), "detect", **GREEDY))
    assert [chunk.kind for chunk in chunks].count("end") == 1 and chunks[-1].kind == "end"
    reply = chunks[-1].reply
    assert "".join(chunk.text for chunk in chunks if chunk.kind == "text") == reply.text
    assert reply.text == session.ask(scene(1), "detect", **GREEDY).text
    assert len(chunks) > 20


def test_usage_counts_soft_tokens(session: Session) -> None:
    first = session.ask(scene(3), "detect", **GREEDY).usage
    again = session.ask(scene(3), "detect", **GREEDY).usage
    ids = session.tokenize("<|turn>user\n<|image><image|>detect<turn|>\n<|turn>model\n")
    assert first.prompt_tokens == 1 + len(ids) + 64
    assert again.reused_tokens == first.prompt_tokens - 1 and again.prompt_tokens == first.prompt_tokens
    assert first.completion_tokens == again.completion_tokens > 50
    assert first.total_tokens == first.prompt_tokens + first.completion_tokens


def test_a_stream_left_early_leaves_the_session_ready(session: Session) -> None:
    expected = session.ask(scene(4), "detect", **GREEDY).text
    for n in (1, 5):
        stream = session.stream(scene(4), "detect", **GREEDY)
        for _ in range(n):
            next(stream)
        stream.close()
        assert session.ask(scene(4), "detect", **GREEDY).text == expected
    session.stream("never started").close()
    assert session.ask(scene(4), "detect", **GREEDY).text == expected


def test_one_conversation_at_a_time_unless_more_were_asked_for(nano: Path) -> None:
    with Session(nano, n_ctx=512, n_threads=2) as single:
        alone = [single.ask(scene(i), "detect", **GREEDY).text for i in (0, 1)]
        stream = single.stream(scene(0), "detect", **GREEDY)
        next(stream)
        with pytest.raises(EngineError, match="n_seq"):
            single.ask("detect")
        stream.close()
    with Session(nano, n_ctx=512, n_seq=2, n_threads=2) as double:
        streams = [double.stream(scene(i), "detect", **GREEDY) for i in (0, 1)]
        texts = ["", ""]
        while streams != [None, None]:
            for i, chunks in enumerate(streams):
                chunk = next(chunks, None) if chunks else None
                if chunk is None:
                    streams[i] = None
                else:
                    texts[i] += chunk.text
    assert texts == alone


def test_threads_take_turns(session: Session) -> None:
    expected = [session.ask(scene(i), "detect", **GREEDY).text for i in range(3)]
    found: dict[int, str] = {}

    def ask(i: int) -> None:
        found[i] = session.ask(scene(i), "detect", **GREEDY).text

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[i] for i in range(3)] == expected


# Opening and closing


def test_files_that_do_not_open(
    nano: Path, converted: Callable[..., dict[str, Path]], tmp_path: Path
) -> None:
    with pytest.raises(GGUFError, match="does not exist"):
        Session(tmp_path / "missing.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(nano.read_bytes()[:-1000])
    with pytest.raises(GGUFError, match="cut off"):
        Session(cut)
    hot = altered(nano, tmp_path / "hot.gguf", {"general.sampling.temp": float("nan")})
    with pytest.raises(GGUFError, match=r"hot\.gguf recommends .* temperature is nan"):
        Session(hot)
    with pytest.raises(PairingError, match="width"):
        Session(nano, projector=converted("31b")["projector"])
    with pytest.raises(OptionError, match=r"n_context.*n_ctx"):
        Session(nano, n_context=5)
    with pytest.raises(OptionError, match="abacus"):
        Session(nano, device="abacus")


def test_closing_twice_and_asking_afterwards(nano: Path) -> None:
    session = Session(nano, n_ctx=64, n_threads=2)
    stream = session.stream("detect", temperature=1.0, max_tokens=20)
    next(stream)
    session.close()
    session.close()
    calls: list[Callable[[], Any]] = [
        lambda: session.ask("detect"),
        lambda: session.tokenize("x"),
        lambda: session.logits([2]),
        lambda: session.embed(scene(0)),
        lambda: list(stream),
    ]
    for call in calls:
        with pytest.raises(EngineError, match="closed"):
            call()


def test_a_failed_opening_frees_what_was_open(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Model] = []

    class Watched(Model):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            opened.append(self)

    def fail(*_: Any, **__: Any) -> None:
        raise EngineError("no room")

    monkeypatch.setattr(engine_module, "Model", Watched)
    monkeypatch.setattr(engine_module, "Context", fail)
    with pytest.raises(EngineError, match="no room"):
        Session(nano, n_threads=2)
    assert len(opened) == 1 and opened[0].handle is None


def test_a_forgotten_session_is_freed(nano: Path) -> None:
    session = Session(nano, n_ctx=64, n_threads=2)
    engine = session.engine
    held = [engine.model, engine.context, engine.projector]
    assert all(one is not None and one.handle for one in held)
    del session, engine
    gc.collect()
    assert not any(one is not None and one.handle for one in held)


# Numbers


def test_logits_take_tokens_pictures_and_embeddings(session: Session) -> None:
    embeddings = session.embed(scene(0))
    assert embeddings.shape == (64, 256) and embeddings.dtype == np.float32
    special = session.facts.special_tokens
    before, after = [2, 5], session.tokenize("detect")
    wrapped = session.logits([*before, scene(0), *after])
    bare = session.logits([*before, special["<|image>"], embeddings, special["<image|>"], *after])
    assert wrapped.shape == (2 + 1 + 64 + 1 + len(after), 1536)
    assert np.array_equal(wrapped, bare, equal_nan=True)
    for wrong in (np.zeros((3, 5), np.float32), np.zeros(256, np.float32)):
        with pytest.raises(MessageError, match="shape"):
            session.logits([2, wrong])
    with pytest.raises(MessageError, match="9999"):
        session.logits([9999])
    with pytest.raises(MessageError, match="no tokens"):
        session.logits([])


def test_an_interrupt_between_tokens_is_survived(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = session.ask(scene(5), "detect", **GREEDY).text
    real, drawn = Sampler.draw, []

    def draw(self: Sampler, *args: Any) -> int:
        drawn.append(1)
        if len(drawn) == 12:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(Sampler, "draw", draw)
    with pytest.raises(KeyboardInterrupt):
        session.ask(scene(5), "detect", **GREEDY)
    monkeypatch.undo()
    assert session.ask(scene(5), "detect", **GREEDY).text == expected


def test_encoded_pictures_are_remembered(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = io.BytesIO()
    PILImage.new("RGB", (96, 48), (10, 200, 30)).save(picture, "PNG")
    first = session.embed(Image(picture.getvalue(), 70))
    monkeypatch.setattr(session.engine.projector, "encode_image", lambda _: pytest.fail("encoded again"))
    assert session.embed(Image(picture.getvalue(), 70)) is first
