"""Stop texts: those that end a reply, found wherever token boundaries fall."""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Finds texts that end a reply, wherever token boundaries fall.

    Args:
        stops: texts to look for; none of them is let through.

    Attributes:
        hit: one was found; nothing passes any more.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.hit = False
        self._stops = tuple(stops)
        self._passed: list[str] = []
        self._held = ""

    @property
    def passed(self) -> str:
        """All text let through."""
        return "".join(self._passed)

    def push(self, text: str) -> str:
        """Takes text.

        Args:
            text: the next part of the reply.

        Returns:
            What can no longer become part of a stop text.
        """
        if not self._stops:
            return text
        if self.hit:
            return ""
        text = self._held + text
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.hit, self._held = True, ""
            return self._let(text[: min(found)])
        keep = self._unsafe(text)
        self._held = text[len(text) - keep :]
        return self._let(text[: len(text) - keep])

    def flush(self) -> str:
        """Ends the text.

        Returns:
            What was held back.
        """
        held, self._held = self._held, ""
        return self._let(held)

    def _let(self, text: str) -> str:
        if text:
            self._passed.append(text)
        return text

    def _unsafe(self, text: str) -> int:
        """Characters at the end that may begin a stop text."""
        longest = max(map(len, self._stops)) - 1
        for n in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-n:]) for stop in self._stops):
                return n
        return 0
