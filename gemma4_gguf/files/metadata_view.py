"""Metadata view: GGUF metadata whose missing or impossible values are errors that name key and file.

llama.cpp ends the process on some wrong types and reads others as rubbish, so types are exact: true is no
number, and a whole number no floating-point one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from reprlib import Repr
from typing import Any

from gemma4_gguf.errors import GGUFError

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS

_CONVERT_AGAIN = "Convert the checkpoint again, or download another file."
_LARGEST = 2**31 - 1  # llama.cpp holds sizes and token ids in 32 bits, many of them signed
# What a damaged file holds may be of any length.
_SHORT = Repr()
_SHORT.maxlist, _SHORT.maxstring, _SHORT.maxother = 8, 60, 60


class MetadataView:
    """A view of GGUF metadata.

    Args:
        metadata: entries by full key.
        file: path or name of the file, for messages.
        prefix: what all keys asked for start with, without the last dot; empty takes full keys.
    """

    def __init__(self, metadata: Mapping[str, Any], file: str | Path, prefix: str = "") -> None:
        self.file = file
        self._metadata = metadata
        self._prefix = prefix

    def __contains__(self, key: str) -> bool:
        return self._full(key) in self._metadata

    def where(self, key: str) -> str:
        """File and full key, as messages name them.

        Args:
            key: without the prefix.

        Returns:
            Such as "model.gguf: gemma4.block_count".
        """
        return f"{self.file}: {self._full(key)}"

    def error(self, key: str, expected: str, *, found: str | None = None) -> GGUFError:
        """What to raise for a value that is missing or cannot be used.

        Args:
            key: its key, or the name of a tensor that contradicts the metadata.
            expected: what it should be.
            found: what it does instead, such as "has 3 items"; None shows the value.

        Returns:
            Its message names file, key, what was found and what was expected.
        """
        if found is None:
            found = f"is {_SHORT.repr(self._metadata[self._full(key)])}" if key in self else "is missing"
        return GGUFError(f"{self.where(key)} {found}; expected {expected}. {_CONVERT_AGAIN}")

    def section(self, prefix: str) -> MetadataView:
        """The entries under a prefix, such as those of an architecture.

        Args:
            prefix: without the last dot.

        Returns:
            A view of the same metadata.
        """
        return MetadataView(self._metadata, self.file, self._full(prefix))

    def integer(
        self, key: str, *, minimum: int = 1, maximum: int = _LARGEST, default: int | None = None
    ) -> int:
        """A whole number.

        Args:
            key: its key.
            minimum: it must not be below.
            maximum: it must not be above.
            default: of a missing entry, of any size; None refuses it.

        Returns:
            The number.

        Raises:
            GGUFError: it is missing or cannot be used.
        """
        expected = f"a whole number {_range(minimum, maximum)}"
        value = self._value(key, expected, default)
        if type(value) is not int or (key in self and not minimum <= value <= maximum):
            raise self.error(key, expected)
        return value

    def per_layer(
        self,
        key: str,
        n_layers: int,
        *,
        minimum: int = 1,
        maximum: int = _LARGEST,
        default: int | None = None,
        exact: bool = True,
    ) -> list[int]:
        """Whole numbers of an entry that is one for all layers or one per layer.

        Args:
            key: its key.
            n_layers: layers of the model.
            minimum: of each number.
            maximum: of each number.
            default: for all layers of a missing entry; None refuses it.
            exact: refuse a list of another length; else a longer one is cut and a shorter one stays.

        Returns:
            One number per layer.

        Raises:
            GGUFError: the entry is missing or cannot be used.
        """
        expected = f"a whole number {_range(minimum, maximum)}, or one for each of {n_layers} layers"
        if key not in self and default is not None:
            return [default] * n_layers
        value = self._value(key, expected)
        items = value if isinstance(value, list) else [value] * n_layers
        if exact or not items:
            self._check_length(key, items, n_layers, expected)
        for layer, item in enumerate(items):
            if type(item) is not int or not minimum <= item <= maximum:
                found = f"has {_SHORT.repr(item)} for layer {layer}" if items is value else None
                raise self.error(key, expected, found=found)
        return items[:n_layers]

    def first_layer(self, key: str, *, default: int | None = None) -> int:
        """The first layer's number of an entry that is one for all layers or one per layer; of any size.

        Args:
            key: its key.
            default: of a missing entry; None refuses it.

        Returns:
            The number.

        Raises:
            GGUFError: it is missing or no whole number.
        """
        expected = "a whole number, or one per layer"
        value = self._value(key, expected, default)
        first = value[0] if isinstance(value, list) and value else value
        if type(first) is not int:
            raise self.error(key, expected)
        return first

    def flags(self, key: str, n_layers: int, *, exact: bool = True) -> list[bool]:
        """True or false for each layer; whole numbers count, since llama.cpp reads those, too.

        Args:
            key: its key.
            n_layers: layers of the model.
            exact: refuse anything but a list of that length; else one value may stand for all layers, a
                longer list is cut, and a shorter one stays.

        Returns:
            One each.

        Raises:
            GGUFError: the entry is missing or cannot be used.
        """
        expected = f"true or false for each of {n_layers} layers"
        value = self._value(key, expected)
        items = value if isinstance(value, list) or exact else [value] * n_layers
        if not isinstance(items, list) or not all(isinstance(item, int) for item in items):
            raise self.error(key, expected)
        if exact or not items:
            self._check_length(key, items, n_layers, expected)
        return [bool(item) for item in items[:n_layers]]

    def number(
        self, key: str, *, minimum: float = 0.0, below: float = math.inf, default: float | None = None
    ) -> float:
        """A floating-point number; NaN never is one.

        Args:
            key: its key.
            minimum: it must not be below.
            below: it must be below.
            default: of a missing entry, of any size; None refuses it.

        Returns:
            The number.

        Raises:
            GGUFError: it is missing or cannot be used.
        """
        expected = f"a floating-point number from {minimum:g} to below {below:g}"
        value = self._value(key, expected, default)
        if type(value) is not float or (key in self and not minimum <= value < below):
            raise self.error(key, expected)
        return value

    def numbers(self, key: str, length: int) -> list[float]:
        """A list of finite floating-point numbers.

        Args:
            key: its key.
            length: how many there must be.

        Returns:
            The numbers.

        Raises:
            GGUFError: the entry is missing or cannot be used.
        """
        expected = f"a list of {length} floating-point numbers"
        value = self._value(key, expected)
        if not isinstance(value, list):
            raise self.error(key, expected)
        self._check_length(key, value, length, expected)
        if not all(type(item) is float and math.isfinite(item) for item in value):
            raise self.error(key, expected)
        return value

    def text(self, key: str, *, one_of: Sequence[str] = (), default: str | None = None) -> str:
        """Text.

        Args:
            key: its key.
            one_of: texts it must be among; empty allows any.
            default: of a missing entry; None refuses it.

        Returns:
            The text.

        Raises:
            GGUFError: it is missing or cannot be used.
        """
        expected = " or ".join(map(repr, one_of)) or "text"
        value = self._value(key, expected, default)
        if not isinstance(value, str) or (one_of and value not in one_of):
            raise self.error(key, expected)
        return value

    def flag(self, key: str, *, default: bool | None = None) -> bool:
        """True or false.

        Args:
            key: its key.
            default: of a missing entry; None refuses it.

        Returns:
            The value.

        Raises:
            GGUFError: it is missing or neither.
        """
        value = self._value(key, "true or false", default)
        if type(value) is not bool:
            raise self.error(key, "true or false")
        return value

    def _full(self, key: str) -> str:
        return f"{self._prefix}.{key}" if self._prefix else key

    def _value(self, key: str, expected: str, default: Any = None) -> Any:
        if key in self:
            return self._metadata[self._full(key)]
        if default is None:
            raise self.error(key, expected)
        return default

    def _check_length(self, key: str, value: list[Any], length: int, expected: str) -> None:
        if len(value) != length:
            raise self.error(key, expected, found=f"has {len(value)} items")


def _range(minimum: int, maximum: int) -> str:
    return f"from {minimum} to {maximum:,}"
