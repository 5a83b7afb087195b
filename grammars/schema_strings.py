"""String compiler: patterns, formats and lengths of a string → a node that writes it in a notation.

Patterns speak of the characters of the string, a grammar of the characters that write it: the string a"b is
written "a\\"b" in JSON. So conditions are combined first, over the string's own characters (`automata`), and
`encode` turns the result into what is written.
"""

from __future__ import annotations

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.automata import TooLarge, build, length_range, limit_length, to_node
from gemma4_gguf.grammars.grammar import (
    ANY,
    Chars,
    Grammar,
    Node,
    Repeat,
    Text,
    chars,
    map_children,
    seq,
    walk,
)
from gemma4_gguf.grammars.notation import Notation
from gemma4_gguf.grammars.regex import ANYTHING, Pattern, parse_pattern
from gemma4_gguf.grammars.schema_shapes import Alternative

_LONG = 256  # longer bounds are met by shortening repetitions, not by counting states


def text_body(
    alternative: Alternative, notation: Notation, grammar: Grammar, *, forbidden: tuple[Node, ...] = ()
) -> Node | None:
    """The characters between the quotes.

    Args:
        alternative: its patterns and lengths.
        notation: how characters are written.
        grammar: takes the rules.
        forbidden: nodes, over the string's own characters, that it must not match.

    Returns:
        The node, None if no string meets all conditions.

    Raises:
        SchemaError: a pattern is malformed or not regular, or the conditions together are too large.
    """
    patterns = [parse_pattern(text, pointer) for text, pointer in alternative.patterns]
    if not patterns and not forbidden and not notation.forbidden:
        return grammar.repeat(notation.char(ANY), alternative.least_length, alternative.most_length, "char")
    where = alternative.patterns[0][1] if alternative.patterns else f"{alternative.pointer}/maxLength"
    within = [node for pattern in patterns for node in (pattern.node, *pattern.within)]
    outside = [node for pattern in patterns for node in pattern.outside]
    try:
        node = _conditions(alternative, within, [*outside, *forbidden], notation, grammar)
    except TooLarge:
        raise SchemaError(
            "these conditions on a text need too large a grammar; loosen the length or the pattern",
            pointer=where,
        ) from None
    return node


def matches(text: str, pattern: Pattern) -> bool:
    """Whether a pattern matches a string."""
    body = seq(*(Text(c) for c in text))
    return bool(build([body, pattern.node, *pattern.within], pattern.outside).transitions)


def _conditions(
    alternative: Alternative, within: list[Node], outside: list[Node], notation: Notation, grammar: Grammar
) -> Node | None:
    """The body of a string that matches all of `within`, none of `outside`, and has the right length.

    The cheapest of three ways: the pattern as it stands, the pattern with its repetitions limited (long
    bounds), or an automaton of all conditions.
    """
    least, most = alternative.least_length, alternative.most_length
    if not within and not outside and (most or least) > _LONG:
        # Counting characters and watching for the delimiter at once would need a state for each length.
        safe = Chars(((0, 0x3B), (0x3D, ANY.ranges[0][1])))
        return grammar.repeat(notation.char(safe), least, most, "char")
    if not within:
        within = [ANYTHING]
    if len(within) == 1:
        shortest, longest = length_range(within[0])
        least = 0 if shortest >= least else least
        most = None if most is not None and longest is not None and longest <= most else most
        if most is not None and most > _LONG and least <= _LONG:
            if shortest > most:
                return None
            within, most = [limit_length(within[0], most)], None
    forbidden = [node for node in notation.forbidden if any(_may_hold_delimiter(node) for node in within)]
    if len(within) == 1 and not (
        outside or forbidden or least or most is not None or has_nullable_repeat(within[0])
    ):
        return encode(within[0], notation, grammar)
    automaton = build(within, [*outside, *forbidden], least, most)
    if not automaton.transitions:
        return None
    before = set(grammar.rules)
    node = to_node(automaton, grammar, "text")
    for rule in [name for name in grammar.rules if name not in before]:
        grammar.rules[rule] = encode(grammar.rules[rule], notation, grammar)
    return encode(node, notation, grammar)


def encode(node: Node, notation: Notation, grammar: Grammar) -> Node:
    """A node over a string's own characters → one over the characters that write it.

    In JSON, [é] becomes é itself or its escape: [é] | "\\u" [0] [0] [Ee] [9].
    """
    if isinstance(node, Chars):
        return notation.char(node)
    if isinstance(node, Text):
        return seq(*(notation.char(chars(c)) for c in node.value))
    if isinstance(node, Repeat):
        return grammar.repeat(encode(node.item, notation, grammar), node.least, node.most)
    return map_children(node, lambda item: encode(item, notation, grammar))


def split_long_repeats(node: Node, grammar: Grammar) -> Node:
    """The node with repetitions above llama.cpp's limits split by `Grammar.repeat`."""
    if isinstance(node, Repeat):
        return grammar.repeat(split_long_repeats(node.item, grammar), node.least, node.most)
    return map_children(node, lambda item: split_long_repeats(item, grammar))


def _may_hold_delimiter(node: Node) -> bool:
    """Whether a string of a node may hold "<", with which the closing <|"|> of a tool call's text begins."""
    sets = (inner for inner in walk(node) if isinstance(inner, Chars))
    return any(low <= ord("<") <= high for found in sets for low, high in found.ranges)


def has_nullable_repeat(node: Node) -> bool:
    """Whether a node repeats something that may be empty, as (a*)* does: no engine follows that."""
    return any(
        isinstance(inner, Repeat)
        and (inner.most is None or inner.most > 1)
        and length_range(inner.item)[0] == 0
        for inner in walk(node)
    )
