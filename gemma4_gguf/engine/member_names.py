"""Member names: which names the objects of a reply in the making have, so that none is written twice.

A grammar cannot remember what the members of a map are called. This reads along, token by token, in JSON
({"a": 1, "a) or in the notation of tool calls ({a:1,a), and tells when a name comes again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field


@dataclass
class MemberNames:
    """Reads one value.

    Args:
        in_call: it is in the notation of tool calls: bare names, and texts between tokens of their own.
    """

    in_call: bool
    open: list[set[str] | None] = field(default_factory=list)  # objects, and None for arrays
    at_name: bool = False
    in_text: bool = False
    escaped: bool = False
    name: bytearray = field(default_factory=bytearray)

    def copy(self) -> MemberNames:
        """The same, to go on in another way."""
        names = [None if names is None else set(names) for names in self.open]
        return MemberNames(
            self.in_call, names, self.at_name, self.in_text, self.escaped, bytearray(self.name)
        )

    def quote(self) -> None:
        """Takes the token before or after a text of a tool call."""
        self.in_text = not self.in_text

    def feed(self, data: bytes) -> bool:
        """Takes what was written next.

        Args:
            data: bytes of a token.

        Returns:
            False if a name ended that its object has already.
        """
        return all([self._take(byte) for byte in data])

    def _take(self, byte: int) -> bool:
        char = chr(byte)
        if self.in_text:
            return True if self.in_call else self._in_json_text(byte, char)
        if char == '"' and not self.in_call:
            self.in_text = True
            self.name.clear()
        elif char in "{[":
            self.open.append(set() if char == "{" else None)
            self.at_name = char == "{"
            self.name.clear()
        elif char in "}]":
            self.open = self.open[:-1]
            self.at_name = False
        elif char == ",":
            self.at_name = bool(self.open) and self.open[-1] is not None
            self.name.clear()
        elif char == ":":
            ended, self.at_name = self.at_name, False
            return not (ended and self.in_call) or self._add(self.name.decode("utf-8", "replace"))
        elif self.in_call and self.at_name:
            self.name.append(byte)
        return True

    def _in_json_text(self, byte: int, char: str) -> bool:
        if char == '"' and not self.escaped:
            self.in_text = False
            return not self.at_name or self._add(json.loads(f'"{self.name.decode("utf-8", "replace")}"'))
        self.escaped = char == "\\" and not self.escaped
        if self.at_name:
            self.name.append(byte)
        return True

    def _add(self, name: str) -> bool:
        names = self.open[-1] if self.open else None
        if names is None:
            return True
        is_new = name not in names
        names.add(name)
        return is_new
