"""May a lexer always take the longest lexeme? Only if what goes on with a lexeme never comes after it.

Otherwise a grammar such as `"a"* x` with `x ::= "ab" x | "c"` would lose texts: the first a's swallow the one
that x needs. The answer may be no for a grammar where it would be right, never the other way.
"""

from __future__ import annotations

from collections.abc import Mapping

from gemma4_gguf.grammars.automata import Automaton, TooLarge, build
from gemma4_gguf.grammars.grammar import Chars, Either, Node, Ref, Repeat, Seq, char_set, common, either, seq

_MAX_STATES = 400
_NONE = Chars(())


class Lexemes:
    """Examines how lexemes meet.

    Args:
        lexemes: name → node.
        terminals: name → node, for the references inside lexemes.
        rules: name → node over references to rules, to lexemes, and to tokens that are neither.
    """

    def __init__(
        self, lexemes: Mapping[str, Node], terminals: Mapping[str, Node], rules: Mapping[str, Node]
    ) -> None:
        self.lexemes, self.terminals, self.rules = lexemes, terminals, rules
        self.machines: dict[str, Automaton] = {}
        self.first: dict[str, Chars] = dict.fromkeys(rules, _NONE)
        self.empty: set[str] = set()
        self.follow: dict[str, Chars] = dict.fromkeys([*rules, *lexemes], _NONE)

    def are_clear(self) -> bool:
        """Returns: whether the longest lexeme is always right; False when it would take too long to tell."""
        try:
            self.machines = {name: build([self.inline(node)]) for name, node in self.lexemes.items()}
        except TooLarge:
            return False
        if any(len(machine.arrows) > _MAX_STATES for machine in self.machines.values()):
            return False
        for name, machine in self.machines.items():
            self.first[name] = _leaving(machine, 0)
            if 0 in machine.accepting:
                self.empty.add(name)
        while self.find_first():
            pass
        while self.find_follow():
            pass
        return all(self.apart(a, b) for a in self.machines for b in self.machines)

    def inline(self, node: Node) -> Node:
        if isinstance(node, Ref):
            return self.inline(self.terminals[node.name])
        if isinstance(node, Seq):
            return seq(*map(self.inline, node.items))
        if isinstance(node, Either):
            return either(*map(self.inline, node.items))
        return Repeat(self.inline(node.item), node.least, node.most) if isinstance(node, Repeat) else node

    def find_first(self) -> bool:
        """One round. Returns: whether anything was learned."""
        changed = False
        for name, node in self.rules.items():
            chars, empty = self.first_of(node)
            if chars != self.first[name] or (empty and name not in self.empty):
                changed = True
                self.first[name] = chars
                self.empty |= {name} if empty else set()
        return changed

    def first_of(self, node: Node) -> tuple[Chars, bool]:
        """Returns: characters a node may begin with, and whether it may be nothing."""
        if isinstance(node, Ref):
            return self.first.get(node.name, _NONE), node.name in self.empty
        if isinstance(node, Either):
            found = [self.first_of(item) for item in node.items]
            return _join(*(chars for chars, _ in found)), any(empty for _, empty in found)
        if isinstance(node, Repeat):
            chars, empty = self.first_of(node.item)
            return chars, empty or node.least == 0
        out = _NONE
        for item in node.items if isinstance(node, Seq) else ():
            chars, empty = self.first_of(item)
            out = _join(out, chars)
            if not empty:
                return out, False
        return out, True

    def find_follow(self) -> bool:
        """One round. Returns: whether anything was learned."""
        before = dict(self.follow)
        for name, node in self.rules.items():
            self.spread(node, self.follow[name])
        return self.follow != before

    def spread(self, node: Node, after: Chars) -> None:
        """Note that `after` may follow a node."""
        if isinstance(node, Ref):
            if node.name in self.follow:
                self.follow[node.name] = _join(self.follow[node.name], after)
        elif isinstance(node, Either):
            for item in node.items:
                self.spread(item, after)
        elif isinstance(node, Repeat):
            self.spread(node.item, _join(after, self.first_of(node.item)[0]))
        elif isinstance(node, Seq):
            for item in reversed(node.items):
                self.spread(item, after)
                chars, empty = self.first_of(item)
                after = _join(after, chars) if empty else chars

    def apart(self, a: str, b: str) -> bool:
        """Once lexeme a is complete, can b not go on with what may follow a?"""
        first, second, follow = self.machines[a], self.machines[b], self.follow[a]
        queue = _steps(first, second, 0, 0)  # nothing at all is no lexeme, so the beginning does not count
        seen = set(queue)
        while queue:
            p, q = queue.pop()
            if p in first.accepting and common(_leaving(second, q), follow).ranges:
                return False
            more = [pair for pair in _steps(first, second, p, q) if pair not in seen]
            seen.update(more)
            queue += more
        return True


def _steps(a: Automaton, b: Automaton, p: int, q: int) -> list[tuple[int, int]]:
    """Pairs of states that one character leads to."""
    found = set()
    for atom, target in a.arrows[p].items() if a.arrows else ():
        low, high = a.atoms[atom]
        for other, end in b.arrows[q].items() if b.arrows else ():
            if b.atoms[other][0] <= high and low <= b.atoms[other][1]:
                found.add((target, end))
    return sorted(found)


def _leaving(machine: Automaton, state: int) -> Chars:
    return char_set(machine.atoms[atom] for atom in machine.arrows[state]) if machine.arrows else _NONE


def _join(*sets: Chars) -> Chars:
    return char_set(span for one in sets for span in one.ranges)
