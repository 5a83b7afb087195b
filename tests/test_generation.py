"""How a reply is drawn: its end, whole characters, thoughts and calls apart, stop texts, banned tokens."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nano_samples import GREEDY, scene

from gemma4_gguf import Session, ToolCall, generation, tools
from gemma4_gguf.engine.sampler import Sampler
from gemma4_gguf.errors import ContextFullError, OptionError
from gemma4_gguf.prompt import messages
from gemma4_gguf.reply.stop_text import StopText

TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks somewhere",
        "parameters": {"type": "object", "properties": {"where": {"type": "string"}}},
    },
}


def script(monkeypatch: pytest.MonkeyPatch, session: Session, text: str) -> None:
    """Makes the sampler draw the tokens of a text, then <turn|>."""
    ids = iter([*session.tokenize(text), *session.tokenize("<turn|>") * 4])
    monkeypatch.setattr(Sampler, "draw", lambda *_: next(ids))


# The end


def test_length_ends_a_reply(session: Session) -> None:
    whole = session.ask(scene(0), "detect", **GREEDY)
    reply = session.ask(scene(0), "detect", temperature=0, max_tokens=7)
    assert reply.finish_reason == "length" and reply.usage.completion_tokens == 7
    assert whole.text.startswith(reply.text) and reply.text


def test_a_full_context_ends_a_reply_and_refuses_a_prompt(nano: Path) -> None:
    with Session(nano, n_ctx=40, projector=None, n_threads=2) as session:
        reply = session.ask(
            "detect", temperature=5.0, top_k=0, seed=1, logit_bias={6: -1e9, 1: -1e9, 13: -1e9}
        )
        assert reply.finish_reason == "length"
        assert reply.usage.prompt_tokens + reply.usage.completion_tokens == 41
        with pytest.raises(ContextFullError) as caught:
            session.stream("detect " * 50)
        assert caught.value.n_ctx == 40 < caught.value.n_tokens
        assert session.ask("detect", **GREEDY | {"max_tokens": 3}).usage.completion_tokens == 3


def test_seeds_reproduce(session: Session) -> None:
    hot = {"temperature": 3.0, "top_k": 0, "top_p": 1.0, "max_tokens": 40}
    one, same, other = (session.ask("detect", seed=seed, **hot).text for seed in (5, 5, 6))
    assert one == same != other


def test_nothing_forbidden_is_drawn(session: Session) -> None:
    special = session.facts.special_tokens
    push = {special["<|image|>"]: 1e6, special["<bos>"]: 1e6}
    reply = session.ask("detect", temperature=2.0, top_k=0, seed=3, max_tokens=30, logit_bias=push)
    assert "<|image|>" not in reply.text and "<bos>" not in reply.text and reply.text


# Text in, text out


def test_characters_are_whole_in_every_chunk(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Grüße — 漢字 🎈👩‍👩‍👧 </s> end"
    script(monkeypatch, session, text)
    chunks = [chunk.text for chunk in session.stream("x") if chunk.kind == "text"]
    assert "".join(chunks) == text and len(chunks) > 5
    script(monkeypatch, session, "🎈")
    cut = session.ask("x", max_tokens=2)
    assert cut.text == "\ufffd" and cut.finish_reason == "length"


def test_a_thought_comes_apart(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, session, "<|channel>thought\nHm, well.\n<channel|>Yes.")
    chunks = list(session.stream("x", thinking=True))
    assert "".join(c.text for c in chunks if c.kind == "thinking") == "Hm, well."
    assert chunks[-1].reply.thinking == "Hm, well." and chunks[-1].reply.text == "Yes."


def test_a_tool_call_comes_back(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    call = '<|tool_call>call:look{where:<|"|>up<|"|>}<tool_call|><|tool_response>'
    script(monkeypatch, session, f"Wait.{call}")
    reply = session.ask("x", tools=[TOOL])
    assert reply.finish_reason == "tool_calls" and reply.text == "Wait."
    (found,) = reply.tool_calls
    assert (found.name, found.arguments) == ("look", {"where": "up"})
    history = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [json_call(found)]}]
    script(monkeypatch, session, call)
    later = session.complete(
        [*history, {"role": "tool", "tool_call_id": found.id, "content": "sky"}], tools=[TOOL]
    )
    assert later.tool_calls[0].id != found.id, "ids are unique in a conversation"


def json_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": json.dumps(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


@pytest.mark.parametrize("stop", ["label", '": "', ["zzz", "circle", "red"], "}"])
def test_stop_texts_end_a_reply(stop: Any, session: Session) -> None:
    whole = session.ask(scene(0), "detect", **GREEDY).text
    ends = min(whole.index(text) for text in ([stop] if isinstance(stop, str) else stop) if text in whole)
    chunks = list(session.stream(scene(0), "detect", stop=stop, **GREEDY))
    reply = chunks[-1].reply
    assert reply.text == whole[:ends] == "".join(c.text for c in chunks if c.kind == "text")
    assert reply.finish_reason == "stop"
    assert reply.usage.completion_tokens < len(session.tokenize(whole))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text("abc", max_size=4), max_size=12),
    st.lists(st.text("abc", min_size=1), min_size=1, max_size=3),
)
def test_stop_texts_are_found_wherever_chunks_end(pieces: list[str], stops: list[str]) -> None:
    whole = "".join(pieces)
    found = [whole.index(stop) for stop in stops if stop in whole]
    filtered = StopText(stops)
    out = [filtered.push(piece) for piece in pieces]
    assert filtered.hit == bool(found)
    text = "".join([*out, filtered.flush()])
    if not found:
        assert text == whole
    else:
        assert whole.startswith(text) and not any(stop in text for stop in stops)
        assert len(text) <= max(found)
    assert filtered.passed == text


# Options


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"temprature": 1}, "temprature.*temperature"),
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": "hot"}, "'hot'"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"seed": -5}, "seed"),
    ],
)
def test_sampling_out_of_range(options: dict[str, Any], match: str, session: Session) -> None:
    with pytest.raises(OptionError, match=match):
        session.ask("detect", **options)


def test_a_turn_is_checked_once(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def ping(times: int) -> str:
        """Answers."""
        return "pong" * times

    counts: Counter[str] = Counter()

    def count(module: Any, name: str) -> None:
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args: counts.update([name]) or real(*args))

    count(messages, "_check_message")
    count(tools, "_from_function")
    count(generation, "reply_rules")
    session.ask("Hello!", tools=[ping], system="Be brief.", max_tokens=1)
    assert counts == {"_check_message": 2, "_from_function": 1, "reply_rules": 1}
    counts.clear()
    chat = session.chat(tools=[ping], on_full="drop_oldest")
    for turn in range(3):
        counts["_check_message"] = 0
        chat.send("Hello!", max_tokens=1)
        assert counts["_check_message"] == 2 * turn + 1
    assert counts["_from_function"] == 1, "declared when the chat was made"
