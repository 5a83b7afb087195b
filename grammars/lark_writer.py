"""Lark writer: `Grammar` → Lark text for llguidance.

llguidance splits a text into lexemes by longest match, and parses the lexemes. Where the pieces of a notation
are known (texts, numbers, names), they are the lexemes, with the punctuation between them. Else what needs no
recursion becomes one lexeme, a regular expression, as large as possible; the rest becomes rules. For instance

    root ::= "[" item ("," item)* "]"      →      start: T0 r1 (T1 r1)* T2
    item ::= [0-9]+ | root                        r1: T3 | start
                                                  T0: /\\[/    T1: /,/    T2: /\\]/    T3: /[0-9]+/

Where the longest match would be wrong (see `boundaries`), every character is a lexeme: exact, and slower.

Markers such as <|tool_call> stand for their own tokens instead of for their characters.
Reference: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection, Mapping

from gemma4_gguf.errors import GrammarError
from gemma4_gguf.grammars.analysis import rule_users
from gemma4_gguf.grammars.boundaries import LongestMatchCheck
from gemma4_gguf.grammars.grammar import (
    Chars,
    Either,
    Grammar,
    Meet,
    Node,
    Ref,
    Repeat,
    Seq,
    Text,
    children,
    depth,
    either,
    map_children,
    references,
    seq,
    uncollected,
)
from gemma4_gguf.grammars.regex_writer import RegexWriter, show_counts
from gemma4_gguf.grammars.writing import Syntax, write_node
from gemma4_gguf.special_tokens import QUOTE

_MAX_SIZE = 20_000
_MAX_BRACKETS = 16
_MAX_LEVELS = 80  # of a regular expression
_MAX_CHAIN = 1000
# What a text of punctuation and literals is cut into.
_CHARACTER = re.compile(r"(?s).")
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^{}\[\],:"]+|"')
_ALL = re.compile(r"(?s).+")


@uncollected()
def to_lark(grammar: Grammar, markers: Mapping[str, int] | None = None) -> str:
    """Write a grammar for llguidance.

    Args:
        grammar: with a rule called root.
        markers: texts that are one special token each → its id; where a text of the grammar holds one, that
            token is meant.

    Returns:
        Lark text, its rule called start.

    Raises:
        GrammarError: it is nested so deeply that llguidance would exceed its stack.
    """
    markers = markers or {}
    if grammar.lexemes:
        split = _LexemeSplit(grammar, markers, lexeme_rules=grammar.lexemes)
        rules = split.rules()
    else:
        split = _LexemeSplit(grammar, markers)
        rules = split.rules()
        if split.recursive and not LongestMatchCheck(split.lexemes, grammar.rules, rules).is_safe():
            split = _LexemeSplit(grammar, markers, per_character=True)
            rules = split.rules()
    rules = _flattened(rules)
    _check_chains(rules)
    # Text that the grammar forces would else have to come in the tokens that llguidance cuts it into, not in
    # those that the model was trained to write.
    lines = ['%llguidance {"no_forcing": true}\n']
    lines += [f"{name}: {write_node(node, _LARK)}\n" for name, node in rules.items()]
    regexes = RegexWriter(grammar)
    lines += [f"{name}: {regexes.lexeme(node)}\n" for name, node in split.lexemes.items()]
    return "".join(lines)


def _flattened(rules: dict[str, Node]) -> dict[str, Node]:
    """Rules without deep brackets, of which llguidance reads 30: what is inside becomes a rule of its own."""
    more: dict[str, Node] = {}

    def flat(node: Node) -> tuple[Node, int]:
        inner = children(node)
        if not inner:
            return node, 0
        found = [flat(child) for child in inner]
        level = 1 + max([level for _, level in found])
        if any([part is not child for (part, _), child in zip(found, inner, strict=True)]):
            parts = iter([part for part, _ in found])
            node = map_children(node, lambda _: next(parts))
        if level < _MAX_BRACKETS:
            return node, level
        name = f"rr{len(more)}"
        more[name] = node
        return Ref(name), 0

    return {name: flat(node)[0] for name, node in rules.items()} | more


def _check_chains(rules: Mapping[str, Node]) -> None:
    """Check how deep llguidance goes from rule to rule, each visited when first referred to."""
    seen, path, deepest = {"start"}, [iter(references(rules["start"]))], 0
    while path:
        deepest = max(deepest, len(path))
        name = next(path[-1], None)
        if name is None:
            path.pop()
        elif name not in seen and name in rules:
            seen.add(name)
            path.append(iter(references(rules[name])))
    if deepest > _MAX_CHAIN:
        raise GrammarError(
            f"more than {_MAX_CHAIN} rules refer to one another; flatten the schema or the grammar"
        )


class _LexemeSplit:
    """A grammar split into lexemes, and rules over them.

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
        self.marked: dict[str, bool] = {}
        self.sizes = {} if lexeme_rules or per_character else self.measured()
        self.recursive = self.size(Ref("root")) > _MAX_SIZE
        self.names: dict[str, str] = {"root": "start"}  # rule of the grammar → Lark rule
        self.lexemes: dict[str, Node] = {}
        self.by_node: dict[Node, Ref] = {}
        self.split_texts: dict[str, Node] = {}

    def rules(self) -> dict[str, Node]:
        """Rules whose leaves are references to rules and lexemes, start first."""
        out: dict[str, Node] = {}
        queue = deque(["root"])
        while queue:
            name = queue.popleft()
            known = len(self.names)
            out[self.names[name]] = self.over_lexemes(self.source[name])
            queue.extend(list(self.names)[known:])
        return out

    def over_lexemes(self, node: Node) -> Node:
        """A node of the grammar as one whose leaves are references to Lark rules and lexemes."""
        if self.is_lexeme(node):
            return self.around_markers(node) if self.lexeme_rules else self.lexeme(node)
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

    def around_markers(self, node: Node) -> Node:
        """A lexeme, or where it holds markers, which are tokens, the lexemes between them."""
        if not self.holds_marker(node):
            return self.lexeme(node)
        if isinstance(node, Ref):
            return self.around_markers(self.source[node.name])
        if isinstance(node, Text):
            return self.split_text(node)
        if not isinstance(node, Seq):
            return map_children(node, self.around_markers)
        parts: list[Node] = []
        run: list[Node] = []
        for item in (*node.items, None):
            if item is not None and not self.holds_marker(item):
                run.append(item)
                continue
            parts += [self.lexeme(seq(*run))] if run else []
            run = []
            parts += [self.around_markers(item)] if item is not None else []
        return seq(*parts)

    def holds_marker(self, node: Node) -> bool:
        """Whether a marker stands in a node or what it refers to."""
        if isinstance(node, Ref):
            if node.name not in self.marked:
                self.marked[node.name] = self.holds_marker(self.source[node.name])
            return self.marked[node.name]
        if isinstance(node, Text):
            return self.markers.search(node.value) is not None
        if isinstance(node, Meet):  # a text that is not to be written is no marker
            return any(map(self.holds_marker, node.within))
        return any(map(self.holds_marker, children(node)))

    def is_lexeme(self, node: Node) -> bool:
        """Whether a node becomes one lexeme: without recursion and markers, and not too large."""
        if self.per_character or isinstance(node, Chars):
            return isinstance(node, Chars)
        if self.lexeme_rules:
            return isinstance(node, Ref) and node.name in self.lexeme_rules
        return self.size(node) <= _MAX_SIZE

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
        if node.value in self.split_texts:
            return self.split_texts[node.value]
        parts: list[Node] = []
        at, quoted = 0, False
        for match in [*self.markers.finditer(node.value), None]:
            end = len(node.value) if match is None else match.start()
            piece = _CHARACTER if self.per_character else _PIECE if self.lexeme_rules and not quoted else _ALL
            parts += [self.lexeme(Text(text)) for text in piece.findall(node.value[at:end])]
            if match is not None:
                parts.append(Ref(f"<[{self.ids[match.group()]}]>"))
                at, quoted = match.end(), quoted != (match.group() == QUOTE)
        self.split_texts[node.value] = seq(*parts)
        return self.split_texts[node.value]

    def lexeme(self, node: Node) -> Ref:
        """A reference to the lexeme that a node becomes; equal nodes share one."""
        if node not in self.by_node:
            name = f"T{len(self.lexemes)}"
            self.by_node[node] = Ref(name)
            self.lexemes[name] = node
        return self.by_node[node]

    def measured(self) -> dict[str, int]:
        """The size of every rule, those first that refer to no others; recursive ones are too large."""
        users = rule_users(self.source)
        missing = {name: len(set(references(node))) for name, node in self.source.items()}
        levels: dict[str, int] = {}
        self.sizes = {}
        queue = deque(name for name, n in missing.items() if not n)
        while queue:
            name = queue.popleft()
            node = self.source[name]
            levels[name] = depth(node) + max((levels[other] for other in references(node)), default=0)
            self.sizes[name] = self.size(node) if levels[name] <= _MAX_LEVELS else _MAX_SIZE + 1
            for user in users.get(name, ()):
                missing[user] -= 1
                if not missing[user]:
                    queue.append(user)
        return self.sizes

    def size(self, node: Node) -> int:
        """Number of nodes of a lexeme, all it refers to included.

        More than `_MAX_SIZE` where no lexeme can be: for recursion and for markers, which are tokens.
        """
        if isinstance(node, Ref):
            return self.sizes.get(node.name, _MAX_SIZE + 1)
        if isinstance(node, Text):
            return _MAX_SIZE + 1 if self.markers.search(node.value) else 1
        return 1 + sum(map(self.size, children(node)))


def _no_text(value: str) -> str:
    raise TypeError(f"{value!r} is no lexeme")


def _no_set(of: Chars) -> str:
    raise TypeError(f"{of!r} is no lexeme")


_LARK = Syntax(_no_text, _no_set, show_counts, bare_character=False)
