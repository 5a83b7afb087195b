"""Grammar analysis: which rules have a finite text, which can begin with themselves, what can be dropped."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from gemma4_gguf.grammars.grammar import (
    EMPTY,
    NOTHING,
    Either,
    Grammar,
    Meet,
    Node,
    Ref,
    Repeat,
    Seq,
    Text,
    either,
    map_children,
    references,
)


def rule_users(rules: Mapping[str, Node]) -> dict[str, list[str]]:
    """Rule → rules that refer to it, each once."""
    users: dict[str, list[str]] = {}
    for name, node in rules.items():
        for other in dict.fromkeys(references(node)):
            users.setdefault(other, []).append(name)
    return users


def shortest_texts(
    rules: Mapping[str, Node], known: Mapping[str, float] | None = None, *, never: float = math.inf
) -> dict[str, float]:
    """Characters of the shortest text of each rule.

    Args:
        rules: whose texts are measured.
        known: the same of other rules, to which these refer.
        never: what NOTHING, which matches no text, counts for.

    Returns:
        Infinity for a rule that has no finite text, as a ::= "(" a ")". Those of `known` are among them.
    """
    size: dict[str, float] = {**(known or {}), **dict.fromkeys(rules, math.inf)}
    users = rule_users(rules)
    # Most rules refer to later ones.
    queue = deque(reversed(list(rules)))
    waiting = set(queue)
    while queue:
        name = queue.popleft()
        waiting.discard(name)
        shortest = _shortest(rules[name], size, never)
        if shortest < size[name]:
            size[name] = shortest
            for user in users.get(name, ()):
                if user not in waiting:
                    waiting.add(user)
                    queue.append(user)
    return size


def _shortest(node: Node, size: Mapping[str, float], never: float) -> float:
    """Characters of the shortest text of a node, given those of the rules."""
    if isinstance(node, Text):
        return len(node.value)
    if isinstance(node, Ref):
        return size.get(node.name, math.inf)
    if isinstance(node, Seq):
        return sum([_shortest(item, size, never) for item in node.items])
    if isinstance(node, Either):
        return min([_shortest(item, size, never) for item in node.items], default=never)
    if isinstance(node, Repeat):
        return node.least * _shortest(node.item, size, never) if node.least else 0
    if isinstance(node, Meet):
        return max([_shortest(item, size, never) for item in node.within])
    return 1


def prune(rules: Mapping[str, Node], shortest: Mapping[str, float]) -> dict[str, Node]:
    """The rules without those that no finite text matches, and without the alternatives that need them."""
    dead = {name for name in rules if shortest[name] == math.inf}
    kept = {name: node for name, node in rules.items() if name not in dead}
    return {name: _alive(node, dead) for name, node in kept.items()} if dead else kept


def _alive(node: Node, dead: set[str]) -> Node:
    if isinstance(node, Ref):
        return NOTHING if node.name in dead else node
    if isinstance(node, Either):
        left = [item for item in (_alive(item, dead) for item in node.items) if item != NOTHING]
        return either(*left) if left else NOTHING
    if isinstance(node, Repeat):
        item = _alive(node.item, dead)
        if item == NOTHING:
            return NOTHING if node.least else EMPTY
        return Repeat(item, node.least, node.most)
    return map_children(node, lambda inner: _alive(inner, dead))


def left_recursion(grammar: Grammar) -> str | None:
    """Name of a rule that can begin with itself (llama.cpp refuses those), None if there is none."""
    return first_circle(first_references(grammar.rules, shortest_texts(grammar.rules)))


def first_references(rules: Mapping[str, Node], shortest: Mapping[str, float]) -> dict[str, list[str]]:
    """Rule → rules that it can begin with, in order, each as often as it stands there."""
    return {name: list(_starts(node, shortest)) for name, node in rules.items()}


def first_circle(graph: Mapping[str, Iterable[str]]) -> str | None:
    """A name on a circle of a graph, None if it has none; found depth first."""
    done: set[str] = set()
    for start in graph:
        path, stack, above = [start], [iter(graph[start])], {start}
        while stack and start not in done:
            name = next(stack[-1], None)
            if name is None:
                stack.pop()
                above.discard(path[-1])
                done.add(path.pop())
            elif name in above:
                return name
            elif name not in done and name in graph:
                path.append(name)
                above.add(name)
                stack.append(iter(graph[name]))
    return None


def _starts(node: Node, shortest: Mapping[str, float]) -> Iterator[str]:
    """Names of the rules a node can begin with."""
    if isinstance(node, Ref):
        yield node.name
    elif isinstance(node, Repeat):
        yield from _starts(node.item, shortest)
    elif isinstance(node, Either):
        for item in node.items:
            yield from _starts(item, shortest)
    elif isinstance(node, Seq):
        for item in node.items:
            yield from _starts(item, shortest)
            if _shortest(item, shortest, math.inf):
                break
