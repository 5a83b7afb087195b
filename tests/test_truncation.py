"""A full context: an error, or whole old turns left out, and both said clearly."""

from __future__ import annotations

import re
from typing import Any

import pytest
from nano_samples import scene

from gemma4_gguf import Session
from gemma4_gguf.engine.sampler import Sampler
from gemma4_gguf.errors import ContextFullError, OptionError
from gemma4_gguf.prompt.messages import Message
from gemma4_gguf.truncation import drop_oldest, turn_starts, without_turns

N_CTX = 800


def conversation(n_turns: int) -> list[Message]:
    """Turns of 100 "tokens", every second one with a tool call."""
    messages: list[Message] = [{"role": "system", "content": "s"}]
    for i in range(n_turns):
        messages.append({"role": "user", "content": str(i)})
        if i % 2:
            messages.append({"role": "assistant", "content": "", "tool_calls": [{"id": str(i)}]})
            messages.append({"role": "tool", "content": "r", "tool_call_id": str(i)})
        messages.append({"role": "assistant", "content": f"answer {i}"})
    return messages[:-1]


def attempt(messages: Any) -> tuple[int, list[Message]]:
    n_tokens = 50 + 100 * len(turn_starts(messages))
    if n_tokens > N_CTX:
        raise ContextFullError("full", n_tokens=n_tokens, n_ctx=N_CTX)
    return n_tokens, list(messages)


@pytest.mark.parametrize("n_turns", range(1, 20))
@pytest.mark.parametrize("max_tokens", [None, 10])
def test_whole_turns_go_oldest_first(n_turns: int, max_tokens: int | None) -> None:
    messages = conversation(n_turns)
    kept, left_out = drop_oldest(messages, attempt, n_ctx=N_CTX, max_tokens=max_tokens)
    assert kept[0]["role"] == "system" and kept[1]["role"] == "user" and kept[-1] == messages[-1]
    assert [kept[0], *left_out, *kept[1:]] == messages
    n_kept = len(turn_starts(kept))
    expected = {None: (6, 5), 10: (7, 7)}[max_tokens]
    assert n_kept == (n_turns if n_turns <= expected[0] else expected[1])
    calls = [m["tool_calls"][0]["id"] for m in kept if m.get("tool_calls")]
    assert calls == [m["tool_call_id"] for m in kept if m["role"] == "tool"]


def test_a_turn_that_fits_nowhere_is_an_error() -> None:
    def never(messages: Any) -> tuple[int, None]:
        raise ContextFullError("full", n_tokens=2 * N_CTX, n_ctx=N_CTX)

    for n_turns in (1, 2, 9):
        with pytest.raises(ContextFullError):
            drop_oldest(conversation(n_turns), never, n_ctx=N_CTX, max_tokens=None)


def test_without_turns_keeps_what_stands_before() -> None:
    kept, left_out = without_turns(conversation(3), 2)
    assert [m["content"] for m in kept] == ["s", "2"]
    assert [m["role"] for m in left_out] == ["user", "assistant", "user", "assistant", "tool", "assistant"]


def test_a_full_chat_goes_on_and_says_so(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sampler, "draw", lambda *_: session.tokenize("word")[0])
    careful, chat = session.chat(system="Be brief."), session.chat(system="Be brief.", on_full="drop_oldest")
    fork = chat.fork()
    for number in range(8):
        reply = chat.send(scene(0), f"number {number} " * 40, max_tokens=20)
        assert reply.usage.prompt_tokens + reply.usage.completion_tokens <= session.options.n_ctx
    assert chat.dropped and chat.messages[0] == {"role": "system", "content": "Be brief."}
    numbers = [m["content"][1]["text"][:8] for m in chat.dropped + chat.messages if m["role"] == "user"]
    assert numbers == [f"number {i}" for i in range(8)]
    assert fork.on_full == "drop_oldest" and not fork.dropped
    with pytest.raises(ContextFullError, match="n_ctx"):
        for number in range(8):
            careful.send(scene(0), f"number {number} " * 40, max_tokens=20)
    before = list(chat.messages)
    with pytest.raises(ContextFullError):
        chat.send("word " * 3000)
    assert chat.messages == before


def test_the_reply_that_drops_says_how_many(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sampler, "draw", lambda *_: session.tokenize("word")[0])
    chat = session.chat(on_full="drop_oldest")
    replies = [chat.send("some words " * 60, max_tokens=5) for _ in range(10)]
    said = [reply.warnings[0] for reply in replies if reply.warnings]
    counts = [int(re.fullmatch(r"The context is full\. .*oldest first: (\d+)\.", text)[1]) for text in said]  # type: ignore[index]
    assert counts and sum(counts) == len(turn_starts(chat.dropped))
    assert len(turn_starts(chat.dropped)) + len(turn_starts(chat.messages)) == 10
    with pytest.raises(OptionError, match="drop_oldest"):
        session.chat(on_full="shrug")  # type: ignore[arg-type]
