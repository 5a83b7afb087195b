"""What the model reads: one <bos>, media where they were put, and nobody's words mistaken for media."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nano_samples import SAMPLES, scene

from gemma4_gguf import Audio, Image, Session, Video
from gemma4_gguf.engine.kv_cache import MediaSpan
from gemma4_gguf.errors import ContextFullError, MediaError, MessageError, TemplateError

TOOL = {"type": "function", "function": {"name": "look", "description": "Looks", "parameters": {}}}


def test_prompts_begin_with_one_bos_and_end_in_the_turn_of_the_model(session: Session) -> None:
    bos = session.facts.special_tokens["<bos>"]
    items = session.prompt([{"role": "user", "content": "<bos>hello"}]).items
    assert items[0] == bos
    text = session.detokenize([i for i in items if isinstance(i, int)])
    assert text.startswith("<bos><|turn>user\n") and text.endswith("<turn|>\n<|turn>model\n")


@pytest.mark.parametrize("marker", ["<|image|>", "<|audio|>", "<|video|>", "<|image>", "<image|>"])
def test_written_media_markers_are_text(marker: str, session: Session) -> None:
    words = f"What does {marker} mean?"
    tool = json.loads(json.dumps(TOOL).replace("Looks", f"Looks {marker}"))
    messages = [
        {"role": "system", "content": f"Never say {marker}."},
        {"role": "user", "content": [words, {"type": "image", "image": scene(0)}]},
    ]
    prompt = session.prompt(messages, tools=[tool])
    spans = [i for i, item in enumerate(prompt.items) if isinstance(item, MediaSpan)]
    special = session.facts.special_tokens
    assert len(spans) == 1
    assert (
        prompt.items[spans[0] - 1] == special["<|image>"]
        and prompt.items[spans[0] + 1] == special["<image|>"]
    )
    ids = [item for item in prompt.items if isinstance(item, int)]
    assert ids.count(special[marker]) == (1 if marker in ("<|image>", "<image|>") else 0)
    text = session.detokenize(ids)
    assert words in text and f"Never say {marker}." in text and f"Looks {marker}" in text


def test_media_stand_where_they_were_put(session: Session) -> None:
    content = [
        "first",
        {"type": "image", "image": scene(0)},
        "then",
        {"type": "image", "image": scene(1)},
        "last",
    ]
    items = session.prompt([{"role": "user", "content": content}]).items
    keys = [
        session.prompt([{"role": "user", "content": [c]}]).items for c in content if not isinstance(c, str)
    ]
    expected = [next(i for i in one if isinstance(i, MediaSpan)) for one in keys]
    assert [item for item in items if isinstance(item, MediaSpan)] == expected
    words = [session.detokenize([i]) if isinstance(i, int) else "#" for i in items]
    assert "first<|image>#<image|>then<|image>#<image|>last" in "".join(words)


def test_very_long_text(nano: Path) -> None:
    with Session(nano, n_ctx=64, projector=None, n_threads=2) as session:
        text = "abc " * 25_000
        assert session.detokenize(session.tokenize(text)) == text
        with pytest.raises(ContextFullError):
            session.ask(text)


def test_media_that_cannot_be_taken(
    session: Session, nano: Path, converted: Callable[..., dict[str, Path]]
) -> None:
    files = converted("26b")
    with Session(files["model"], projector=files["projector"], n_ctx=64, n_threads=2) as deaf:
        assert deaf.has_vision and not deaf.has_audio
        with pytest.raises(MessageError, match="ears"):
            deaf.ask(Audio(np.zeros(16_000, np.float32)), "what?")
    with pytest.raises(MediaError, match=r"x\.mp4 does not exist"):
        session.ask(Video("x.mp4"), "what?")
    with Session(nano, projector=None, n_ctx=64, n_threads=2) as blind:
        assert not blind.has_vision and not blind.has_audio
        with pytest.raises(MessageError, match="projector"):
            blind.ask(scene(0), "detect")
        with pytest.raises(MessageError, match="no clips"):
            blind.ask(Video("x.mp4"), "what?")
    with pytest.raises(MediaError):
        session.ask(Image("missing.png"), "detect")
    with pytest.raises(MediaError, match="70, 140"):
        session.ask(SAMPLES / "scene0.png", "detect", image_tokens=71)


def test_a_template_that_loses_a_picture_is_refused(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session.prompts, "render", lambda messages, tools, thinking: "<bos>no picture here")
    with pytest.raises(TemplateError, match="image"):
        session.ask(scene(0), "detect")
