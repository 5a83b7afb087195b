"""Tools: declared from functions, types and dicts, and run with whatever the model gives them."""

from __future__ import annotations

import json
import time
from enum import Enum
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

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


class Node(BaseModel):
    children: list[Node] = []


def _untyped(x) -> None: ...  # type: ignore[no-untyped-def]


def _star(*names: str) -> None: ...


def _recursive(node: Node) -> None: ...


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ([_untyped], "type hint"),
        ([_star], "by name"),
        ([_recursive], "contains itself"),
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
