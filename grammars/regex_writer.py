"""Regular expression writer: a lexeme → an expression of Rust's dialect, as Lark text for llguidance.

References are written out, for lexemes have no recursion. Lark joins expressions with & and ~ where a lexeme
holds a `Meet`, which no expression can write by itself: "\\"" (/[a-z]*/ & ~(/on/)) "\\"".
"""

from __future__ import annotations

import json

from gemma4_gguf.grammars.grammar import Chars, Either, Grammar, Meet, Node, Ref, Repeat, Seq, Text, children
from gemma4_gguf.grammars.writing import Syntax, class_ranges, write_node

# Expressions of the rules that a notation brings: they are the same each time.
_base: dict[tuple[int, str], str] = {}


class RegexWriter:
    """Writes the lexemes of one grammar.

    Args:
        grammar: in whose rules references are looked up.
    """

    def __init__(self, grammar: Grammar) -> None:
        self.rules, self.base = grammar.rules, grammar.base
        self.meeting: dict[str, bool] = {}

    def lexeme(self, node: Node) -> str:
        """A lexeme as Lark text."""
        if node == Seq(()):
            return '""'
        return write_node(self.joined(node), _PARTS)

    def joined(self, node: Node) -> Node:
        """A node whose leaves are expressions, as references; Lark joins those around a `Meet`."""
        if not self.holds_meet(node):
            return Ref(f"/{self.regex(node)}/") if node not in (Text(""), Seq(())) else Text("")
        if isinstance(node, Ref):
            return self.joined(self.rules[node.name])
        if isinstance(node, (Seq, Either)):
            return type(node)(tuple(map(self.joined, node.items)))
        if isinstance(node, Meet):
            return Meet(tuple(map(self.joined, node.within)), tuple(map(self.joined, node.outside)))
        if isinstance(node, Repeat):
            return Repeat(self.joined(node.item), node.least, node.most)
        raise TypeError(node)

    def holds_meet(self, node: Node) -> bool:
        """Whether a `Meet` stands in a node or what it refers to."""
        if isinstance(node, Ref):
            if node.name in self.base:
                return False
            if node.name not in self.meeting:
                self.meeting[node.name] = self.holds_meet(self.rules[node.name])
            return self.meeting[node.name]
        return isinstance(node, Meet) or any([self.holds_meet(item) for item in children(node)])

    def regex(self, node: Node, inside: bool = False) -> str:
        """An expression; `inside` a sequence or repetition, alternatives need brackets."""
        if isinstance(node, Text):
            return "".join([_ESCAPED.get(char) or _code(ord(char)) for char in node.value])
        if isinstance(node, Chars):
            return _show_set(node)
        if isinstance(node, Ref):
            return self.rule(node.name, inside)
        if isinstance(node, Seq):
            return "".join([self.regex(item, True) for item in node.items])
        if isinstance(node, Either):
            text = "|".join([self.regex(item) for item in node.items])
            return f"(?:{text})" if inside else text
        if isinstance(node, Meet):
            raise TypeError("an expression has no intersection")
        item = self.regex(node.item, True)
        single = isinstance(node.item, Chars) or (isinstance(node.item, Text) and len(node.item.value) == 1)
        sign = _SIGNS.get((node.least, node.most)) or show_counts(node.least, node.most)
        return (item if single else f"(?:{item})") + sign

    def rule(self, name: str, inside: bool) -> str:
        """The expression of a rule."""
        node = self.rules[name]
        if self.base.get(name) is not node:
            return self.regex(node, inside)
        key = (id(self.base), name)
        if key not in _base:
            _base[key] = self.regex(node, True)
        return _base[key]


_SIGNS = {(0, None): "*", (1, None): "+", (0, 1): "?", (1, 1): "{1}"}


def show_counts(least: int, most: int | None) -> str:
    """A quantifier of Lark and of expressions."""
    return f"{{{least},{'' if most is None else most}}}"


def _show_set(of: Chars) -> str:
    """A class of Rust's regular expressions, which know no surrogates."""
    sign, ranges = class_ranges(of)
    body = ""
    for low, high in ranges:
        for a, b in ((low, min(high, 0xD7FF)), (max(low, 0xE000), high)):
            if a <= b:
                body += _code(a) if a == b else f"{_code(a)}-{_code(b)}"
    return f"[{sign}{body}]"


def _code(code: int) -> str:
    char = chr(code)
    return (
        char if char.isascii() and char.isalnum() else f"\\x{code:02X}" if code < 0x80 else f"\\u{{{code:X}}}"
    )


_ESCAPED = {chr(code): _code(code) for code in range(0x80)}
_PARTS = Syntax(json.dumps, _show_set, show_counts, bare_character=False)
