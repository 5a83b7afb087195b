"""String compiler: patterns, formats and lengths of a string → a node that writes it in a notation.

Patterns speak of the characters of the string, a grammar of the characters that write it: the string a"b is
written "a\\"b" in JSON. Each character has its own ways to be written, so conditions may be combined before
or after `encode` turns the one into the other. A session leaves the combining to llguidance (`Meet`), which
is exact whatever the lengths. GBNF text has no "and": there small automata are exact, and beyond them
repetitions are shortened, which allows fewer strings, never more.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.automata import TooLarge, build, is_empty, to_node
from gemma4_gguf.grammars.grammar import (
    ANY,
    Chars,
    Either,
    Grammar,
    Meet,
    Node,
    Repeat,
    Text,
    chars,
    map_children,
    seq,
    walk,
)
from gemma4_gguf.grammars.lengths import CannotFit, extend_length, fit_length, length_range, limit_length
from gemma4_gguf.grammars.notation import Notation
from gemma4_gguf.grammars.regex import ANYTHING, Pattern, parse_pattern
from gemma4_gguf.grammars.schema_shapes import Alternative

_LONG = 256  # longer bounds are met by shortening repetitions, not by counting states
_MAX_STATES = 600


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
    others = [_plain(parse_pattern(text, pointer), pointer) for text, pointer in alternative.other_patterns]
    if alternative.other_texts:
        others.append(Either(tuple(map(Text, alternative.other_texts))))
    least, most = alternative.least_length, alternative.most_length
    if most is not None and most < least:
        return None
    within = [node for pattern in patterns for node in (pattern.node, *pattern.within)]
    outside = [node for pattern in patterns for node in pattern.outside] + [*others, *forbidden]
    if not within and not outside and not notation.forbidden:
        return grammar.repeat(notation.any_char, least, most, "char")
    conditions = _Conditions(within, outside, least, most)
    if grammar.meets:
        return conditions.meet(notation, grammar)
    where = alternative.patterns[0][1] if alternative.patterns else f"{alternative.pointer}/maxLength"
    try:
        return conditions.to_node(notation, grammar)
    except (TooLarge, CannotFit):
        raise SchemaError(
            "these conditions on a text need too large a grammar; loosen the length or the pattern",
            pointer=where,
        ) from None


def _plain(pattern: Pattern, pointer: str) -> Node:
    """The node of a pattern that must not match."""
    if pattern.within or pattern.outside:
        raise SchemaError("a pattern with a look-ahead cannot be excluded", pointer=pointer)
    return pattern.node


class _Conditions:
    """What one string must be.

    Args:
        within: nodes over its characters that it matches, all of them.
        outside: nodes that it matches none of.
        least: its characters at least.
        most: at most; None for any number.
    """

    def __init__(self, within: Sequence[Node], outside: Sequence[Node], least: int, most: int | None) -> None:
        self.within, self.outside = list(within), list(outside)
        if len(self.within) == 1:  # a bound that the pattern keeps by itself is none
            shortest, longest = length_range(self.within[0])
            least = 0 if shortest >= least else least
            most = None if most is not None and longest is not None and longest <= most else most
        self.least, self.most = least, most

    def meet(self, notation: Notation, grammar: Grammar) -> Node | None:
        """The body for llguidance."""
        if self._is_empty():
            return None
        if len(self.within) == 1 and not self.outside and (self.least or self.most is not None):
            fitted = fit_length(self.within[0], self.least, self.most)
            if fitted is not None:
                self.within, self.least, self.most = [fitted], 0, None
        within = [encode(node, notation, grammar) for node in self.within]
        if self.least or self.most is not None:
            within.append(Repeat(_any_char(notation, grammar), self.least, self.most))
        if not within:
            within = [Repeat(_any_char(notation, grammar), 0, None)]
        outside = [encode(node, notation, grammar) for node in self.outside]
        if not self.within or any(_may_hold_delimiter(node) for node in self.within):
            outside += [encode(node, notation, grammar) for node in notation.forbidden]
        return within[0] if len(within) == 1 and not outside else Meet(tuple(within), tuple(outside))

    def _is_empty(self) -> bool:
        """Whether no string meets the conditions, as far as that is told in a moment."""
        for node in self.within:
            shortest, longest = length_range(node)
            if self.most is not None and shortest > self.most:
                return True
            if longest is not None and longest < self.least:
                return True
        if len(self.within) + len(self.outside) < 2 or not self.within:
            return False
        endless = len(self.within) == 1 and length_range(self.within[0])[1] is None and self.most is None
        if endless and all(length_range(node)[1] is not None for node in self.outside):
            return False  # finitely many strings are left out of endlessly many
        return is_empty(self.within, self.outside, self.least, self.most)

    def to_node(self, notation: Notation, grammar: Grammar) -> Node | None:
        """The body for GBNF text.

        The cheapest of three ways: the pattern as it stands, the pattern with its repetitions limited (long
        bounds), or an automaton of all conditions.

        Raises:
            TooLarge: none of them will do.
        """
        if self._is_empty():
            return None
        forbidden = [
            node for node in notation.forbidden if any(map(_may_hold_delimiter, self.within or [ANY]))
        ]
        if not self.within and not self.outside and (self.most or self.least) > _LONG:
            # Counting characters and watching for the delimiter at once would need a state for each length.
            safe = Chars(((0, 0x3B), (0x3D, ANY.ranges[0][1])))
            return grammar.repeat(notation.char(safe), self.least, self.most, "char")
        if len(self.within) == 1 and (self.least or self.most is not None):
            self._fit(grammar, exact=not self.outside and not forbidden)
        within = self.within or [ANYTHING]
        nothing_more = not (self.outside or forbidden or self.least or self.most is not None)
        if len(within) == 1 and nothing_more and not has_nullable_repeat(within[0]):
            return encode(within[0], notation, grammar)
        automaton = build(within, [*self.outside, *forbidden], self.least, self.most)
        if not automaton.transitions:
            return None
        before = set(grammar.rules)
        node = to_node(automaton, grammar, "text")
        for rule in [name for name in grammar.rules if name not in before]:
            grammar.rules[rule] = encode(grammar.rules[rule], notation, grammar)
        return encode(node, notation, grammar)

    def _fit(self, grammar: Grammar, *, exact: bool) -> None:
        """Work the bounds into the one pattern, where that is exact or where counting would take too much."""
        node = self.within[0]
        fitted = fit_length(node, self.least, self.most)
        if fitted is None:
            small = (self.most or self.least) <= _LONG
            try:
                if small and exact:
                    build([node], (), self.least, self.most, max_states=_MAX_STATES)
                if small:
                    return
            except TooLarge:
                pass
            fitted = node if self.most is None else limit_length(node, self.most)
            fitted = extend_length(fitted, self.least)
            grammar.notes.append("strings with a pattern and a length have shorter or longer repetitions")
        self.within, self.least, self.most = [fitted], 0, None


def _any_char(notation: Notation, grammar: Grammar) -> Node:
    """One character of any text, in the ways in which `encode` writes it."""
    if grammar.meets:
        return notation.char(ANY)
    return grammar.share("any-char", notation.char(ANY))


def encode(node: Node, notation: Notation, grammar: Grammar) -> Node:
    """A node over a string's own characters → one over the characters that write it.

    In JSON, [é] becomes é itself or its escape: [é] | "\\u" [0] [0] [Ee] [9].
    """
    if grammar.meets:
        return _encoded(node, notation)
    if isinstance(node, Chars):
        return grammar.share("char-of", notation.char(node))
    if isinstance(node, Text):
        return seq(*(notation.char(chars(c)) for c in node.value))
    if isinstance(node, Repeat):
        return grammar.repeat(encode(node.item, notation, grammar), node.least, node.most)
    return map_children(node, lambda item: encode(item, notation, grammar))


@lru_cache(maxsize=512)
def _encoded(node: Node, notation: Notation) -> Node:
    """As `encode`, without rules."""
    if isinstance(node, Chars):
        return notation.char(node)
    if isinstance(node, Text):
        return seq(*(notation.char(chars(c)) for c in node.value))
    return map_children(node, lambda item: _encoded(item, notation))


def _may_hold_delimiter(node: Node) -> bool:
    """Whether a string of a node may hold "<", with which the closing <|"|> of a tool call's text begins."""
    return any(
        any(low <= ord("<") <= high for low, high in inner.ranges)
        if isinstance(inner, Chars)
        else isinstance(inner, Text) and "<" in inner.value
        for inner in walk(node)
    )


def has_nullable_repeat(node: Node) -> bool:
    """Whether a node repeats something that may be empty, as (a*)* does: no engine follows that."""
    return any(
        isinstance(inner, Repeat)
        and (inner.most is None or inner.most > 1)
        and length_range(inner.item)[0] == 0
        for inner in walk(node)
    )
