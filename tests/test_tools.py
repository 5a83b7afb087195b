"""Tools: declared from functions, types and dicts, and run with whatever the model gives them."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from gemma4_gguf.errors import ToolError
from gemma4_gguf.tools import as_tools, run_call
from gemma4_gguf.types import Image, ToolCall


class Unit(Enum):
    C = "celsius"
    F = "fahrenheit"


class Place(BaseModel):
    """Where."""

    city: str
    country: str | None = None


def weather(place: Place, days: int = 1, unit: Unit = Unit.C) -> dict:
    """Forecast of the weather.

    Looks it up in a table.

    Args:
        place: where it is asked for.
        days: how many, at least one.
    """
    return {"city": place.city, "days": days, "unit": unit.value}


def call(name: str, **arguments: object) -> ToolCall:
    return ToolCall("call_0", name, dict(arguments))


def test_a_function_is_declared_by_its_signature_and_docstring() -> None:
    (tool,) = as_tools([weather])
    function = tool.declaration["function"]
    assert function["name"] == "weather"
    assert function["description"] == "Forecast of the weather.\nLooks it up in a table."
    schema = function["parameters"]
    assert schema["required"] == ["place"]
    assert schema["properties"]["days"] == {
        "default": 1,
        "description": "how many, at least one.",
        "type": "integer",
    }
    assert schema["properties"]["place"]["properties"]["city"] == {"type": "string"}
    assert schema["properties"]["place"]["description"] == "where it is asked for."
    assert schema["properties"]["unit"]["enum"] == ["celsius", "fahrenheit"]
    assert "$ref" not in json.dumps(schema) and "$defs" not in schema


def test_arguments_reach_the_function_in_its_own_types() -> None:
    result = run_call(
        as_tools([weather]), call("weather", place={"city": "Oslo"}, days="3", unit="fahrenheit")
    )
    assert not result.failed
    assert json.loads(result.content) == {"city": "Oslo", "days": 3, "unit": "fahrenheit"}


def test_a_pydantic_type_is_a_tool_that_returns_its_value() -> None:
    tools = as_tools([Place])
    assert tools[0].declaration["function"]["description"] == "Where."
    result = run_call(tools, call("Place", city="Rome"))
    assert json.loads(result.content) == {"city": "Rome", "country": None}


def test_an_openai_dict_keeps_its_schema_and_has_nothing_to_run() -> None:
    schema = {"type": "object", "properties": {"title": {"type": "string"}}}
    given = {"type": "function", "function": {"name": "book", "description": "d", "parameters": schema}}
    tools = as_tools([given])
    assert tools[0].declaration == given
    with pytest.raises(ToolError, match="without a function"):
        run_call(tools, call("book", title="x"))


def test_a_property_called_title_or_ref_survives() -> None:
    def book(title: str, model_name: Annotated[int, Field(ge=1)] = 2, _hidden: str = "h") -> str:
        return f"{title} {model_name} {_hidden}"

    tools = as_tools([book])
    assert list(tools[0].parameters["properties"]) == ["title", "model_name", "_hidden"]
    assert tools[0].parameters["properties"]["model_name"]["minimum"] == 1
    assert run_call(tools, call("book", title="T", _hidden="z")).content == "T 2 z"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "place"),
        ({"place": {"city": "Oslo"}, "days": "many"}, "days"),
        ({"place": {"city": "Oslo"}, "colour": 1}, "colour"),
    ],
)
def test_wrong_arguments_become_a_result_that_names_them(arguments: dict, said: str) -> None:
    result = run_call(as_tools([weather]), call("weather", **arguments))
    assert result.failed
    assert said in json.loads(result.content)["error"]


def test_an_unknown_tool_an_exception_and_a_timeout_become_results() -> None:
    def broken() -> None:
        raise ValueError("no such thing")

    def slow() -> None:
        time.sleep(5)

    tools = as_tools([broken, slow])
    unknown = run_call(tools, call("lost"))
    assert unknown.failed and "broken, slow" in unknown.content
    assert json.loads(run_call(tools, call("broken")).content) == {"error": "ValueError: no such thing"}
    assert "0.05 s" in run_call(tools, call("slow"), timeout_s=0.05).content


def test_ctrl_c_in_a_tool_is_not_swallowed() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    for timeout_s in (None, 5.0):
        with pytest.raises(KeyboardInterrupt):
            run_call(as_tools([stop]), call("stop"), timeout_s=timeout_s)


def test_media_in_a_result_stay_media() -> None:
    def look(where: Literal["here", "there"]) -> list:
        return ["seen", Image(b"x"), 3]

    content = run_call(as_tools([look]), call("look", where="here")).content
    assert content == ["seen", Image(b"x"), "3"]


def _untyped(x) -> None: ...  # type: ignore[no-untyped-def]


def _star(*names: str) -> None: ...


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ([_untyped], "type hint"),
        ([_star], "by name"),
        ([3], "expected a dict"),
        ([{"type": "function"}], "names no function"),
        ([{"name": "two words"}], "no tool name"),
        ([weather, weather], "same name|the name"),
        ("weather", "expected a list"),
        ([lambda: 1], "no tool name"),
    ],
)
def test_what_cannot_be_declared_is_refused(tools: object, said: str) -> None:
    with pytest.raises(ToolError, match=said):
        as_tools(tools)  # type: ignore[arg-type]


class Node(BaseModel):
    """A part of a tree."""

    children: list[Node] = []


def test_a_type_that_holds_itself_is_declared_as_far_as_it_goes() -> None:
    def grow(node: Node) -> int:
        return len(node.children)

    tools = as_tools([grow])
    shown = json.dumps(tools[0].shown)
    assert "Again Node (children)." in shown and "$ref" not in shown
    assert run_call(tools, call("grow", node={"children": [{"children": []}, {}]})).content == "2"


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (int | None, {"type": "integer", "nullable": True}),
        (Unit | None, {"type": "string", "enum": ["celsius", "fahrenheit"], "nullable": True}),
        (Literal[1, 2], {"type": "integer", "enum": [1, 2], "description": "One of: 1, 2."}),
        (Literal["a"] | None, {"type": "string", "enum": ["a"], "nullable": True}),
        (list[int | None], {"type": "array", "items": {"type": "integer", "nullable": True}}),
        (
            dict[str, int],
            {"type": "object", "properties": {}, "description": "Any keys, with values: integer."},
        ),
        (int | str, {"type": "integer", "description": "Integer or string."}),
        (Any, {"type": "string", "description": "Any JSON value."}),
        (
            tuple[int, str],
            {
                "type": "array",
                "items": {"type": ["integer", "string"]},
                "description": "In this order: integer, string.",
            },
        ),
        (datetime.date, {"type": "string", "format": "date"}),
        (decimal.Decimal, {"type": "number", "description": "Number or string."}),
    ],
)
def test_hints_are_shown_in_full(hint: Any, expected: dict) -> None:
    def f(x): ...  # type: ignore[no-untyped-def]

    f.__annotations__ = {"x": hint}
    shown = as_tools([f])[0].shown["function"]["parameters"]["properties"]["x"]
    keys = {"type", "enum", "nullable", "items", "properties", "description", "format"}
    assert {key: value for key, value in shown.items() if key in keys} == expected


def test_what_partial_binds_is_not_shown() -> None:
    def search(key: str, query: str, n: int = 3) -> str:
        """Searches.

        Args:
            query: what for.
        """
        return f"{key} {query} {n}"

    for bound in (partial(search, key="secret"), partial(search, "secret")):
        (tool,) = as_tools([bound])
        assert tool.name == "search" and tool.description == "Searches."
        assert list(tool.parameters["properties"]) == ["query", "n"]
        assert "secret" not in json.dumps(tool.declaration)
        assert run_call([tool], call("search", query="q")).content == "secret q 3"


def test_what_a_class_does_not_say_of_itself_is_not_said() -> None:
    class Silent(BaseModel):
        x: int

    @dataclass
    class Plain:
        x: int

    assert [tool.description for tool in as_tools([Silent, Plain])] == ["", ""]


def test_a_default_that_is_no_json_is_no_matter() -> None:
    missing = object()

    def f(x: Any = missing) -> bool:
        return x is missing

    assert run_call(as_tools([f]), call("f")).content == "true"


def _yields() -> Iterator[int]:
    yield 1


async def _yields_later() -> AsyncIterator[int]:
    yield 1


class _Yielding:
    def __call__(self) -> Iterator[int]:
        yield 1


def _takes_lock(lock: threading.Lock) -> None: ...


def _takes_function(then: Callable[[], None]) -> None: ...


class _Typed(TypedDict):
    x: int


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (_yields, "_yields yields"),
        (_yields_later, "_yields_later yields"),
        (_Yielding(), "_Yielding yields"),
        (partial(_yields), "_yields yields"),
        (_takes_lock, "takes what a model cannot write"),
        (_takes_function, "no JSON schema"),
        (print, "(by name|cannot be read)"),  # Python 3.10 knows no signature of it
        (math.sqrt, "by name"),
        (max, "cannot be read"),
        (_Typed, "class _Typed"),
        (Unit, "class Unit"),
        (ValueError, "class ValueError"),
    ],
)
def test_functions_that_cannot_be_declared_are_refused(function: Any, said: str) -> None:
    with pytest.raises(ToolError, match=rf"tools\[0\].*{said}"):
        as_tools([function])
