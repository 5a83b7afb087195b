"""Conversations: what they remember, what they reuse, and what an early end leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest
from nano_samples import GREEDY, scene

from gemma4_gguf import Chat, Image, Session
from gemma4_gguf.engine.context import Context
from gemma4_gguf.engine.kv_cache import Item, SequenceState
from gemma4_gguf.engine.sampler import Sampler
from gemma4_gguf.errors import ContextFullError, MessageError

TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Looks", "parameters": {"type": "object", "properties": {}}},
}


def script(monkeypatch: pytest.MonkeyPatch, session: Session, text: str) -> None:
    """Makes the sampler draw the tokens of a text, then <turn|>."""
    ids = iter([*session.tokenize(text), *session.tokenize("<turn|>") * 4])
    monkeypatch.setattr(Sampler, "draw", lambda *_: next(ids))


def test_turns_are_remembered(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = session.chat(system="Be brief.")
    script(monkeypatch, session, "<|channel>thought\nA greeting.\n<channel|>Hello!")
    reply = chat.send("Hi", scene(0))
    assert reply.text == "Hello!" and reply.thinking == "A greeting."
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant"]
    assert chat.messages[1]["content"] == [
        {"type": "text", "text": "Hi"},
        {"type": "image", "image": scene(0)},
    ]
    assert chat.messages[2] == {"role": "assistant", "content": "Hello!", "reasoning_content": "A greeting."}
    items = session.prompt([*chat.messages, {"role": "user", "content": "Bye"}]).items
    text = session.detokenize([item for item in items if isinstance(item, int)])
    assert (
        "Be brief." in text
        and "Hi" in text
        and "Hello!" in text
        and text.endswith("Bye<turn|>\n<|turn>model\n")
    )
    assert "greeting" not in text, "the template drops the thought of a finished turn"


def test_a_second_turn_pays_only_for_what_is_new(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = session.chat()
    script(monkeypatch, session, "There are two shapes.")
    first = chat.send(scene(1), "detect").usage
    monkeypatch.setattr(session.engine.projector, "encode_image", lambda _: pytest.fail("encoded again"))
    script(monkeypatch, session, "Yes.")
    usage = chat.send("sure?").usage
    new = session.tokenize("<turn|>\n<|turn>user\nsure?<turn|>\n<|turn>model\n")
    assert usage.reused_tokens == first.prompt_tokens + first.completion_tokens - 1
    assert usage.prompt_tokens == usage.reused_tokens + len(new)


def test_a_reply_that_spells_markers_is_read_again_as_it_was_written(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = session.chat()
    said = "A turn ends with <turn|>, a call with <tool_call|>, and `<|channel>` opens a thought."
    ids = iter([*session.tokenize(said, special=False), *session.tokenize("<turn|>") * 4])
    monkeypatch.setattr(Sampler, "draw", lambda *_: next(ids))
    reply = chat.send("How?")
    assert reply.text == said and not reply.warnings
    script(monkeypatch, session, "Yes.")
    usage = chat.send("Sure?").usage
    assert usage.reused_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens - 1


def test_a_reused_conversation_answers_like_a_fresh_one(nano: Path) -> None:
    """Two chats in turns over one sequence, each overwriting the other, against each on its own."""
    turns: list[list[tuple[Any, ...]]] = [
        [
            (scene(0), "Describe the picture."),
            ("How many objects are there?",),
            (scene(1), "What do you see?"),
        ],
        [(scene(2), "Describe the picture."), (scene(3), "What do you see?"), ("How many squares?",)],
    ]
    options: dict[str, Any] = {"n_ctx": 768, "n_threads": 2, "kv_type": "f32", "flash_attention": False}
    with Session(nano, **options) as shared:
        chats = [shared.chat(), shared.chat()]
        found: list[list[str]] = [[], []]
        for turn in range(3):
            for i, chat in enumerate(chats):
                found[i].append(chat.send(*turns[i][turn], **GREEDY | {"max_tokens": 60}).text)
    for i in range(2):
        with Session(nano, **options) as alone:
            chat = alone.chat()
            assert [chat.send(*turn, **GREEDY | {"max_tokens": 60}).text for turn in turns[i]] == found[i]


@pytest.mark.parametrize("member", ["e2b", "31b"])
def test_reuse_gives_the_logits_of_a_fresh_run(
    member: str, converted: Callable[..., dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversation longer than the window, with pictures, edits and a thought that the template drops."""
    files = converted(member)
    options: dict[str, Any] = {"n_ctx": 1024, "n_threads": 2, "kv_type": "f32", "flash_attention": False}
    seen: list[tuple[list[Item], np.ndarray]] = []
    extend = Context.extend

    def watched(self: Context, state: SequenceState, items: list[Item]) -> None:
        extend(self, state, items)
        seen.append((list(state.items), self.logits().copy()))

    monkeypatch.setattr(Context, "extend", watched)
    picture = Image(np.zeros((96, 144, 3), np.uint8), 70)
    with Session(files["model"], projector=files["projector"], device="cpu", **options) as session:
        chat = session.chat(system="A system prompt of some length, so that turns differ late.")
        script(
            monkeypatch, session, "<|channel>thought\nA thought of many words, dropped later.\n<channel|>Yes."
        )
        chat.send("One", picture, "and some more words after it")
        for text in ("two two two", "three", "four four"):
            script(monkeypatch, session, "An answer of a few words.")
            chat.send(text * 6, max_tokens=9)
        chat.messages[-2] = {"role": "user", "content": "edited"}
        script(monkeypatch, session, "Hm.")
        chat.send("five", max_tokens=2)
        monkeypatch.setattr(Context, "extend", extend)
        for items, logits in seen:
            with session.engine.pool.lend(()) as state:
                state.dirty = True
                session.engine.context.fit(state, items)
                session.engine.context.extend(state, items)
                assert parity.divergence(session.engine.context.logits(), logits) < 1e-5
    assert len(seen) >= 5


def test_an_early_end_keeps_what_was_said(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = session.chat()
    script(monkeypatch, session, "One two three four five six seven.")
    stream = chat.stream("count")
    said = next(stream).text + next(stream).text
    stream.close()
    assert [message["role"] for message in chat.messages] == ["user", "assistant"]
    assert chat.messages[1]["content"].startswith(said)
    assert chat.messages[1]["content"] != "One two three four five six seven."
    script(monkeypatch, session, "Yes.")
    assert chat.send("go on").text == "Yes." and len(chat.messages) == 4


def test_an_interrupt_keeps_what_was_said(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = session.chat()
    ids = iter(session.tokenize("One two three"))

    def draw(*_: Any) -> int:
        token = next(ids, None)
        if token is None:
            raise KeyboardInterrupt
        return token

    monkeypatch.setattr(Sampler, "draw", draw)
    with pytest.raises(KeyboardInterrupt):
        chat.send("count")
    assert chat.messages[1] == {"role": "assistant", "content": "One two three"}
    script(monkeypatch, session, "Yes.")
    assert chat.send("go on").text == "Yes."


def test_a_failed_turn_leaves_no_trace(session: Session) -> None:
    chat = session.chat(system="s")
    with pytest.raises(ContextFullError):
        chat.send("word " * 2000)
    with pytest.raises(MessageError):
        chat.send()
    with pytest.raises(MessageError, match="NoneType"):
        chat.send(None)  # type: ignore[arg-type]
    assert chat.messages == [{"role": "system", "content": "s"}]


def test_tools_are_called_and_answered(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = session.chat(tools=[TOOL])
    script(monkeypatch, session, "<|tool_call>call:look{}<tool_call|><|tool_response>")
    reply = chat.send("What is up?")
    assert reply.finish_reason == "tool_calls"
    chat.add_result(reply.tool_calls[0], "the sky")
    script(monkeypatch, session, "The sky is up.")
    assert chat.send().text == "The sky is up."
    assert [message["role"] for message in chat.messages] == ["user", "assistant", "tool", "assistant"]
    text = session.detokenize(
        [i for i in session.prompt(chat.messages, tools=[TOOL]).items if isinstance(i, int)]
    )
    assert "call:look{}" in text and "response:look" in text and "the sky" in text


def test_forks_go_their_own_way(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    chat: Chat = session.chat(thinking=True)
    script(monkeypatch, session, "A.")
    chat.send("one")
    fork = chat.fork()
    script(monkeypatch, session, "B.")
    fork.send("two")
    assert len(chat.messages) == 2 and len(fork.messages) == 4 and fork.thinking
    assert fork.messages[:2] == chat.messages
