"""Stop texts: those that end a reply, found wherever token boundaries fall."""

from __future__ import annotations

import bisect
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
        self._sorted = sorted(self._stops)
        self._longest = max(map(len, self._stops), default=1) - 1
        self._passed: list[str] = []
        self._cut: list[str] = []
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
            self._cut.append(text)
            return ""
        text = self._held + text
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.hit, self._held = True, ""
            self._cut.append(text[min(found) :])
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

    @property
    def whole(self) -> str:
        """All text, with the stop text that was found and what came after it."""
        return self.passed + "".join(self._cut)

    def release(self) -> str:
        """Takes back that a stop text ended the text.

        Returns:
            What it kept back.
        """
        cut, self._cut = "".join(self._cut), []
        return self._let(cut)

    def _let(self, text: str) -> str:
        if text:
            self._passed.append(text)
        return text

    def _unsafe(self, text: str) -> int:
        """Characters at the end that may begin a stop text."""
        for n in range(min(self._longest, len(text)), 0, -1):
            at = bisect.bisect_left(self._sorted, text[-n:])  # the first stop text that may begin so
            if at < len(self._sorted) and self._sorted[at].startswith(text[-n:]):
                return n
        return 0
