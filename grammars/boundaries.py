"""Longest-match check: whether a lexer may always take the longest lexeme without losing texts of a grammar.

It may if no character that continues a complete lexeme can also follow it. In `"a"* x` with
`x ::= "ab" x | "c"` one can: on "aab", the lexeme `"a"*` would take both a's, and x would lack its own. The
check uses the FIRST and FOLLOW sets of LL parsing. It may say no where yes would be right, never the other
way.
"""

from __future__ import annotations

from collections.abc import Mapping

from gemma4_gguf.grammars.automata import Automaton, TooLarge, build
from gemma4_gguf.grammars.grammar import (
    Chars,
    Either,
    Node,
    Ref,
    Repeat,
    Seq,
    char_set,
    intersection,
    map_children,
    union,
)

_MAX_STATES = 400
_NONE = Chars(())


class LongestMatchCheck:
    """FIRST and FOLLOW sets of a grammar over lexemes, and the check that uses them.

    Args:
        lexemes: name → node.
        parts: name → node, for the references inside lexemes.
        rules: name → node over references to rules, to lexemes, and to tokens that are neither.
    """

    def __init__(
        self, lexemes: Mapping[str, Node], parts: Mapping[str, Node], rules: Mapping[str, Node]
    ) -> None:
        self.lexemes, self.parts, self.rules = lexemes, parts, rules
        self.automata: dict[str, Automaton] = {}
        self.first: dict[str, Chars] = dict.fromkeys(rules, _NONE)
        self.nullable: set[str] = set()
        self.follow: dict[str, Chars] = dict.fromkeys([*rules, *lexemes], _NONE)

    def is_safe(self) -> bool:
        """Whether the longest lexeme is always right; False also when it would take too long to tell."""
        try:
            self.automata = {name: build([self.inline(node)]) for name, node in self.lexemes.items()}
        except TooLarge:
            return False
        if any(len(automaton.transitions) > _MAX_STATES for automaton in self.automata.values()):
            return False
        for name, automaton in self.automata.items():
            self.first[name] = _next_chars(automaton, 0)
            if 0 in automaton.accepting:
                self.nullable.add(name)
        while self.update_first():
            pass
        while self.update_follow():
            pass
        return all(self.is_safe_pair(a, b) for a in self.automata for b in self.automata)

    def inline(self, node: Node) -> Node:
        """A lexeme's node with its references replaced by what they refer to; lexemes have no recursion."""
        if isinstance(node, Ref):
            return self.inline(self.parts[node.name])
        return map_children(node, self.inline)

    def update_first(self) -> bool:
        """One round of the fixed-point iteration for FIRST; gives whether anything changed."""
        changed = False
        for name, node in self.rules.items():
            chars, empty = self.first_of(node)
            if chars != self.first[name] or (empty and name not in self.nullable):
                changed = True
                self.first[name] = chars
                self.nullable |= {name} if empty else set()
        return changed

    def first_of(self, node: Node) -> tuple[Chars, bool]:
        """FIRST of a node: characters it may begin with, and whether it may be empty."""
        if isinstance(node, Ref):
            return self.first.get(node.name, _NONE), node.name in self.nullable
        if isinstance(node, Either):
            found = [self.first_of(item) for item in node.items]
            return union(*(chars for chars, _ in found)), any(empty for _, empty in found)
        if isinstance(node, Repeat):
            chars, empty = self.first_of(node.item)
            return chars, empty or node.least == 0
        out = _NONE
        for item in node.items if isinstance(node, Seq) else ():
            chars, empty = self.first_of(item)
            out = union(out, chars)
            if not empty:
                return out, False
        return out, True

    def update_follow(self) -> bool:
        """One round of the fixed-point iteration for FOLLOW; gives whether anything changed."""
        before = dict(self.follow)
        for name, node in self.rules.items():
            self.add_follow(node, self.follow[name])
        return self.follow != before

    def add_follow(self, node: Node, after: Chars) -> None:
        """Add `after`, characters that may come after a node, to FOLLOW of what the node ends with."""
        if isinstance(node, Ref):
            if node.name in self.follow:
                self.follow[node.name] = union(self.follow[node.name], after)
        elif isinstance(node, Either):
            for item in node.items:
                self.add_follow(item, after)
        elif isinstance(node, Repeat):
            self.add_follow(node.item, union(after, self.first_of(node.item)[0]))
        elif isinstance(node, Seq):
            for item in reversed(node.items):
                self.add_follow(item, after)
                chars, empty = self.first_of(item)
                after = union(after, chars) if empty else chars

    def is_safe_pair(self, a: str, b: str) -> bool:
        """Whether, once lexeme a is complete, b cannot continue with a character that may follow a."""
        first, second, follow = self.automata[a], self.automata[b], self.follow[a]
        # An empty string is no lexeme, so the pair of start states does not count.
        queue = _joint_steps(first, second, 0, 0)
        seen = set(queue)
        while queue:
            p, q = queue.pop()
            if p in first.accepting and intersection(_next_chars(second, q), follow).ranges:
                return False
            more = [pair for pair in _joint_steps(first, second, p, q) if pair not in seen]
            seen.update(more)
            queue += more
        return True


def _joint_steps(a: Automaton, b: Automaton, p: int, q: int) -> list[tuple[int, int]]:
    """Pairs of states that some single character leads to from states p of a and q of b."""
    found = set()
    for atom, target in a.transitions[p].items() if a.transitions else ():
        low, high = a.atoms[atom]
        for other, end in b.transitions[q].items() if b.transitions else ():
            if b.atoms[other][0] <= high and low <= b.atoms[other][1]:
                found.add((target, end))
    return sorted(found)


def _next_chars(automaton: Automaton, state: int) -> Chars:
    """Characters for which a state has a transition."""
    return (
        char_set(automaton.atoms[atom] for atom in automaton.transitions[state])
        if automaton.transitions
        else _NONE
    )
