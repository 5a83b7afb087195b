"""Task interface: a question and its reply, on which the tasks of a session rest."""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

from typing_extensions import Unpack

from gemma4_gguf.options import TurnOptions
from gemma4_gguf.types import Chunk, Part, Reply


class Asks(Protocol):
    """Something that answers: a Session."""

    def ask(self, *parts: Part, **options: Unpack[TurnOptions]) -> Reply:
        """Asks one question, without memory of earlier ones.

        Args:
            parts: text and media, in the order the model reads them.
            options: as for `Session.ask`.

        Returns:
            The whole reply.
        """

    def stream(self, *parts: Part, **options: Unpack[TurnOptions]) -> Generator[Chunk, None, None]:
        """Asks, and yields the reply as it comes; what is wrong with the question is raised at once.

        Args:
            parts: text and media, in the order the model reads them.
            options: as for `Session.ask`.

        Returns:
            Chunks, the last one of kind "end".
        """


def careful(options: TurnOptions, max_tokens: int | None = None) -> TurnOptions:
    """Options of `ask` for an answer that is to be read by a program.

    Args:
        options: as given; what they say counts.
        max_tokens: where a model that repeats itself is stopped; None leaves it. A thought is not limited.

    Returns:
        The options with the most likely token drawn each time, unless `sampling` says how.
    """
    chosen: TurnOptions = {**options}
    if chosen.get("sampling") is None:
        chosen.setdefault("temperature", 0)
        if max_tokens is not None and not chosen.get("thinking"):
            chosen.setdefault("max_tokens", max_tokens)
    return chosen
