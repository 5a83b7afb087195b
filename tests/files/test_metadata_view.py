"""The typed view of GGUF metadata: what each getter takes, and how everything else is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from gemma4_gguf.errors import GGUFError
from gemma4_gguf.files.metadata_view import MetadataView

KEY = "gemma4.key"
Get = Callable[[MetadataView], Any]


def view_of(*values: Any) -> MetadataView:
    """A view of one entry, or of none."""
    return MetadataView(dict.fromkeys([KEY][: len(values)], *values), "model.gguf").section("gemma4")


def integer(**options: Any) -> Get:
    return lambda view: view.integer("key", **options)


def per_layer(n_layers: int = 3, **options: Any) -> Get:
    return lambda view: view.per_layer("key", n_layers, **options)


def first_layer(**options: Any) -> Get:
    return lambda view: view.first_layer("key", **options)


def flags(n_layers: int = 3, **options: Any) -> Get:
    return lambda view: view.flags("key", n_layers, **options)


def number(**options: Any) -> Get:
    return lambda view: view.number("key", **options)


def numbers(length: int = 3) -> Get:
    return lambda view: view.numbers("key", length)


def text(**options: Any) -> Get:
    return lambda view: view.text("key", **options)


def flag(**options: Any) -> Get:
    return lambda view: view.flag("key", **options)


@pytest.mark.parametrize(
    ("get", "value", "expected"),
    [
        (integer(), 1, 1),
        (integer(), 2**31 - 1, 2**31 - 1),
        (integer(minimum=-1, maximum=0), -1, -1),
        (integer(default=5), 7, 7),
        (per_layer(), 4, [4, 4, 4]),
        (per_layer(), [4, 2, 1], [4, 2, 1]),
        (per_layer(minimum=0), [0, 0, 1], [0, 0, 1]),
        (per_layer(exact=False), [4, 2, 1, 9], [4, 2, 1]),
        (per_layer(exact=False), [4, 2], [4, 2]),
        (first_layer(), 4, 4),
        (first_layer(), [-2, 8], -2),
        (flags(), [True, False, True], [True, False, True]),
        (flags(), [1, 0, 1], [True, False, True]),
        (flags(exact=False), True, [True, True, True]),
        (flags(exact=False), [True, False, True, True], [True, False, True]),
        (flags(exact=False), [True], [True]),
        (number(), 0.0, 0.0),
        (number(below=1.0), 1e-6, 1e-6),
        (number(minimum=-1.0), -0.5, -0.5),
        (numbers(), [0.0, -1.0, 0.5], [0.0, -1.0, 0.5]),
        (text(), "", ""),
        (text(one_of=("causal", "bidirectional")), "causal", "causal"),
        (flag(), False, False),
        (flag(default=False), True, True),
    ],
)
def test_right_values(get: Get, value: Any, expected: Any) -> None:
    assert get(view_of(value)) == expected


@pytest.mark.parametrize(
    ("get", "expected"),
    [
        (integer(default=0), 0),
        (per_layer(default=0), [0, 0, 0]),
        (first_layer(default=1), 1),
        (number(default=0.5), 0.5),
        (text(default="causal", one_of=("causal",)), "causal"),
        (flag(default=False), False),
    ],
)
def test_defaults_stand_for_missing_keys(get: Get, expected: Any) -> None:
    assert get(view_of()) == expected


@pytest.mark.parametrize(
    "get", [integer(), per_layer(), first_layer(), flags(), number(), numbers(), text(), flag()]
)
def test_missing_keys_are_refused(get: Get) -> None:
    with pytest.raises(GGUFError, match=r"^model\.gguf: gemma4\.key is missing; expected .+\. Convert"):
        get(view_of())


@pytest.mark.parametrize(
    ("get", "value", "found", "expected"),
    [
        (integer(), True, "is True", "a whole number from 1 to 2,147,483,647"),
        (integer(), 3.0, "is 3.0", "a whole number from 1 to 2,147,483,647"),
        (integer(), "3", "is '3'", "a whole number from 1 to 2,147,483,647"),
        (integer(), [3], "is [3]", "a whole number from 1 to 2,147,483,647"),
        (integer(), 0, "is 0", "a whole number from 1 to 2,147,483,647"),
        (integer(), 2**31, "is 2147483648", "a whole number from 1 to 2,147,483,647"),
        (integer(maximum=8), 9, "is 9", "a whole number from 1 to 8"),
        (integer(default=3), -1, "is -1", "a whole number from 1 to 2,147,483,647"),
        (per_layer(), True, "is True", "a whole number from 1 to 2,147,483,647, or one for each of 3 layers"),
        (per_layer(), 0, "is 0", "a whole number from 1 to 2,147,483,647, or one for each of 3 layers"),
        (
            per_layer(),
            [4, 2],
            "has 2 items",
            "a whole number from 1 to 2,147,483,647, or one for each of 3 layers",
        ),
        (
            per_layer(),
            [4] * 4,
            "has 4 items",
            "a whole number from 1 to 2,147,483,647, or one for each of 3 layers",
        ),
        (
            per_layer(),
            [4, 0, 4],
            "has 0 for layer 1",
            "a whole number from 1 to 2,147,483,647, or one for each of 3",
        ),
        (
            per_layer(),
            [4, 4, True],
            "has True for layer 2",
            "a whole number from 1 to 2,147,483,647, or one for each",
        ),
        (per_layer(maximum=4), [5, 4, 4], "has 5 for layer 0", "a whole number from 1 to 4, or one for"),
        (
            per_layer(),
            ["4"] * 3,
            "has '4' for layer 0",
            "a whole number from 1 to 2,147,483,647, or one for each",
        ),
        (
            per_layer(exact=False),
            [],
            "has 0 items",
            "a whole number from 1 to 2,147,483,647, or one for each of 3 layers",
        ),
        (
            per_layer(exact=False),
            4.0,
            "is 4.0",
            "a whole number from 1 to 2,147,483,647, or one for each of 3 layers",
        ),
        (first_layer(), True, "is True", "a whole number, or one per layer"),
        (first_layer(), [2.0], "is [2.0]", "a whole number, or one per layer"),
        (first_layer(default=1), [], "is []", "a whole number, or one per layer"),
        (flags(), True, "is True", "true or false for each of 3 layers"),
        (flags(), [True], "has 1 items", "true or false for each of 3 layers"),
        (flags(), [1.0] * 3, "is [1.0, 1.0, 1.0]", "true or false for each of 3 layers"),
        (flags(exact=False), "yes", "is 'yes'", "true or false for each of 3 layers"),
        (flags(exact=False), [], "has 0 items", "true or false for each of 3 layers"),
        (number(), 1, "is 1", "a floating-point number from 0 to below inf"),
        (number(), True, "is True", "a floating-point number from 0 to below inf"),
        (number(), "1.0", "is '1.0'", "a floating-point number from 0 to below inf"),
        (number(), math.nan, "is nan", "a floating-point number from 0 to below inf"),
        (number(), math.inf, "is inf", "a floating-point number from 0 to below inf"),
        (number(), -1e-9, "is -1e-09", "a floating-point number from 0 to below inf"),
        (number(below=1.0), 1.0, "is 1.0", "a floating-point number from 0 to below 1"),
        (numbers(), 0.5, "is 0.5", "a list of 3 floating-point numbers"),
        (numbers(), [0.5] * 2, "has 2 items", "a list of 3 floating-point numbers"),
        (numbers(), [0, 0, 0], "is [0, 0, 0]", "a list of 3 floating-point numbers"),
        (numbers(), [0.0, math.nan, 0.0], "is [0.0, nan, 0.0]", "a list of 3 floating-point numbers"),
        (text(), 3, "is 3", "text"),
        (text(), ["a"], "is ['a']", "text"),
        (text(one_of=("a", "b"), default="a"), "c", "is 'c'", "'a' or 'b'"),
        (flag(), 1, "is 1", "true or false"),
        (flag(default=True), "true", "is 'true'", "true or false"),
    ],
)
def test_other_values_are_refused(get: Get, value: Any, found: str, expected: str) -> None:
    with pytest.raises(GGUFError) as caught:
        get(view_of(value))
    message = str(caught.value)
    assert message.startswith(f"model.gguf: {KEY} {found}; expected {expected}")
    assert message.endswith(". Convert the checkpoint again, or download another file.")


def test_long_values_are_shortened() -> None:
    for value in ("x" * 10_000, [1.5] * 10_000):
        with pytest.raises(GGUFError) as caught:
            view_of(value).integer("key")
        assert len(str(caught.value)) < 250


def test_sections_lead_to_full_keys() -> None:
    view = MetadataView({"a.b.c": 1, "d": 2}, "x.gguf")
    inner = view.section("a").section("b")
    assert inner.where("c") == "x.gguf: a.b.c" and view.where("d") == "x.gguf: d"
    assert "c" in inner and "d" not in inner and "d" in view
    assert inner.integer("c") == 1 and view.section("").integer("d") == 2
