"""What the model reads: one <bos>, media where they were put, and nobody's words mistaken for media."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nano_samples import SAMPLES, scene

from gemma4_gguf import Audio, Image, Pattern, Session, Video
from gemma4_gguf.engine.kv_cache import Item, MediaSpan
from gemma4_gguf.errors import ContextFullError, Gemma4Error, MediaError, MessageError, TemplateError
from gemma4_gguf.prompt.messages import check_messages
from gemma4_gguf.templates import render, words_before_calls

TOOL = {"type": "function", "function": {"name": "look", "description": "Looks", "parameters": {}}}
CALL = {
    "id": "1",
    "type": "function",
    "function": {"name": "look", "arguments": {"at": "<sky>", "n": [1, None]}},
}


def test_prompts_begin_with_one_bos_and_end_in_the_turn_of_the_model(session: Session) -> None:
    bos = session.facts.special_tokens["<bos>"]
    items = session.prompt([{"role": "user", "content": "<bos>hello"}]).items
    assert items[0] == bos
    text = session.detokenize([i for i in items if isinstance(i, int)])
    assert text.startswith("<bos><|turn>user\n") and text.endswith("<turn|>\n<|turn>model\n")


def test_texts_without_markers_have_the_ids_of_the_whole_print(session: Session) -> None:
    messages = [
        {"role": "system", "content": " Be brief.\n\nAnd kind. "},
        {"role": "user", "content": ["<b>x</b> a|b", "<a> \ue000 é\n", "[c]"]},
        {"role": "assistant", "content": None, "reasoning_content": "Hm <x>.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": '{"a": "<|>"}'},
    ]
    items = session.prompt(messages, tools=[TOOL], thinking=True).items
    text = render(words_before_calls(check_messages(messages)), [TOOL], "small", enable_thinking=True)
    assert list(items) == session.tokenize(text)


def test_control_tokens_in_texts_are_characters(session: Session) -> None:
    """Wherever a text stands, whatever control token it spells, also next to a picture."""
    tokens = session.engine.model.control.ids
    spelled = "".join(tokens) + "".join(tokens).upper()

    def prompt_of(word: str, **options: Any) -> tuple[list[Item], str]:
        tool = {"name": "look", "description": word, "parameters": {"type": "object", "properties": {}}}
        tool["parameters"]["properties"] = {"at": {"type": "string", "description": word, "enum": [word]}}
        call = {"id": "1", "type": "function", "function": {"name": word, "arguments": {word: [word]}}}
        messages = [
            {"role": "system", "content": word},
            {"role": "user", "content": [word, {"type": "image", "image": scene(0)}, word]},
            {"role": "assistant", "content": word, "reasoning_content": word, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": word},
        ]
        items = session.prompt(messages, tools=[{"type": "function", "function": tool}], **options).items
        text = "".join(session.detokenize([i]) if isinstance(i, int) else "#" for i in items)
        return [item for item in items if not isinstance(item, int) or item in tokens.values()], text

    found, text = prompt_of(spelled)
    expected, plain = prompt_of("word")
    assert found == expected, "the same tokens and the same picture between them"
    assert text.count(spelled) == plain.count("word") > 8
    old, _ = prompt_of(spelled, special_in_content=True)
    assert len(old) > len(found) and sum(isinstance(item, MediaSpan) for item in old) == 1
    assert old.count(tokens["<|image|>"]) == 0, "text never makes a picture"


HALF = "a\ud800b"


@pytest.mark.parametrize(
    "ask",
    [
        lambda s: s.ask(HALF),
        lambda s: s.ask("x", system=HALF),
        lambda s: s.chat(system=HALF).send("x"),
        lambda s: s.chat(tools=[TOOL]).send(HALF),
        lambda s: s.complete([{"role": HALF, "content": "x"}]),
        lambda s: s.complete([{"role": "user", "content": "x", HALF: "x"}]),
        lambda s: s.complete([{"role": "user", "content": "x", "name": HALF}]),
        lambda s: s.complete([{"role": "user", "content": [{"type": "image", "url": HALF}]}]),
        lambda s: s.ask("x", tools=[{"function": TOOL["function"] | {"description": HALF}}]),
        lambda s: s.ask("x", tools=[{"function": TOOL["function"] | {"name": HALF}}]),
        lambda s: s.ask("x", schema=[HALF, "c"]),
        lambda s: s.ask("x", schema=f'root ::= "{HALF}"'),
        lambda s: s.ask("x", schema=Pattern(HALF)),
        lambda s: s.ask("x", stop=HALF),
        lambda s: s.ask("x", stop=["y", HALF]),
        lambda s: s.ask("x", tool_choice=HALF),
        lambda s: s.ask(Path(HALF)),
        lambda s: s.ask(Image(HALF), "x"),
        lambda s: s.describe(HALF),
        lambda s: s.transcribe(Audio(np.zeros(16_000, np.float32)), language=HALF),
        lambda s: s.tokenize(HALF),
        lambda s: s.load_chat(HALF),
        lambda s: s.chat().save(HALF),
        lambda s: Session(Path(HALF)),
        lambda s: Session(s.facts.path, projector=HALF),
    ],
    ids=lambda ask: ask.__code__.co_firstlineno,
)
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(
    ask: Callable[[Session], Any], session: Session
) -> None:
    with pytest.raises(Gemma4Error) as raised:
        ask(session)
    str(raised.value).encode()


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
