"""Lark writer: `Grammar` → Lark text for llguidance.

llguidance splits a text into lexemes by longest match, and parses the lexemes. So what needs no recursion
becomes one lexeme, a regular expression, as large as possible; the rest becomes rules. For instance

    root ::= "[" item ("," item)* "]"      →      start: T0 r1 (T1 r1)* T2
    item ::= [0-9]+ | root                        r1: T3 | start
                                                  T0: "["     T1: ","     T2: "]"     T3: /[0-9]/+

Where the longest match would be wrong (see `boundaries`), every character is a lexeme: exact, and slower.

Markers such as <|tool_call> stand for their own tokens instead of for their characters.
Reference: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

from gemma4_gguf.grammars.boundaries import LongestMatchCheck
from gemma4_gguf.grammars.grammar import (
    Chars,
    Either,
    Grammar,
    Node,
    Ref,
    Repeat,
    Seq,
    Syntax,
    Text,
    class_ranges,
    either,
    map_children,
    references,
    seq,
    write_node,
)

_MAX_SIZE = 20_000
# What a text of punctuation and literals is cut into.
_CHARACTER = re.compile(r"(?s).")
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^{}\[\],:"]+|"')
_ALL = re.compile(r"(?s).+")


def to_lark(grammar: Grammar, markers: Mapping[str, int] | None = None) -> str:
    """Write a grammar for llguidance.

    Args:
        grammar: with a rule called root.
        markers: texts that are one special token each → its id; where a text of the grammar holds one, that
            token is meant.

    Returns:
        Lark text, its rule called start.
    """
    markers = markers or {}
    split = _LexemeSplit(grammar, markers)
    rules = split.rules()
    if split.recursive:
        if grammar.lexemes:
            split = _LexemeSplit(grammar, markers, lexeme_rules=grammar.lexemes)
            rules = split.rules()
        elif not LongestMatchCheck(split.lexemes, split.terminals, rules).is_safe():
            split = _LexemeSplit(grammar, markers, per_character=True)
            rules = split.rules()
    # Text that the grammar forces would else have to come in the tokens that llguidance cuts it into, not in
    # those that the model was trained to write.
    lines = ['%llguidance {"no_forcing": true}\n']
    lines += [f"{name}: {write_node(node, _LARK)}\n" for name, node in rules.items()]
    lines += [f"{name}: {write_node(node, _LARK)}\n" for name, node in split.terminals.items()]
    return "".join(lines)


class _LexemeSplit:
    """A grammar split into lexemes, and rules over them.

    Lark calls a named regular expression a terminal. Every lexeme is one; others are only parts of lexemes.

    Args:
        grammar: to split.
        markers: texts that are one special token each → its id.
        lexeme_rules: rules that are lexemes; without, lexemes are as large as recursion allows.
        per_character: every character is a lexeme.
    """

    def __init__(
        self,
        grammar: Grammar,
        markers: Mapping[str, int],
        *,
        lexeme_rules: Collection[str] = (),
        per_character: bool = False,
    ) -> None:
        self.source, self.lexeme_rules, self.per_character = grammar.rules, lexeme_rules, per_character
        self.ids = markers
        longest_first = sorted(markers, key=len, reverse=True)
        self.markers = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self.sizes: dict[str, int] = {}
        self.recursive = self.size(Ref("root"), ()) > _MAX_SIZE
        self.names: dict[str, str] = {"root": "start"}  # rule of the grammar → Lark rule
        self.terminal_names: dict[str, str] = {}  # rule of the grammar → terminal
        self.lexemes: dict[str, Node] = {}
        self.terminals: dict[str, Node] = {}
        self.by_node: dict[Node, str] = {}

    def rules(self) -> dict[str, Node]:
        """Rules whose leaves are references to rules and lexemes, start first."""
        out: dict[str, Node] = {}
        queue = ["root"]
        while queue:
            name = queue.pop(0)
            node = self.over_lexemes(self.source[name])
            out[self.names[name]] = node
            for found in references(node):
                source = next((s for s, n in self.names.items() if n == found), None)
                if source is not None and found not in out and source not in queue:
                    queue.append(source)
        return out

    def over_lexemes(self, node: Node) -> Node:
        """A node of the grammar as one whose leaves are references to Lark rules and lexemes."""
        if self.is_lexeme(node):
            return self.lexeme(node)
        if isinstance(node, Ref):
            if node.name not in self.names:
                self.names[node.name] = f"r{len(self.names)}"
            return Ref(self.names[node.name])
        if isinstance(node, Seq):
            return seq(*self.grouped(node.items, seq))
        if isinstance(node, Either):
            return either(*self.grouped(node.items, either))
        if isinstance(node, Repeat):
            return Repeat(self.over_lexemes(node.item), node.least, node.most)
        return self.split_text(node) if isinstance(node, Text) else self.lexeme(node)

    def is_lexeme(self, node: Node) -> bool:
        """Whether a node becomes one lexeme: without recursion and markers, and not too large."""
        if self.per_character or isinstance(node, Chars):
            return isinstance(node, Chars)
        if self.lexeme_rules:
            return (
                isinstance(node, Ref) and node.name in self.lexeme_rules and self.size(node, ()) <= _MAX_SIZE
            )
        return self.size(node, ()) <= _MAX_SIZE

    def grouped(self, items: tuple[Node, ...], join: Callable[..., Node]) -> list[Node]:
        """Items over lexemes; neighbours that could each be a lexeme become one together."""
        out: list[Node] = []
        run: list[Node] = []
        for item in (*items, None):
            if item is not None and not (self.lexeme_rules or self.per_character) and self.is_lexeme(item):
                run.append(item)
                continue
            if run:
                out.append(self.lexeme(join(*run)))
                run = []
            if item is not None:
                out.append(self.over_lexemes(item))
        return out

    def split_text(self, node: Text) -> Node:
        """A text as lexemes, and token references such as <[48]> where it holds markers."""
        parts: list[Node] = []
        at = 0
        for match in [*self.markers.finditer(node.value), None]:
            end = len(node.value) if match is None else match.start()
            piece = _CHARACTER if self.per_character else _PIECE if self.lexeme_rules else _ALL
            parts += [self.lexeme(Text(text)) for text in piece.findall(node.value[at:end])]
            if match is not None:
                parts.append(Ref(f"<[{self.ids[match.group()]}]>"))
                at = match.end()
        return seq(*parts)

    def lexeme(self, node: Node) -> Ref:
        """A reference to the lexeme that a node becomes."""
        name = self.terminal(self.to_terminals(node))
        self.lexemes[name] = self.terminals[name]
        return Ref(name)

    def to_terminals(self, node: Node) -> Node:
        """A node inside a lexeme, with its references to rules turned into references to terminals."""
        if isinstance(node, Ref):
            if node.name not in self.terminal_names:
                self.terminal_names[node.name] = self.terminal(self.to_terminals(self.source[node.name]))
            return Ref(self.terminal_names[node.name])
        return map_children(node, self.to_terminals)

    def terminal(self, node: Node) -> str:
        """Name of the terminal for a node; equal nodes share one."""
        if isinstance(node, Ref):
            return node.name
        if node not in self.by_node:
            self.by_node[node] = f"T{len(self.terminals)}"
            self.terminals[self.by_node[node]] = node
        return self.by_node[node]

    def size(self, node: Node, above: tuple[str, ...]) -> int:
        """Number of nodes of a lexeme, all it refers to included.

        More than `_MAX_SIZE` where no lexeme can be: for recursion (a rule among `above`, the rules that are
        being measured) and for markers, which are tokens.
        """
        if isinstance(node, Ref):
            if node.name in above:
                return _MAX_SIZE + 1
            if node.name not in self.sizes:
                self.sizes[node.name] = self.size(self.source[node.name], (*above, node.name))
            return self.sizes[node.name]
        if isinstance(node, Text):
            return _MAX_SIZE + 1 if self.markers.search(node.value) else 1
        if isinstance(node, (Seq, Either)):
            return 1 + sum(self.size(item, above) for item in node.items)
        return 1 + self.size(node.item, above) if isinstance(node, Repeat) else 1


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _show_text(value: str) -> str:
    return '"' + "".join(_ESCAPES.get(c, c) for c in value) + '"'


def _show_set(of: Chars) -> str:
    """A class of Rust's regular expressions, which know no surrogates."""
    sign, ranges = class_ranges(of)
    body = ""
    for low, high in ranges:
        for a, b in ((low, min(high, 0xD7FF)), (max(low, 0xE000), high)):
            if a <= b:
                body += _code(a) if a == b else f"{_code(a)}-{_code(b)}"
    return f"/[{sign}{body}]/"


def _show_counts(least: int, most: int | None) -> str:
    return f"{{{least},{'' if most is None else most}}}"


def _code(code: int) -> str:
    char = chr(code)
    return char if char.isascii() and char.isalnum() else f"\\u{{{code:X}}}"


_LARK = Syntax(_show_text, _show_set, _show_counts, bare_character=False)
