"""Fields of messages and parts: each key is read, known to say nothing to a model, or refused by name."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from gemma4_gguf.errors import MessageError
from gemma4_gguf.types import holds

# What programs keep beside the words: numbers of requests, counts, times, signatures of a provider.
_METADATA = frozenset(
    word
    for line in (
        "_meta annotations cache_control caller citations created created_at display_name displayName done",
        "done_reason encrypted_content eval_count eval_duration extra_content file_name filename",
        "finish_reason format id index load_duration logprobs media_type mediaType metadata mime_type",
        "mimeType model object phase prompt_eval_count prompt_eval_duration provider provider_options",
        "providerOptions signature status stop_details stop_reason stop_sequence thought_signature",
        "thoughtSignature timestamp total_duration usage weight",
    )
    for word in line.split()
)


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


class Fields:
    """The keys of one message or part, each to be taken once.

    Args:
        given: a dict, or a Pydantic model such as those of OpenAI's package.
        where: its place, for messages.

    Raises:
        MessageError: it is neither.
    """

    def __init__(self, given: Any, where: str) -> None:
        if isinstance(given, BaseModel):
            given = given.model_dump(exclude_none=True)
        if not isinstance(given, Mapping):
            raise MessageError(f"{where} is a {type(given).__name__}; expected a dict.")
        self.where = where
        self._left = {str(key): value for key, value in given.items()}
        self._taken: list[str] = []

    def take(self, *names: str) -> Any:
        """Takes what stands under one of several spellings of a key.

        Args:
            names: spellings.

        Returns:
            The value; None if there is none.

        Raises:
            MessageError: two spellings hold different things.
        """
        self._taken += names
        found = {name: self._left.pop(name) for name in names if name in self._left}
        found = {name: value for name, value in found.items() if holds(value)} or found
        first, *others = found.items() or [("", None)]
        for name, value in others:
            if holds(value) and not _same(value, first[1]):
                raise MessageError(f"{self.where} has {first[0]} and {name}, which differ; expected one.")
        return first[1]

    def done(self) -> None:
        """Ends the reading.

        Raises:
            MessageError: a key was not taken, and holds something.
        """
        left = [name for name, value in self._left.items() if name not in _METADATA and holds(value)]
        if left:
            raise MessageError(
                f"{self.where} has the key {left[0][:80]!r}, which is not read here. Known are "
                f"{', '.join(sorted(set(self._taken)))}. Put what it says into one of these, or leave it out."
            )


def _same(one: Any, other: Any) -> bool:
    try:
        return type(one) is type(other) and bool(one == other)
    except ValueError:  # arrays
        return False


def shown(value: Any) -> str:
    """A value in a message: a line, however much it holds.

    Args:
        value: of any type.

    Returns:
        The beginning of its repr.
    """
    return _REPR.repr(value)
