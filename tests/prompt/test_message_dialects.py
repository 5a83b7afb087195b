"""One conversation as several APIs write it: always the same; and keys that nobody knows are refused."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dialects import ARGUMENTS, B64, DIALECTS, PNG, RESULT

from gemma4_gguf.errors import MessageError
from gemma4_gguf.prompt.call_results import pair_results
from gemma4_gguf.prompt.messages import check_messages
from gemma4_gguf.types import Image, ToolCall


def plain(messages: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """What a conversation says, whatever its cut into messages."""
    said: dict[str, list[Any]] = {"texts": [], "images": [], "thoughts": [], "calls": [], "results": []}
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) and content else content or []
        texts = ["text" in part and part["text"] for part in parts]
        where = "results" if message["role"] == "tool" else "texts"
        said[where] += [(message["role"], text) for text in texts if text]
        said["images"] += [part["image"].source for part in parts if part["type"] == "image"]
        said["thoughts"] += [message["reasoning_content"]] if "reasoning_content" in message else []
        said["calls"] += [call["function"] for call in message.get("tool_calls", ())]
    return said


@pytest.mark.parametrize("messages", DIALECTS.values(), ids=DIALECTS)
def test_every_dialect_says_the_same(messages: list[Any]) -> None:
    checked = pair_results(check_messages(messages))
    assert plain(checked) == {
        "texts": [("system", "Be brief."), ("user", "Look:"), ("assistant", "Rain.")],
        "images": [PNG],
        "thoughts": ["Hm."],
        "calls": [{"name": "weather", "arguments": ARGUMENTS}],
        "results": [("tool", json.dumps(RESULT))],
    }
    assert next(m for m in checked if m["role"] == "tool")["name"] == "weather"
    assert pair_results(check_messages(checked)) == checked


def one(message: Any) -> dict[str, Any]:
    (checked,) = check_messages([message])
    return checked


def test_calls_side_by_side_in_responses_are_one_message() -> None:
    items: list[dict[str, Any]] = [{"role": "user", "content": "go"}]
    items += [{"type": "function_call", "call_id": i, "name": "f", "arguments": "{}"} for i in "abc"]
    items += [{"type": "function_call_output", "call_id": i, "output": i} for i in "cab"]
    found = pair_results(check_messages(items))
    assert [message["role"] for message in found] == ["user", "assistant", "tool", "tool", "tool"]
    assert [message["content"] for message in found[2:]] == ["a", "b", "c"]


def test_results_beside_other_words_come_first() -> None:
    block = {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "1"}]}
    found = check_messages([{"role": "user", "content": [{"type": "text", "text": "So?"}, block]}])
    assert [m["role"] for m in found] == ["tool", "user"]
    assert found[1]["content"] == [{"type": "text", "text": "So?"}]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"a": [1, None, "é"]}, '{"a": [1, null, "é"]}'),
        ([1, 2], "[1, 2]"),
        (["a.png", "b.png"], '["a.png", "b.png"]'),
        ([{"city": "Oslo"}], '[{"city": "Oslo"}]'),
        ({"type": "city"}, '{"type": "city"}'),
        (21.5, "21.5"),
        (True, "true"),
        ("", ""),
        (None, None),
    ],
    ids=str,
)
def test_results_that_are_data_become_json(content: Any, text: Any) -> None:
    assert one({"role": "tool", "tool_call_id": "a", "content": content})["content"] == text


def test_results_of_mcp() -> None:
    blocks = [{"type": "text", "text": "a"}, {"type": "image", "data": B64, "mimeType": "image/png"}]
    found = one(
        {"role": "tool", "content": {"content": blocks, "isError": False, "structuredContent": {"a": 1}}}
    )
    assert found["content"] == [{"type": "text", "text": "a"}, {"type": "image", "image": Image(PNG)}]
    failed = one({"role": "tool", "content": "no such place", "is_error": True})
    assert json.loads(failed["content"]) == {"error": "no such place"}


@pytest.mark.parametrize(
    "call",
    [
        ToolCall("c1", "weather", ARGUMENTS),
        {"id": "c1", "name": "weather", "args": ARGUMENTS, "type": "tool_call"},
        {"id": "c1", "function": {"name": "weather", "arguments": ARGUMENTS}, "index": 0},
        {
            "call_id": "c1",
            "id": "x",
            "type": "function_call",
            "name": "weather",
            "arguments": json.dumps(ARGUMENTS),
        },
        {"type": "tool_use", "id": "c1", "name": "weather", "input": ARGUMENTS},
    ],
    ids=str,
)
def test_calls_in_every_shape(call: Any) -> None:
    function = {"name": "weather", "arguments": ARGUMENTS}
    found = one({"role": "assistant", "content": None, "tool_calls": [call]})
    assert found["tool_calls"] == [{"id": "c1", "type": "function", "function": function}]


@pytest.mark.parametrize("key", ["id", "tool_call_id"])
@pytest.mark.parametrize(
    ("value", "read"), [(7, "7"), ("7", "7"), ("", None), (None, None), (True, 0), (7.5, 0), ([], 0)]
)
def test_one_rule_for_ids(key: str, value: Any, read: Any) -> None:
    call = {"id": value, "function": {"name": "f", "arguments": {}}}
    called = {"role": "assistant", "content": None, "tool_calls": [call]}
    message = called if key == "id" else {"role": "tool", "content": "", "tool_call_id": value}
    if read == 0:
        with pytest.raises(MessageError, match=key):
            one(message)
    else:
        found = one(message)
        assert (found["tool_calls"][0] if key == "id" else found).get(key) == read


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "no number"),
        ('{"a": 1e999}', "JSON cannot hold"),
        ({"a": float("nan")}, "JSON cannot hold"),
        ('{"a": ' + "9" * 5000 + "}", "no JSON"),
        (nested(200), "levels deep"),
        (nested(100_000), "no JSON|levels deep"),
        ({1: 2}, "key 1"),
        ({"a": {1, 2}}, "JSON cannot hold"),
        ({"a": SimpleNamespace()}, "JSON cannot hold"),
        (7, "expected a JSON object"),
        (b"{}", "expected a JSON object"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_arguments_are_json(arguments: Any, match: str) -> None:
    call = {"function": {"name": "f", "arguments": arguments}}
    with pytest.raises(MessageError, match=match) as raised:
        one({"role": "assistant", "content": None, "tool_calls": [call]})
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    ("message", "key"),
    [
        ({"role": "user", "content": "a", "attachments": ["b"]}, "attachments"),
        ({"role": "user", "content": "a", "context": "b"}, "context"),
        ({"role": "user", "content": 0}, "content is a int"),
        ({"role": "assistant", "content": "a", "refusal": "b"}, "content and refusal"),
        ({"role": "assistant", "content": "a", "thinking_blocks": 5}, "expected text"),
        ({"role": "user", "content": "a", "parts": ["b"]}, "content and parts"),
        ({"role": "user", "content": "a", "reasoning": "b"}, "only the assistant thinks"),
        ({"role": "assistant", "content": "a", "reasoning": "b", "reasoning_content": "c"}, "differ"),
        ({"role": "assistant", "content": "a", "audio": {"id": "b"}}, "audio"),
        ({"role": "assistant", "content": "a", "prefix": True}, "prefix"),
        ({"role": "assistant", "content": "a", "reasoning": 5}, "expected text"),
        (
            {"role": "assistant", "tool_calls": [{"type": "custom", "custom": {"name": "f", "input": "x"}}]},
            "tool_calls",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}, "result": 1}}]},
            "result",
        ),
        ({"role": "tool", "content": "a", "artifact": {"b": 1}}, "artifact"),
        ({"role": "tool", "content": [{"type": "thinking", "thinking": "a"}]}, "nothing else"),
        (
            {"role": "tool", "content": [{"type": "text", "text": "a"}, {"type": "resource_link"}]},
            "resource_link",
        ),
        ({"role": "assistant", "reasoning": np.zeros(2), "thinking": np.zeros(2)}, "differ"),
        ({"role": "user", "content": "a", "images": B64}, "images is a str"),
        ({"role": "user", "content": b"a"}, "content is a bytes"),
        ({"role": "user", "content": "a", "name": 5}, "name is a int"),
        ({"type": "web_search_call", "id": "a"}, "role None"),
        ({"from": "human", "value": "a"}, "role None"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_keys_that_say_something_are_refused_by_name(message: Any, key: str) -> None:
    with pytest.raises(MessageError, match=key):
        check_messages([message])


@pytest.mark.parametrize("empty", [None, "", [], {}, False])
def test_empty_and_known_keys_are_fine(empty: Any) -> None:
    message = {
        "role": "assistant",
        "content": "a",
        "audio": empty,
        "attachments": empty,
        "model": "x",
        "usage": {"a": 1},
    }
    assert one(message) == {"role": "assistant", "content": "a"}
