"""Writing: what the texts of the two grammar languages, GBNF and Lark, have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gemma4_gguf.grammars.grammar import (
    MAX_CODE,
    QUANTIFIERS,
    Chars,
    Either,
    Meet,
    Node,
    Ref,
    Repeat,
    Seq,
    Text,
    complement,
    is_character,
)

_SIGNS = {counts: sign for sign, counts in QUANTIFIERS.items()}


@dataclass(frozen=True)
class Syntax:
    """How a grammar language writes nodes.

    Args:
        text: writes literal text.
        char_set: writes a set of characters.
        counts: writes a quantifier for which there is no sign, from (least, most).
        bare_character: a quantifier may follow literal text of one character without brackets.
    """

    text: Callable[[str], str]
    char_set: Callable[[Chars], str]
    counts: Callable[[int, int | None], str]
    bare_character: bool


def write_node(node: Node, syntax: Syntax, inside: bool = False) -> str:
    """Text of a node; `inside` a sequence or repetition, alternatives and sequences need brackets."""
    if isinstance(node, Text):
        return syntax.text(node.value)
    if isinstance(node, Chars):
        return syntax.char_set(node)
    if isinstance(node, Ref):
        return node.name
    if isinstance(node, Seq):
        text = " ".join(write_node(item, syntax, True) for item in node.items) or '""'
        return f"({text})" if inside and len(node.items) > 1 else text
    if isinstance(node, Either):
        text = " | ".join(write_node(item, syntax) for item in node.items)
        return f"({text})" if inside else text
    if isinstance(node, Meet):
        within = [write_node(item, syntax, True) for item in node.within]
        text = " & ".join([*within, *(f"~({write_node(item, syntax)})" for item in node.outside)])
        return f"({text})" if inside else text
    item = write_node(node.item, syntax, True)
    if isinstance(node.item, (Repeat, Text)) and not (syntax.bare_character and is_character(node.item)):
        item = f"({item})"
    return item + (_SIGNS.get((node.least, node.most)) or syntax.counts(node.least, node.most))


def class_ranges(of: Chars) -> tuple[str, tuple[tuple[int, int], ...]]:
    """How to write a set as a character class: "^" and the ranges left out if those are ASCII, all of them.

    Otherwise "" and its own ranges. llama.cpp would take [^\\u2028] for "no character that begins like
    U+2028", and bar U+2014 where it comes byte by byte.
    """
    others = complement(of).ranges
    negated = bool(of.ranges) and of.ranges[-1][1] == MAX_CODE and bool(others) and others[-1][1] < 0x80
    return ("^", others) if negated else ("", of.ranges)
