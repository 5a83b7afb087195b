"""Keywords → checked option values: unknown names and values out of range are refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, get_args

from gemma4_gguf.errors import OptionError
from gemma4_gguf.options import Device, SamplingOptions, SessionOptions, ToolOptions

_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "temperature": (lambda x: _is_number(x) and 0 <= x < math.inf, "0 or more"),
    "top_k": (lambda x: _is_whole(x) and x >= 0, "0 or more"),
    "top_p": (lambda x: _is_number(x) and 0 < x <= 1, "above 0, at most 1"),
    "min_p": (lambda x: _is_number(x) and 0 <= x <= 1, "0 to 1"),
    "repeat_penalty": (lambda x: _is_number(x) and 0 < x < math.inf, "above 0"),
    "max_tokens": (lambda x: x is None or (_is_whole(x) and x >= 1), "1 or more, or None"),
    "seed": (lambda x: x is None or (_is_whole(x) and x >= 0), "0 or more, or None"),
    "stop": (lambda x: all(isinstance(text, str) and text for text in x), "texts that are not empty"),
}


def session_options(given: Mapping[str, Any]) -> SessionOptions:
    """SessionOptions with the given fields.

    Raises:
        OptionError: a name is unknown or a device misspelt.
    """
    _require_names((SessionOptions,), given)
    options = SessionOptions(**given)
    if options.device not in get_args(Device):
        raise OptionError(f"device is {options.device!r}; expected one of {', '.join(get_args(Device))}.")
    return options


def with_overrides(options: SamplingOptions, given: Mapping[str, Any]) -> SamplingOptions:
    """SamplingOptions with some fields replaced.

    Args:
        options: what is not given stays as here.
        given: fields by name; `stop` may be one text, `logit_bias` a dict.

    Raises:
        OptionError: a name is unknown or a value out of range.
    """
    _require_names((SamplingOptions,), given)
    values = dict(given)
    if "stop" in values:
        stop = values["stop"]
        values["stop"] = (stop,) if isinstance(stop, str) else tuple(stop or ())
    bias = values.get("logit_bias")
    if isinstance(bias, Mapping):
        values["logit_bias"] = tuple((int(token), float(value)) for token, value in bias.items())
    options = replace(options, **values)
    _check(options)
    return options


def turn_options(sampling: SamplingOptions, given: Mapping[str, Any]) -> tuple[SamplingOptions, ToolOptions]:
    """What was said beside a question: how tokens are drawn, and how tools are called.

    Args:
        sampling: what is not given stays as here.
        given: fields of either type by name.

    Raises:
        OptionError: a name is unknown or a value out of range.
    """
    _require_names((SamplingOptions, ToolOptions), given)
    names = {field.name for field in fields(ToolOptions)}
    drawn = {name: value for name, value in given.items() if name not in names}
    calling = ToolOptions(**{name: value for name, value in given.items() if name in names})
    return with_overrides(sampling, drawn), calling


def _require_names(kinds: tuple[type, ...], given: Mapping[str, Any]) -> None:
    known = [field.name for kind in kinds for field in fields(kind)]
    for name in given:
        if name not in known:
            raise OptionError(f"There is no option {name!r}; known are {', '.join(known)}.")


def _check(options: SamplingOptions) -> None:
    for name, (inside, expected) in _RANGES.items():
        value = getattr(options, name)
        if not inside(value):
            raise OptionError(f"{name} is {value!r}; expected {expected}.")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float)
