"""GBNF writer: `Grammar` → GBNF text, which every llama.cpp app loads.

llama.cpp reads the text with functions that call themselves, and dies where they exceed the stack. What is
nested so deeply is refused here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from gemma4_gguf.errors import GrammarError
from gemma4_gguf.grammars.analysis import first_references, shortest_texts
from gemma4_gguf.grammars.grammar import Chars, Grammar, Node, depth, references
from gemma4_gguf.grammars.writing import Syntax, class_ranges, write_node

# llama.cpp reads brackets and looks for left recursion with calls in one another; some threads have a stack
# of half a megabyte.
_MAX_BRACKETS = 200
_MAX_CHAIN = 800
_MAX_STEPS = 2_000_000


def to_gbnf(grammar: Grammar) -> str:
    """Write a grammar: root first, only rules that are reached from it.

    Args:
        grammar: without `Meet`. Its notes become comments.

    Returns:
        GBNF text.

    Raises:
        GrammarError: llama.cpp could not read it.
    """
    if grammar.meets:
        raise GrammarError("this grammar is for llguidance; from_schema and from_tools write GBNF text")
    rules, queue = {"root": grammar.rules["root"]}, deque(["root"])
    while queue:
        for name in references(rules[queue.popleft()]):
            if name not in rules:
                rules[name] = grammar.rules[name]
                queue.append(name)
    check_depth(rules)
    notes = [f"# Narrower than what it was made of: {note}.\n" for note in dict.fromkeys(grammar.notes)]
    return "".join([*notes, *(f"{name} ::= {write_node(node, _GBNF)}\n" for name, node in rules.items())])


def check_depth(rules: Mapping[str, Node]) -> None:
    """Check that llama.cpp can read the rules.

    Raises:
        GrammarError: they are nested too deeply, or would keep it busy for ever.
    """
    for name, node in rules.items():
        if depth(node) > _MAX_BRACKETS:
            raise GrammarError(f"rule {name!r} has brackets in brackets deeper than {_MAX_BRACKETS}")
    starts = first_references(rules, shortest_texts(rules))
    # It goes down every way again each time: steps below a rule, and the longest way.
    steps: dict[str, tuple[int, int]] = {}
    for start in starts:
        stack = [start]
        while stack:
            name = stack[-1]
            missing = [other for other in starts.get(name, ()) if other not in steps]
            if missing and len(stack) <= _MAX_CHAIN:
                stack.append(missing[0])
                continue
            stack.pop()
            below = [steps.get(other, (0, _MAX_CHAIN)) for other in starts.get(name, ())]
            steps[name] = (1 + sum(n for n, _ in below), 1 + max((far for _, far in below), default=0))
    if max((far for _, far in steps.values()), default=0) > _MAX_CHAIN:
        raise GrammarError(
            f"more than {_MAX_CHAIN} rules begin with one another, more than llama.cpp can follow"
        )
    if max((n for n, _ in steps.values()), default=0) > _MAX_STEPS:
        raise GrammarError("rules begin with one another in too many ways for llama.cpp to check")


def _show_text(value: str) -> str:
    return '"' + "".join(map(_escape, value)) + '"'


def _show_set(of: Chars) -> str:
    sign, ranges = class_ranges(of)
    body = "".join(
        _escape(chr(low), True) if low == high else f"{_escape(chr(low), True)}-{_escape(chr(high), True)}"
        for low, high in ranges
    )
    return f"[{sign}{body}]"


def _show_counts(least: int, most: int | None) -> str:
    if least == most:
        return "" if least == 1 else f"{{{least}}}"
    return f"{{{least},{'' if most is None else most}}}"


_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}


def _escape(char: str, in_set: bool = False) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if in_set and char in "[]":
        return "\\" + char
    if (in_set and char in "^-") or ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0:
        return f"\\x{ord(char):02X}"
    if char == '"' and not in_set:
        return '\\"'
    if char.isprintable():
        return char
    return f"\\u{ord(char):04X}" if ord(char) <= 0xFFFF else f"\\U{ord(char):08X}"


_GBNF = Syntax(_show_text, _show_set, _show_counts, bare_character=True)
