"""Any text but some words, as grammar nodes: what a map may call its members beside those that are declared.

GBNF has no "not". Without the word "on", a text is empty, or does not begin with "o", or begins with "o" and
does not go on with "n", or goes on after "on":

    ([^o] any* | "o" ([^n] any* | "n" any+)?)?
"""

from __future__ import annotations

from collections.abc import Iterable

from gemma4_gguf.grammars.grammar import (
    ANY,
    EMPTY,
    Chars,
    Grammar,
    Node,
    Repeat,
    chars,
    complement,
    either,
    intersection,
    seq,
)
from gemma4_gguf.grammars.notation import Notation

_MAX_LENGTH = 60  # of two words that begin alike so far, texts that begin so are left out
_NESTED = 12
_Tree = dict[str, "_Tree"]
_END = ""


def words_except(words: Iterable[str], notation: Notation, grammar: Grammar) -> Node:
    """Names of members that are none of some words.

    Args:
        words: what the text must not be.
        notation: how characters are written, and which may stand in a name.
        grammar: takes the rules.

    Returns:
        The node of the text, without its quotes.
    """
    tree: _Tree = {}
    for word in words:
        here = tree
        for char in word[:_MAX_LENGTH]:
            here = here.setdefault(char, {})
        if len(word) > _MAX_LENGTH:
            here.clear()
            here["more"] = {}
        else:
            here[_END] = {}
    return _Writer(notation, grammar).node(tree, 0) or EMPTY


class _Writer:
    """Writes the tree of the words.

    Args:
        notation: of the characters.
        grammar: takes the rules.
    """

    def __init__(self, notation: Notation, grammar: Grammar) -> None:
        self.notation, self.grammar = notation, grammar
        self.first, self.rest = notation.key_chars
        self.any = grammar.share("any-char", notation.char(self.rest))

    def node(self, tree: _Tree, depth: int) -> Node | None:
        """What may follow; None if nothing may."""
        if "more" in tree:
            return None
        if not tree and depth:
            return Repeat(self.any, 0, None)
        if list(tree) == [_END] and depth:
            return Repeat(self.any, 1, None)
        allowed = self.first if depth == 0 else self.rest
        begun = [char for char in tree if char != _END]
        others = intersection(allowed, complement(chars("".join(begun))))
        ways = [] if not others.ranges else [seq(self._char(others), Repeat(self.any, 0, None))]
        for char in begun:
            if not intersection(allowed, chars(char)).ranges:
                continue
            after = self.node(tree[char], depth + 1)
            if after is not None:
                ways.append(seq(self.notation.char(chars(char)), after))
        if _END not in tree and (depth or self.first == ANY):
            ways.append(EMPTY)
        node = either(*ways)
        return self.grammar.add("other-name", node) if depth and depth % _NESTED == 0 else node

    def _char(self, of: Chars) -> Node:
        return self.grammar.share("char-of", self.notation.char(of))
