"""Tool choice: what OpenAI, Anthropic, Gemini, Bedrock and MCP write → whether to call, and which tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gemma4_gguf.errors import OptionError

Mode = Literal["auto", "none", "required"]

# "validated" is Gemini's word for calls that follow their declarations, if there are any.
_MODES: dict[str, Mode] = {
    "auto": "auto",
    "none": "none",
    "required": "required",
    "any": "required",
    "validated": "auto",
}
_WRAPPERS = ("toolConfig", "tool_config", "functionCallingConfig", "function_calling_config")
_NAME_LISTS = ("allowedFunctionNames", "allowed_function_names")


@dataclass(frozen=True)
class ToolChoice:
    """How a reply may call.

    Args:
        mode: calls are left to the model, barred, or demanded.
        names: of the tools that may be called; None for all.
        strict: calls follow their declarations.
        parallel: one reply may call more than once.
    """

    mode: Mode = "auto"
    names: tuple[str, ...] | None = None
    strict: bool = False
    parallel: bool = True

    def allows(self, name: str) -> bool:
        """Whether a tool may be called.

        Args:
            name: of the tool.

        Returns:
            True for all where none are named.
        """
        return self.names is None or name in self.names


def read_tool_choice(given: Any, tools: Sequence[str]) -> ToolChoice:
    """Reads `tool_choice`.

    Args:
        given: "auto", "none", "required" (or "any"), the name of a tool, a dict as one of the providers has
            it, or a ToolChoice.
        tools: names of the declared tools.

    Returns:
        The choice.

    Raises:
        OptionError: it is none of these, names a tool that there is not, or demands a call without tools.
    """
    choice = given if isinstance(given, ToolChoice) else _read(given, tools)
    unknown = [name for name in choice.names or () if name not in tools]
    if choice is _UNKNOWN or unknown or choice.names == ():
        known = ", ".join(tools) or "none is given"
        raise OptionError(f"tool_choice is {given!r}; expected auto, none, required or a tool ({known}).")
    if choice.mode == "required" and not tools:
        raise OptionError(f"tool_choice is {given!r}, but there are no tools.")
    return choice


def later_choice(given: Any, tools: Sequence[str]) -> str | Mapping[str, Any]:
    """What a choice means for the replies after the first: a call that is demanded each time would never end.

    Args:
        given: as for `read_tool_choice`.
        tools: names of the declared tools.

    Returns:
        The choice itself, or the same without the demand; of several tools that were named, only those may
        still be called.

    Raises:
        OptionError: as `read_tool_choice`.
    """
    choice = read_tool_choice(given, tools)
    if choice.mode != "required":
        return given
    if choice.names is None or len(choice.names) == 1:
        return "auto"
    return {"mode": "auto", "allowedFunctionNames": list(choice.names)}


_UNKNOWN = ToolChoice(names=())


def _read(given: Any, tools: Sequence[str]) -> ToolChoice:
    if isinstance(given, str):
        if given in ("auto", "none", "required"):
            return ToolChoice(_MODES[given])
        return ToolChoice("required") if given == "any" and given not in tools else _named(given)
    if not isinstance(given, Mapping):
        return _UNKNOWN
    rest = {key: value for key, value in given.items() if value is not None}
    wrapper = next((key for key in _WRAPPERS if key in rest), None)
    if wrapper is not None:
        return (
            _read(rest[wrapper], tools) if len(rest) == 1 and isinstance(rest[wrapper], Mapping) else _UNKNOWN
        )
    one_call = rest.pop("disable_parallel_tool_use", False)
    read = _read_dict(rest)
    return ToolChoice(read.mode, read.names, read.strict, parallel=False) if one_call is True else read


def _read_dict(given: dict[str, Any]) -> ToolChoice:
    kind, keys = given.get("type"), set(given)
    if kind in ("auto", "none", "required", "any") and keys == {"type"}:  # Anthropic
        return ToolChoice(_MODES[kind])
    if kind in ("function", "tool", None) and keys - {"type"} == {"name"}:  # Anthropic, Responses
        return _named(given["name"])
    if kind in ("function", None) and keys - {"type"} == {"function"}:  # Chat Completions
        inner = given["function"]
        return _named(inner["name"]) if isinstance(inner, Mapping) and set(inner) == {"name"} else _UNKNOWN
    if kind == "allowed_tools":
        inner = given.get("allowed_tools", given)
        return _allowed(inner.get("mode"), inner.get("tools")) if isinstance(inner, Mapping) else _UNKNOWN
    if kind is None and "mode" in given and keys <= {"mode", *_NAME_LISTS}:  # Gemini, MCP
        names = next((given[key] for key in _NAME_LISTS if given.get(key)), None)
        return _allowed(given["mode"], names)
    if keys in ({"auto"}, {"any"}) and given.get("auto", given.get("any")) == {}:  # Bedrock
        return ToolChoice(_MODES[next(iter(keys))])
    if keys == {"tool"} and isinstance(given["tool"], Mapping):
        return _named(given["tool"].get("name"))
    return _UNKNOWN


def _named(name: Any) -> ToolChoice:
    return ToolChoice("required", (name,)) if isinstance(name, str) else _UNKNOWN


def _allowed(mode: Any, tools: Any) -> ToolChoice:
    """A mode beside a list of names, or of tools with them."""
    if not isinstance(mode, str) or mode.lower() not in _MODES:
        return _UNKNOWN
    strict = mode.lower() == "validated"
    if tools is None:
        return ToolChoice(_MODES[mode.lower()], strict=strict)
    if isinstance(tools, str) or not isinstance(tools, Sequence):
        return _UNKNOWN
    choices = [_named(tool) if isinstance(tool, str) else _read(tool, ()) for tool in tools]
    names = tuple(name for choice in choices for name in choice.names or ("",))
    return ToolChoice(_MODES[mode.lower()], names, strict) if all(names) else _UNKNOWN
