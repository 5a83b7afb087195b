"""Finite automata: intersection and difference of regular expressions, which a grammar cannot write directly.

A grammar has no "and" and no "not". A pattern and a length, two patterns, or a pattern less another become
one minimal deterministic automaton (`build`), and that becomes grammar nodes again (`to_node`):

    pairs = Repeat(Text("ab"), 0, None)
    to_node(build([pairs], least=3, most=5), grammar, "s")  # [a] [b] [a] [b]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gemma4_gguf.grammars.grammar import (
    EMPTY,
    MAX_CODE,
    Chars,
    Either,
    Grammar,
    Node,
    Ref,
    Repeat,
    Seq,
    Text,
    char_set,
    chars,
    either,
    seq,
    walk,
)

MAX_STATES = 1500
_MAX_NFA_STATES = 20_000
_MAX_WEIGHT = 2000
_MAX_TOLD = 100


class TooLarge(Exception):
    """The automaton would need more states than a grammar should have."""


@dataclass(frozen=True)
class Automaton:
    """A deterministic automaton. State 0 is the start; without states nothing is accepted.

    Args:
        atoms: disjoint ranges of characters, such that no condition tells two characters of one range apart:
            [a-f] and [d-z] give a-c, d-f, g-z and the rest. Transitions name them by index.
        transitions: for each state, atom → next state. Every state can reach an accepting one.
        accepting: states in which a string may end.
    """

    atoms: tuple[tuple[int, int], ...]
    transitions: tuple[dict[int, int], ...]
    accepting: frozenset[int]


def build(
    within: Sequence[Node],
    outside: Sequence[Node] = (),
    least: int = 0,
    most: int | None = None,
    *,
    max_states: int = MAX_STATES,
) -> Automaton:
    """The minimal automaton of several conditions on one string.

    Each state of the product stands for one set of states per condition and the number of characters so far.

    Args:
        within: nodes without references that must all match the whole string.
        outside: nodes that must not match it.
        least: characters of the shortest string.
        most: characters of the longest; None for any number.
        max_states: of the product, before it is minimized.

    Raises:
        TooLarge: it needs too many states.
    """
    nodes = [*within, *outside]
    atoms = _atoms(nodes)
    machines = [_NFA(node, atoms) for node in nodes]
    first = (tuple(machine.closure([machine.start]) for machine in machines), 0)
    index = {first: 0}
    queue, transitions, accepting = deque([first]), [], set()
    while queue:
        state = queue.popleft()
        sets, n = state
        ends = [machine.end in found for machine, found in zip(machines, sets, strict=True)]
        if n >= least and all(ends[: len(within)]) and not any(ends[len(within) :]):
            accepting.add(index[state])
        row: dict[int, int] = {}
        if most is None or n < most:
            # Without an upper bound, lengths above the lower one are all alike.
            length = n + 1 if most is not None else min(n + 1, least)
            for atom in range(len(atoms)):
                moved = tuple(m.step(found, atom) for m, found in zip(machines, sets, strict=True))
                if not all(moved[: len(within)]):
                    continue
                target = (moved, length)
                if target not in index:
                    if len(index) >= max_states:
                        raise TooLarge
                    index[target] = len(index)
                    queue.append(target)
                row[atom] = index[target]
        transitions.append(row)
    return minimized(Automaton(tuple(atoms), tuple(transitions), frozenset(accepting)))


def is_empty(within: Sequence[Node], outside: Sequence[Node], least: int, most: int | None) -> bool:
    """Whether no string meets the conditions of `build`; False also when that takes too long to tell."""
    if max(least, most or 0) > _MAX_TOLD:
        least, most = 0, None
    try:
        nodes = [*within, *outside]
        atoms = _atoms(nodes)
        machines = [_NFA(node, atoms, _MAX_TOLD * 20) for node in nodes]
    except TooLarge:
        return False
    first = (tuple(machine.closure([machine.start]) for machine in machines), 0)
    seen, queue = {first}, [first]
    while queue:
        if len(seen) * len(atoms) > _MAX_TOLD * 20:
            return False
        sets, n = queue.pop()
        ends = [machine.end in found for machine, found in zip(machines, sets, strict=True)]
        if n >= least and all(ends[: len(within)]) and not any(ends[len(within) :]):
            return False
        if most is not None and n >= most:
            continue
        for atom in range(len(atoms)):
            moved = tuple(m.step(found, atom) for m, found in zip(machines, sets, strict=True))
            target = (moved, n + 1 if most is not None else min(n + 1, least))
            if all(moved[: len(within)]) and target not in seen:
                seen.add(target)
                queue.append(target)
    return True


def to_node(automaton: Automaton, grammar: Grammar, name_hint: str) -> Node:
    """An automaton as nodes without recursion: a regular expression, by state elimination.

    States on cycles are eliminated one by one; edges through them become edges around them. Of what is left,
    states that are entered from several others become rules, so that nothing is written twice.

    Args:
        automaton: one that accepts at least one string.
        grammar: takes the rules.
        name_hint: what they may be called.

    Raises:
        TooLarge: the expression would be too long.
    """
    edges: list[dict[int, Node]] = []
    for row in automaton.transitions:
        by_target: dict[int, list[tuple[int, int]]] = {}
        for atom, target in row.items():
            by_target.setdefault(target, []).append(automaton.atoms[atom])
        edges.append({target: char_set(ranges) for target, ranges in by_target.items()})
    ends: list[Node | None] = [EMPTY if state in automaton.accepting else None for state in range(len(edges))]
    while cycle := _cycle(edges):
        _eliminate(edges, ends, min(cycle, key=lambda state: _cost(edges, state)))
    made: dict[int, Node] = {}
    uses = [sum(target in row for row in edges) for target in range(len(edges))]

    def body(state: int) -> Node:
        if state not in made:
            found = [seq(edge, body(target)) for target, edge in edges[state].items() if target != state]
            found += [end] if (end := ends[state]) is not None else []
            node = either(*found)
            if state in edges[state]:
                node = seq(Repeat(edges[state][state], 0, None), node)
            plain = node == EMPTY or isinstance(node, (Chars, Text, Ref))
            made[state] = (
                node if plain or uses[state] - (state in edges[state]) < 2 else grammar.add(name_hint, node)
            )
        return made[state]

    return body(0)


def _cycle(edges: list[dict[int, Node]]) -> list[int]:
    """States on a cycle of more than one state, found depth first; [] if there is none."""
    colour = [0] * len(edges)
    for start in range(len(edges)):
        path: list[int] = []
        stack = [(start, iter(edges[start]))] if not colour[start] else []
        while stack:
            state, targets = stack[-1]
            if colour[state] == 0:
                colour[state] = 1
                path.append(state)
            target = next(targets, None)
            if target is None:
                colour[state] = 2
                path.pop()
                stack.pop()
            elif colour[target] == 1 and target != state:
                return [s for s in path[path.index(target) :] if s] or [target]
            elif colour[target] == 0:
                stack.append((target, iter(edges[target])))
    return []


def _cost(edges: list[dict[int, Node]], state: int) -> int:
    """Edges that the elimination of a state would make."""
    return len(edges[state]) * sum(state in row for row in edges)


def _eliminate(edges: list[dict[int, Node]], ends: list[Node | None], state: int) -> None:
    """Replace every pair of edges into and out of a state by one around it: a -x-> s -y-> b by a -xy-> b."""
    loop = edges[state].pop(state, None)
    again = EMPTY if loop is None else Repeat(loop, 0, None)
    for row, before in enumerate(edges):
        if row == state or state not in before:
            continue
        there = seq(before.pop(state), again)
        for target, edge in edges[state].items():
            around = seq(there, edge)
            before[target] = either(before[target], around) if target in before else around
            if _weight(before[target]) > _MAX_WEIGHT:
                raise TooLarge
        if (end := ends[state]) is not None:
            last = seq(there, end)
            ends[row] = last if ends[row] is None else either(ends[row] or EMPTY, last)
    edges[state] = {}


def _weight(node: Node) -> int:
    """Nodes of an expression."""
    return sum(1 for _ in walk(node))


def _atoms(nodes: Sequence[Node]) -> list[tuple[int, int]]:
    """All characters, cut wherever a set of some node begins or ends."""
    cuts = {0, MAX_CODE + 1}
    for node in nodes:
        for found in _sets(node):
            for low, high in found.ranges:
                cuts |= {low, high + 1}
    points = sorted(cuts)
    return [(low, high - 1) for low, high in pairwise(points)]


def _sets(node: Node) -> Iterator[Chars]:
    """The character sets of a node, those of its texts included, in order."""
    for inner in walk(node):
        if isinstance(inner, Chars):
            yield inner
        elif isinstance(inner, Text):
            yield from map(chars, inner.value)


class _NFA:
    """The nondeterministic automaton of one node, by Thompson's construction.

    `epsilon[state]` lists the states reached without a character, `moves[state]` those reached by one.
    """

    def __init__(self, node: Node, atoms: list[tuple[int, int]], max_states: int = _MAX_NFA_STATES) -> None:
        self.max_states = max_states
        self.epsilon: list[list[int]] = []
        self.moves: list[list[tuple[frozenset[int], int]]] = []
        self._atoms = atoms
        self._sets: dict[Chars, frozenset[int]] = {}
        self._steps: dict[tuple[frozenset[int], int], frozenset[int]] = {}
        self.start = self.new_state()
        self.end = self.add(node, self.start)

    def new_state(self) -> int:
        if len(self.moves) >= self.max_states:
            raise TooLarge
        self.epsilon.append([])
        self.moves.append([])
        return len(self.moves) - 1

    def add(self, node: Node, start: int) -> int:
        """Append a node at a state; gives the state in which the node has ended."""
        if isinstance(node, Seq):
            for item in node.items:
                start = self.add(item, start)
            return start
        if isinstance(node, Either):
            end = self.new_state()
            for item in node.items:
                way = self.new_state()
                self.epsilon[start].append(way)
                self.epsilon[self.add(item, way)].append(end)
            return end
        if isinstance(node, Repeat):
            return self.add_repeat(node, start)
        for found in _sets(node):
            end = self.new_state()
            self.moves[start].append((self.members(found), end))
            start = end
        return start

    def add_repeat(self, node: Repeat, start: int) -> int:
        for _ in range(node.least):
            start = self.add(node.item, start)
        if node.most is None:
            loop, end = self.new_state(), self.new_state()
            self.epsilon[start].append(loop)
            self.epsilon[self.add(node.item, loop)].append(loop)
            self.epsilon[loop].append(end)
            return end
        end = self.new_state()
        for _ in range(node.most - node.least):
            self.epsilon[start].append(end)
            start = self.add(node.item, start)
        self.epsilon[start].append(end)
        return end

    def members(self, found: Chars) -> frozenset[int]:
        """The atoms of a set."""
        if found not in self._sets:
            self._sets[found] = frozenset(
                i for i, (low, _) in enumerate(self._atoms) if any(a <= low <= b for a, b in found.ranges)
            )
        return self._sets[found]

    def closure(self, states: Sequence[int]) -> frozenset[int]:
        """The states with all those that are reached from them without a character."""
        seen, queue = set(states), list(states)
        while queue:
            for other in self.epsilon[queue.pop()]:
                if other not in seen:
                    seen.add(other)
                    queue.append(other)
        return frozenset(seen)

    def step(self, states: frozenset[int], atom: int) -> frozenset[int]:
        """The states after one more character."""
        key = (states, atom)
        if key not in self._steps:
            moved = [end for state in states for sets, end in self.moves[state] if atom in sets]
            self._steps[key] = self.closure(moved)
        return self._steps[key]


def minimized(automaton: Automaton) -> Automaton:
    """The minimal automaton: dead states dropped, equivalent ones merged (Moore's algorithm)."""
    before: dict[int, set[int]] = {}
    for state, row in enumerate(automaton.transitions):
        for target in row.values():
            before.setdefault(target, set()).add(state)
    live, queue = set(automaton.accepting), list(automaton.accepting)
    while queue:
        for state in before.get(queue.pop(), ()):
            if state not in live:
                live.add(state)
                queue.append(state)
    if 0 not in live:
        return Automaton(automaton.atoms, (), frozenset())
    rows = {s: {a: t for a, t in automaton.transitions[s].items() if t in live} for s in sorted(live)}
    group = {state: int(state in automaton.accepting) for state in rows}
    while True:
        keys = {
            state: (group[state], tuple(sorted((atom, group[target]) for atom, target in row.items())))
            for state, row in rows.items()
        }
        numbers: dict[object, int] = {}
        finer = {state: numbers.setdefault(key, len(numbers)) for state, key in keys.items()}
        if len(numbers) == len(set(group.values())):
            break
        group = finer
    # State 0 comes first, so its group is number 0.
    joined: dict[int, dict[int, int]] = {}
    for state, row in rows.items():
        joined.setdefault(finer[state], {atom: finer[target] for atom, target in row.items()})
    accepting = frozenset(finer[state] for state in automaton.accepting if state in finer)
    return Automaton(automaton.atoms, tuple(joined[i] for i in range(len(joined))), accepting)
