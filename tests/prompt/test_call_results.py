"""Calls and results: in the order of the calls, one for each, or refused."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from gemma4_gguf.errors import MessageError
from gemma4_gguf.prompt.call_results import open_calls, pair_results
from gemma4_gguf.prompt.messages import check_messages

USER = {"role": "user", "content": "go"}


def calls(*names: str, ids: Any = None) -> dict[str, Any]:
    functions = [{"type": "function", "function": {"name": name, "arguments": {}}} for name in names]
    if ids is not None:
        functions = [{"id": i} | function for i, function in zip(ids, functions, strict=True)]
    return {"role": "assistant", "content": None, "tool_calls": functions}


def result(text: str, **keys: Any) -> dict[str, Any]:
    return {"role": "tool", "content": text} | keys


def paired(*messages: Any) -> list[dict[str, Any]]:
    found = pair_results(check_messages([USER, *messages]))
    again = pair_results(check_messages(found))
    assert again == found, "pairing twice changes nothing"
    return found


def results_of(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(m["name"], m["content"]) for m in messages if m["role"] == "tool"]


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_results_take_the_order_of_their_calls(order: tuple[str, ...]) -> None:
    found = paired(calls("f", "f", "g", ids="abc"), *[result(i, tool_call_id=i) for i in order])
    assert results_of(found) == [("f", "a"), ("f", "b"), ("g", "c")]


@pytest.mark.parametrize(
    ("called", "results"),
    [
        (calls("f"), [result("1")]),
        (calls("f", ids=["x"]), [result("1")]),
        (calls("f", ids=[7]), [result("1", tool_call_id="7")]),
        (calls("f", ids=["7"]), [result("1", tool_call_id=7)]),
        (calls("f", ids=[""]), [result("1", tool_call_id="")]),
        (calls("f", "g"), [result("1", tool_name="f"), result("2", tool_name="g")]),
        (calls("f", "g"), [result("2", name="g"), result("1", name="f")]),
        (calls("f", "f"), [result("1"), result("2")]),
        (calls("f", "g", ids="ab"), [result("2", tool_call_id="b"), result("1")]),
        (calls("f", "g", ids="ab"), [result("1", tool_call_id="a"), USER, result("2", tool_call_id="b")]),
    ],
)
def test_what_can_only_mean_one_thing_is_mended(called: dict[str, Any], results: list[Any]) -> None:
    found = paired(called, *results)
    assert [text for _, text in results_of(found)] == ["1", "2"][: len(called["tool_calls"])]
    place = next(i for i, m in enumerate(found) if m.get("tool_calls"))
    assert [m["role"] for m in found[place + 1 : place + 1 + len(called["tool_calls"])]] == ["tool"] * len(
        called["tool_calls"]
    )


@pytest.mark.parametrize(
    ("messages", "match"),
    [
        ([result("1", tool_call_id="a")], r"messages\[1\] is the result of a tool, but no call"),
        ([calls("f", ids="a"), result("1", tool_call_id="b")], r"messages\[2\].*'b'.*f \(id 'a'\)"),
        ([calls("f"), result("1", name="g")], "a call of 'g'"),
        ([calls("f", ids="a"), result("1", tool_call_id="a"), result("2", tool_call_id="a")], "already"),
        ([calls("f", ids="a")], r"messages\[1\] calls f \(id 'a'\)"),
        ([calls("f", ids="a"), USER], "no result"),
        ([calls("f", "g", ids="ab"), result("1", tool_call_id="a")], r"calls g \(id 'b'\)"),
        ([calls("f", ids="a"), {"role": "assistant", "content": "Done."}], r"before messages\[2\]"),
        ([calls("f", ids="a"), calls("g", ids="b"), result("1", tool_call_id="b")], r"messages\[1\] calls f"),
        ([calls("f", "g", ids="aa"), result("1", tool_call_id="a")], "two calls with the id 'a'"),
        (
            [calls("f", ids="a"), result("1", tool_call_id="a"), USER, result("2", tool_call_id="a")],
            "already",
        ),
    ],
)
def test_the_rest_is_refused_by_place(messages: list[Any], match: str) -> None:
    with pytest.raises(MessageError, match=match):
        paired(*messages)


def test_ids_may_come_again_in_a_later_turn() -> None:
    turn = [
        calls("f", ids=["call_0"]),
        result("1", tool_call_id="call_0"),
        {"role": "assistant", "content": "x"},
    ]
    found = paired(*turn, USER, *turn)
    assert results_of(found) == [("f", "1"), ("f", "1")]


def test_calls_without_ids_get_free_ones() -> None:
    found = paired(calls("f"), result("1"), calls("g", ids=["call_1"]), result("2"), calls("h"), result("3"))
    ids = [m["tool_calls"][0]["id"] for m in found if m.get("tool_calls")]
    assert ids == ["call_0", "call_1", "call_2"]


def test_open_calls() -> None:
    called = calls("f", "g", ids="ab")
    assert [call["id"] for call in open_calls([USER, called])] == ["a", "b"]
    assert [call["id"] for call in open_calls([USER, called, result("1", tool_call_id="a")])] == ["b"]
    assert open_calls([USER, called, result("1", tool_call_id="a"), result("1", tool_call_id="b")]) == []
    assert open_calls([USER]) == open_calls([called, USER]) == []
