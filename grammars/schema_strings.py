"""Conditions on a text (patterns, formats, length) → a node that writes it in a notation."""

from __future__ import annotations

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.automata import TooLarge, build, length_range, shorten, to_node
from gemma4_gguf.grammars.grammar import Chars, Either, Grammar, Node, Repeat, Seq, Text, chars, either, seq
from gemma4_gguf.grammars.notation import Notation
from gemma4_gguf.grammars.regex import ANY, Pattern, parse_pattern
from gemma4_gguf.grammars.schema_shapes import Flat

_LONG = 256  # longer bounds are met by shortening repetitions, not by counting states


def text_body(
    flat: Flat, notation: Notation, grammar: Grammar, *, barred: tuple[Node, ...] = ()
) -> Node | None:
    """The characters between the quotes.

    Args:
        flat: its patterns and lengths.
        notation: how characters are written.
        grammar: takes the rules.
        barred: nodes that the text must not match.

    Returns: the node, None if no text meets all conditions.

    Raises:
        SchemaError: a pattern is malformed or not regular, or the conditions together are too large.
    """
    patterns = [parse_pattern(text, pointer) for text, pointer in flat.patterns]
    if not patterns and not barred and not notation.barred:
        return grammar.repeat(notation.char(ANY), flat.least_length, flat.most_length, "char")
    where = flat.patterns[0][1] if flat.patterns else f"{flat.pointer}/maxLength"
    within = [node for pattern in patterns for node in (pattern.node, *pattern.within)]
    outside = [node for pattern in patterns for node in pattern.outside]
    try:
        node = _conditions(flat, within, [*outside, *barred], notation, grammar)
    except TooLarge:
        raise SchemaError(
            "these conditions on a text need too large a grammar; loosen the length or the pattern",
            pointer=where,
        ) from None
    return node


def matches(text: str, pattern: Pattern) -> bool:
    """Does a pattern hold for a text?"""
    body = seq(*(Text(c) for c in text))
    return bool(build([body, pattern.node, *pattern.within], pattern.outside).arrows)


def _conditions(
    flat: Flat, within: list[Node], outside: list[Node], notation: Notation, grammar: Grammar
) -> Node | None:
    least, most = flat.least_length, flat.most_length
    if not within and not outside and (most or least) > _LONG:
        # Counting characters and watching for the delimiter at once would need a state for each length.
        safe = Chars(((0, 0x3B), (0x3D, ANY.ranges[0][1])))
        return grammar.repeat(notation.char(safe), least, most, "char")
    if not within:
        within = [Repeat(ANY, 0, None)]
    if len(within) == 1:
        shortest, longest = length_range(within[0])
        least = 0 if shortest >= least else least
        most = None if most is not None and longest is not None and longest <= most else most
        if most is not None and most > _LONG and least <= _LONG:
            if shortest > most:
                return None
            within, most = [shorten(within[0], most)], None
    barred = [node for node in notation.barred if any(_may_hold_delimiter(node) for node in within)]
    if len(within) == 1 and not (outside or barred or least or most is not None or blurred(within[0])):
        return encode(within[0], notation, grammar)
    automaton = build(within, [*outside, *barred], least, most)
    if not automaton.arrows:
        return None
    before = set(grammar.rules)
    node = to_node(automaton, grammar, "text")
    for rule in [name for name in grammar.rules if name not in before]:
        grammar.rules[rule] = encode(grammar.rules[rule], notation, grammar)
    return encode(node, notation, grammar)


def encode(node: Node, notation: Notation, grammar: Grammar) -> Node:
    """A node over a text's own characters → one over the characters that write it."""
    if isinstance(node, Chars):
        return notation.char(node)
    if isinstance(node, Text):
        return seq(*(notation.char(chars(c)) for c in node.value))
    if isinstance(node, Seq):
        return seq(*(encode(item, notation, grammar) for item in node.items))
    if isinstance(node, Either):
        return either(*(encode(item, notation, grammar) for item in node.items))
    if isinstance(node, Repeat):
        return grammar.repeat(encode(node.item, notation, grammar), node.least, node.most)
    return node


def counted(node: Node, grammar: Grammar) -> Node:
    """The node with its repetitions as llama.cpp counts them."""
    if isinstance(node, (Seq, Either)):
        items = [counted(item, grammar) for item in node.items]
        return seq(*items) if isinstance(node, Seq) else either(*items)
    if isinstance(node, Repeat):
        return grammar.repeat(counted(node.item, grammar), node.least, node.most)
    return node


def _may_hold_delimiter(node: Node) -> bool:
    if isinstance(node, Chars):
        return any(low <= ord("<") <= high for low, high in node.ranges)
    if isinstance(node, (Seq, Either)):
        return any(map(_may_hold_delimiter, node.items))
    return isinstance(node, Repeat) and _may_hold_delimiter(node.item)


def blurred(node: Node) -> bool:
    """Repeats something that may be nothing: no engine follows that."""
    if isinstance(node, Repeat):
        many = node.most is None or node.most > 1
        return (many and length_range(node.item)[0] == 0) or blurred(node.item)
    return isinstance(node, (Seq, Either)) and any(map(blurred, node.items))
