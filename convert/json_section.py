"""JSON section reader: one object of a JSON file, whose bad or missing values are errors with the key."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, Literal, overload

from gemma4_gguf.errors import ConfigError

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 100
_repr.maxlist = _repr.maxdict = 8
_FLOAT32 = (2.0**-126, (2.0 - 2.0**-23) * 2.0**127)  # smallest normal number, and the largest


def short(value: Any) -> str:
    """A value of a JSON file as Python writes it, cut to a line.

    Args:
        value: as parsed, of any depth and length.
    """
    return _repr.repr(value)


def shown(value: Any) -> str:
    """A value of a JSON file for a message: names as they are, everything else as `short` does.

    Args:
        value: as parsed, of any depth and length.
    """
    if isinstance(value, str) and value.isprintable() and len(value) <= 200:
        return value
    return short(value)


class Section:
    """A view of a JSON object.

    Args:
        values: the object.
        file: name of the file, for messages.
        path: keys that lead to the object, joined by dots.
    """

    def __init__(self, values: Mapping[str, Any], file: str, path: str = "") -> None:
        self.values = values
        self.file = file
        self._path = path

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def where(self, key: str) -> str:
        """File and full path of a key, as messages name it."""
        return f"{self.file}: {self._path}.{key}" if self._path else f"{self.file}: {key}"

    def error(self, key: str, expected: str) -> ConfigError:
        """What to raise for a value that is there but cannot be used."""
        found = f" is {short(self.values[key])}" if key in self.values else ""
        return ConfigError(f"{self.where(key)}{found}; expected {expected}.")

    def value(self, key: str) -> Any:
        """The value as it stands; null is a value.

        Raises:
            ConfigError: the key is missing.
        """
        if key not in self.values:
            raise ConfigError(
                f"{self.where(key)} is missing. Save the checkpoint again with its whole config."
            )
        return self.values[key]

    def optional(self, key: str) -> Any:
        """The value, or None if it is null or missing."""
        return self.values.get(key)

    def section(self, key: str) -> Section:
        """An object inside this one."""
        value = self.value(key)
        if not isinstance(value, dict):
            raise self.error(key, "an object")
        return Section(value, self.file, f"{self._path}.{key}" if self._path else key)

    def integer(self, key: str, *, minimum: int = 1, maximum: int = 2**31 - 1) -> int:
        """An integer from `minimum` to `maximum`."""
        value = self.value(key)
        if type(value) is not int or not minimum <= value <= maximum:
            raise self.error(key, f"an integer from {minimum} to {maximum:,}")
        return value

    def count(self, key: str) -> int:
        """An integer from 0 up; null counts as 0."""
        return 0 if self.value(key) is None else self.integer(key, minimum=0)

    @overload
    def number(self, key: str) -> float: ...
    @overload
    def number(self, key: str, *, null: Literal[True]) -> float | None: ...
    def number(self, key: str, *, null: bool = False) -> float | None:
        """A positive number that float32 can hold; with `null`, None stands for no number."""
        value = self.value(key)
        if value is None and null:
            return None
        if type(value) not in (int, float) or not _FLOAT32[0] <= value <= _FLOAT32[1]:
            raise self.error(key, "a positive number")
        return float(value)

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.value(key)
        if type(value) is not bool:
            raise self.error(key, "true or false")
        return value

    def fixed(self, key: str, expected: Any, *, required: bool = False) -> None:
        """Check a value that llama.cpp has built in; missing or null counts as equal, unless `required`."""
        if (required or self.optional(key) is not None) and self.value(key) != expected:
            raise self.error(key, f"{expected!r}, which llama.cpp has built in")
