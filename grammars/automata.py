"""Finite automata, for what a grammar cannot say side by side: several conditions on one string.

A pattern and a length, two patterns, or a pattern less another become one deterministic automaton, made as
small as it gets, and that becomes nodes again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gemma4_gguf.grammars.ir import (
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
    either,
    seq,
)

MAX_STATES = 3000
_MAX_NFA = 20_000


class TooLarge(Exception):
    """The automaton would need more states than a grammar should have."""


@dataclass(frozen=True)
class Automaton:
    """Deterministic: arrows[state] maps atoms to states; atoms are ranges of characters treated alike.

    State 0 is the beginning. Every state can reach an accepting one; without states nothing is accepted.
    """

    atoms: tuple[tuple[int, int], ...]
    arrows: tuple[dict[int, int], ...]
    accepting: frozenset[int]


def build(
    within: Sequence[Node], outside: Sequence[Node] = (), least: int = 0, most: int | None = None
) -> Automaton:
    """Strings that all of `within` match and none of `outside`, of `least` to `most` characters.

    Raises:
        TooLarge: it needs too many states.
    """
    nodes = [*within, *outside]
    atoms = _atoms(nodes)
    machines = [_Machine(node, atoms) for node in nodes]
    first = (tuple(machine.closure([machine.start]) for machine in machines), 0)
    index = {first: 0}
    queue, arrows, accepting = [first], [], set()
    while queue:
        state = queue.pop(0)
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
                    if len(index) >= MAX_STATES:
                        raise TooLarge
                    index[target] = len(index)
                    queue.append(target)
                row[atom] = index[target]
        arrows.append(row)
    return _smallest(Automaton(tuple(atoms), tuple(arrows), frozenset(accepting)))


def to_node(automaton: Automaton, grammar: Grammar, wish: str) -> Node:
    """An automaton as rules. Accepts at least one string."""
    n = len(automaton.arrows)
    grouped: list[dict[int, list[tuple[int, int]]]] = []
    uses = [0] * n
    for row in automaton.arrows:
        by_target: dict[int, list[tuple[int, int]]] = {}
        for atom, target in row.items():
            by_target.setdefault(target, []).append(automaton.atoms[atom])
        grouped.append(by_target)
        for target in by_target:
            uses[target] += 1
    uses[0] += 1
    inline = [uses[state] == 1 and state not in grouped[state] for state in range(n)]
    names = {state: grammar.name_for(wish) for state in range(n) if not inline[state]}

    def body(state: int) -> Node:
        ways: list[Node] = []
        for target, ranges in grouped[state].items():
            rest = body(target) if inline[target] else Ref(names[target])
            if rest == EMPTY:
                ways.append(char_set(ranges))
            else:
                ways.append(seq(char_set(ranges), rest))
        if state in automaton.accepting:
            ways.append(EMPTY)
        return either(*ways)

    for state, name in names.items():
        grammar.rules[name] = body(state)
    return body(0) if inline[0] else Ref(names[0])


def length_range(node: Node) -> tuple[int, int | None]:
    """Returns: shortest and longest string of a node without references; None for no longest."""
    if isinstance(node, Text):
        return len(node.value), len(node.value)
    if isinstance(node, Seq):
        parts = [length_range(item) for item in node.items]
        longest = [most for _, most in parts]
        return sum(p[0] for p in parts), None if None in longest else sum(m or 0 for m in longest)
    if isinstance(node, Either):
        parts = [length_range(item) for item in node.items]
        longest = [most for _, most in parts]
        return min(p[0] for p in parts), None if None in longest else max(m or 0 for m in longest)
    if isinstance(node, Repeat):
        least, most = length_range(node.item)
        endless = (node.most is None and most != 0) or (most is None and node.most != 0)
        return least * node.least, None if endless else (most or 0) * (node.most or 0)
    return 1, 1


def shorten(node: Node, most: int) -> Node:
    """The node with its repetitions bounded so that no string is longer than `most`: some of its strings.

    Used where the exact set would need too many states.
    """
    shortest, longest = length_range(node)
    if longest is not None and longest <= most:
        return node
    if shortest > most:
        raise TooLarge
    if isinstance(node, Either):
        return either(*(shorten(item, most) for item in node.items if length_range(item)[0] <= most))
    if isinstance(node, Seq):
        ranges = [length_range(item) for item in node.items]
        spare = most - shortest
        flexible = [i for i, (low, high) in enumerate(ranges) if high is None or high > low]
        flexible.sort(key=lambda i: _slack(ranges[i], most))
        items = list(node.items)
        for k, i in enumerate(flexible):
            share = min(spare // (len(flexible) - k), _slack(ranges[i], most))
            items[i] = shorten(items[i], ranges[i][0] + share)
            spare -= share
        return seq(*items)
    if isinstance(node, Repeat):
        low, high = length_range(node.item)
        some = most // max(node.least, 1)
        if node.most != 1:  # rather many short ones than few long ones
            some = min(some, 64)
        each = max(low, some if high is None else min(high, some), 1)
        times = most // each
        return Repeat(shorten(node.item, each), node.least, min(times, node.most or times))
    return node


def _slack(bounds: tuple[int, int | None], most: int) -> int:
    return most if bounds[1] is None else bounds[1] - bounds[0]


def _atoms(nodes: Sequence[Node]) -> list[tuple[int, int]]:
    cuts = {0, MAX_CODE + 1}
    for node in nodes:
        for found in _sets(node):
            for low, high in found.ranges:
                cuts |= {low, high + 1}
    points = sorted(cuts)
    return [(low, high - 1) for low, high in pairwise(points)]


def _sets(node: Node) -> Iterator[Chars]:
    if isinstance(node, Chars):
        yield node
    elif isinstance(node, Text):
        yield from (Chars(((ord(c), ord(c)),)) for c in node.value)
    elif isinstance(node, (Seq, Either)):
        for item in node.items:
            yield from _sets(item)
    elif isinstance(node, Repeat):
        yield from _sets(node.item)


class _Machine:
    """Nondeterministic automaton of one node, over atoms."""

    def __init__(self, node: Node, atoms: list[tuple[int, int]]) -> None:
        self.silent: list[list[int]] = []
        self.moves: list[list[tuple[frozenset[int], int]]] = []
        self._atoms = atoms
        self._sets: dict[Chars, frozenset[int]] = {}
        self._steps: dict[tuple[frozenset[int], int], frozenset[int]] = {}
        self.start = self.state()
        self.end = self.add(node, self.start)

    def state(self) -> int:
        if len(self.moves) >= _MAX_NFA:
            raise TooLarge
        self.silent.append([])
        self.moves.append([])
        return len(self.moves) - 1

    def add(self, node: Node, start: int) -> int:
        """Returns: the state in which the node is over."""
        if isinstance(node, Seq):
            for item in node.items:
                start = self.add(item, start)
            return start
        if isinstance(node, Either):
            end = self.state()
            for item in node.items:
                way = self.state()
                self.silent[start].append(way)
                self.silent[self.add(item, way)].append(end)
            return end
        if isinstance(node, Repeat):
            return self.add_repeat(node, start)
        for found in _sets(node):
            end = self.state()
            self.moves[start].append((self.members(found), end))
            start = end
        return start

    def add_repeat(self, node: Repeat, start: int) -> int:
        for _ in range(node.least):
            start = self.add(node.item, start)
        if node.most is None:
            loop, end = self.state(), self.state()
            self.silent[start].append(loop)
            self.silent[self.add(node.item, loop)].append(loop)
            self.silent[loop].append(end)
            return end
        end = self.state()
        for _ in range(node.most - node.least):
            self.silent[start].append(end)
            start = self.add(node.item, start)
        self.silent[start].append(end)
        return end

    def members(self, found: Chars) -> frozenset[int]:
        if found not in self._sets:
            self._sets[found] = frozenset(
                i for i, (low, _) in enumerate(self._atoms) if any(a <= low <= b for a, b in found.ranges)
            )
        return self._sets[found]

    def closure(self, states: Sequence[int]) -> frozenset[int]:
        seen, queue = set(states), list(states)
        while queue:
            for other in self.silent[queue.pop()]:
                if other not in seen:
                    seen.add(other)
                    queue.append(other)
        return frozenset(seen)

    def step(self, states: frozenset[int], atom: int) -> frozenset[int]:
        key = (states, atom)
        if key not in self._steps:
            moved = [end for state in states for sets, end in self.moves[state] if atom in sets]
            self._steps[key] = self.closure(moved)
        return self._steps[key]


def _smallest(automaton: Automaton) -> Automaton:
    """Drop states that lead nowhere, and join those that cannot be told apart."""
    before: dict[int, set[int]] = {}
    for state, row in enumerate(automaton.arrows):
        for target in row.values():
            before.setdefault(target, set()).add(state)
    alive, queue = set(automaton.accepting), list(automaton.accepting)
    while queue:
        for state in before.get(queue.pop(), ()):
            if state not in alive:
                alive.add(state)
                queue.append(state)
    if 0 not in alive:
        return Automaton(automaton.atoms, (), frozenset())
    rows = {s: {a: t for a, t in automaton.arrows[s].items() if t in alive} for s in sorted(alive)}
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
