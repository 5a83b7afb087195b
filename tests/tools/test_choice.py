"""tool_choice in the spellings of the providers."""

from __future__ import annotations

from typing import Any

import pytest

from gemma4_gguf.errors import OptionError
from gemma4_gguf.tools.choice import ToolChoice, later_choice, read_tool_choice

TOOLS = ["read", "write", "auto"]
READ, BOTH = ("read",), ("read", "write")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("auto", ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ("any", ToolChoice("required")),
        ("read", ToolChoice("required", READ)),
        ({"type": "function", "function": {"name": "read"}}, ToolChoice("required", READ)),
        ({"type": "function", "function": {"name": "auto"}}, ToolChoice("required", ("auto",))),
        ({"function": {"name": "read"}}, ToolChoice("required", READ)),
        ({"type": "function", "name": "read"}, ToolChoice("required", READ)),
        ({"name": "read"}, ToolChoice("required", READ)),
        ({"type": "auto"}, ToolChoice("auto")),
        ({"type": "none"}, ToolChoice("none")),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "tool", "name": "read"}, ToolChoice("required", READ)),
        ({"type": "any", "disable_parallel_tool_use": True}, ToolChoice("required", parallel=False)),
        ({"type": "auto", "disable_parallel_tool_use": False}, ToolChoice("auto")),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "read"}]},
            ToolChoice("auto", READ),
        ),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": name}} for name in BOTH],
                },
            },
            ToolChoice("required", BOTH),
        ),
        ({"mode": "AUTO"}, ToolChoice("auto")),
        ({"mode": "required"}, ToolChoice("required")),
        ({"functionCallingConfig": {"mode": "NONE"}}, ToolChoice("none")),
        (
            {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["read", "write"]}},
            ToolChoice("required", BOTH),
        ),
        (
            {"function_calling_config": {"mode": "ANY", "allowed_function_names": ["read"]}},
            ToolChoice("required", READ),
        ),
        ({"toolConfig": {"functionCallingConfig": {"mode": "VALIDATED"}}}, ToolChoice("auto", strict=True)),
        ({"any": {}}, ToolChoice("required")),
        ({"tool": {"name": "read"}}, ToolChoice("required", READ)),
        (ToolChoice("none"), ToolChoice("none")),
    ],
)
def test_spellings(given: Any, expected: ToolChoice) -> None:
    assert read_tool_choice(given, TOOLS) == expected


def test_a_tool_called_any_is_meant_by_its_name() -> None:
    assert read_tool_choice("any", ["any"]) == ToolChoice("required", ("any",))


@pytest.mark.parametrize(
    "given",
    [
        "delete",
        "",
        "AUTO",
        None,
        True,
        3,
        ["read"],
        {},
        {"type": "tool"},
        {"type": "tool", "name": "delete"},
        {"type": "tool", "name": ["read"]},
        {"type": "web_search_preview"},
        {"type": "mcp", "server_label": "x"},
        {"type": "auto", "name": "read"},
        {"type": "function", "function": {}},
        {"type": "allowed_tools", "mode": "auto", "tools": []},
        {"type": "allowed_tools", "mode": "auto", "tools": "read"},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "delete"}]},
        {"type": "allowed_tools", "tools": [{"type": "function", "name": "read"}]},
        {"mode": "SOMETIMES"},
        {"mode": "ANY", "allowedFunctionNames": ["delete"]},
        {"functionCallingConfig": {"mode": "ANY"}, "other": 1},
        {"functionCallingConfig": "ANY"},
    ],
)
def test_everything_else_is_refused(given: Any) -> None:
    with pytest.raises(OptionError, match=r"tool_choice is .*\(read, write, auto\)"):
        read_tool_choice(given, TOOLS)


@pytest.mark.parametrize("given", ["required", {"type": "any"}, {"mode": "ANY"}])
def test_a_call_cannot_be_demanded_without_tools(given: Any) -> None:
    with pytest.raises(OptionError, match="there are no tools"):
        read_tool_choice(given, [])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("auto", ToolChoice("auto")),
        ({"type": "none"}, ToolChoice("none")),
        ({"type": "any"}, ToolChoice("auto")),
        ("read", ToolChoice("auto")),
        ({"mode": "ANY", "allowedFunctionNames": ["read", "write"]}, ToolChoice("auto", BOTH)),
        ({"mode": "AUTO", "allowedFunctionNames": ["read"]}, ToolChoice("auto", READ)),
    ],
)
def test_what_is_demanded_is_demanded_once(given: Any, expected: ToolChoice) -> None:
    assert read_tool_choice(later_choice(given, TOOLS), TOOLS) == expected
