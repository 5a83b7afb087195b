"""How a reply is drawn: its end, whole characters, thoughts and calls apart, stop texts, banned tokens."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nano_samples import GREEDY, scene

from gemma4_gguf import Session, ToolCall, generation
from gemma4_gguf.engine.guided_sampler import GuidedSampler
from gemma4_gguf.engine.sampler import Sampler
from gemma4_gguf.errors import ContextFullError, IncompleteReplyError, OptionError
from gemma4_gguf.prompt import messages
from gemma4_gguf.reply.stop_text import StopText
from gemma4_gguf.tools import declare

TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks somewhere",
        "parameters": {"type": "object", "properties": {"where": {"type": "string"}}},
    },
}


USER = {"role": "user", "content": "x"}


def script(monkeypatch: pytest.MonkeyPatch, session: Session, text: str) -> None:
    """Makes the sampler draw the tokens of a text, then <turn|>."""
    ids = iter([*session.tokenize(text), *session.tokenize("<turn|>") * 4])
    monkeypatch.setattr(Sampler, "draw", lambda *_: next(ids))

    def guided(sampler: GuidedSampler, *_: Any) -> int:
        token = next(ids)
        sampler.guide.commit(token)
        return token

    monkeypatch.setattr(GuidedSampler, "draw", guided)


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
    text = "Grüße — 漢字 🎈👩\u200d👩\u200d👧 e\u0301 \u200f\u3000</s> end"
    script(monkeypatch, session, text)
    chunks = [chunk.text for chunk in session.stream("x") if chunk.kind == "text"]
    assert "".join(chunks) == text and len(chunks) > 5


@pytest.mark.parametrize("text", ["🎈", "Ja — nein", "👩\u200d👩\u200d👧", "漢字"])
@pytest.mark.parametrize("how", ["length", "stop", "cancelled"])
def test_a_cut_leaves_no_half_character(
    text: str, how: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a reply is cut, its text is what the whole one begins with."""
    n_tokens = len(session.tokenize(text))
    for n in range(1, n_tokens + 1):
        if how == "stop":  # the model itself ends in the middle of a character
            ids = iter([*session.tokenize(text)[:n], *session.tokenize("<turn|>") * 4])
            monkeypatch.setattr(Sampler, "draw", lambda *_, ids=ids: next(ids))
            reply = session.ask("x")
        elif how == "length":
            script(monkeypatch, session, text)
            reply = session.ask("x", max_tokens=n)
        else:
            script(monkeypatch, session, text)
            generation_ = session.generate(generation.read_turn([USER], {}, session.sampling))
            stream, seen = generation_.stream(), ""
            while len(seen) < n and (chunk := next(stream)).kind != "end":
                seen += chunk.text
            stream.close()
            reply = generation_.reply
            assert reply.text == seen
        assert text.startswith(reply.text) and "\ufffd" not in reply.text
        assert reply.finish_reason == how or reply.text == text


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


@pytest.mark.parametrize(
    ("options", "called"),
    [
        ({}, True),
        ({"tool_choice": "none"}, False),
    ],
)
def test_a_call_without_its_marker(
    options: dict[str, Any], called: bool, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = 'call:look{where:<|"|>up<|"|>}'
    script(monkeypatch, session, f"Wait.\n{raw}")
    reply = session.ask("x", tools=[TOOL], **options)
    assert bool(reply.tool_calls) == called and ("call:" in reply.text) != called


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


ITEMS = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 2}


@pytest.mark.parametrize(
    ("schema", "drawn", "stop", "text", "parsed"),
    [
        (ITEMS, "[1, 2]", "]", "[1, 2]", [1, 2]),  # the value needs the stop text
        (ITEMS, "[1, 2]", "}", "[1, 2]", [1, 2]),
        (ITEMS, "[1, 2]", "2]", "[1, 2]", [1, 2]),
        (["yes", "no"], "yes", "s", "yes", "yes"),
        (["a", "ab"], "ab", "b", "a", "a"),  # it is whole without
        (re.compile("[a-z ]+"), "over and out", "and", "over ", "over "),
        (int, "12", "2", "1", 1),
        (ITEMS, "[1, 2]", ",", None, None),
        (["yes", "no"], "yes", "es", "yes", "yes"),
        (["yes, it is so", "no"], "yes, it is so", ",", None, None),
    ],
)
def test_text_and_value_agree_when_a_stop_text_comes(
    schema: Any,
    drawn: str,
    stop: str,
    text: str | None,
    parsed: Any,
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script(monkeypatch, session, drawn)
    if text is None:
        with pytest.raises(IncompleteReplyError, match="stop text"):
            session.ask("x", schema=schema, stop=stop)
        return
    chunks = list(session.stream("x", schema=schema, stop=stop))
    reply = chunks[-1].reply
    assert (reply.text, reply.parsed) == (text, parsed)
    assert "".join(chunk.text for chunk in chunks if chunk.kind == "text") == text


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
    count(declare, "_from_function")
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
