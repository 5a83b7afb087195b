"""Lengths of the strings of a node without references, and the same node with shorter or longer ones only."""

from __future__ import annotations

from gemma4_gguf.grammars.grammar import EMPTY, Either, Node, Repeat, Seq, Text, either, seq


class CannotFit(Exception):
    """No string has such a length, or the bound cannot be worked into a repetition."""


def length_range(node: Node) -> tuple[int, int | None]:
    """Characters of the shortest and the longest string of a node without references; None for no longest."""
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


def limit_length(node: Node, most: int) -> Node:
    """A node whose strings are some of the given node's, none longer than `most`.

    Its repetitions get bounds: "a*b*" limited to 10 becomes "a{0,5}b{0,5}". Used where the exact set would
    need too many states.

    Raises:
        CannotFit: even the shortest string is longer.
    """
    shortest, longest = length_range(node)
    if longest is not None and longest <= most:
        return node
    if shortest > most:
        raise CannotFit
    if isinstance(node, Either):
        return either(*(limit_length(item, most) for item in node.items if length_range(item)[0] <= most))
    if isinstance(node, Seq):
        ranges = [length_range(item) for item in node.items]
        spare = most - shortest
        flexible = [i for i, (low, high) in enumerate(ranges) if high is None or high > low]
        flexible.sort(key=lambda i: _slack(ranges[i], most))
        items = list(node.items)
        for k, i in enumerate(flexible):
            share = min(spare // (len(flexible) - k), _slack(ranges[i], most))
            items[i] = limit_length(items[i], ranges[i][0] + share)
            spare -= share
        return seq(*items)
    if isinstance(node, Repeat):
        low, high = length_range(node.item)
        some = most // max(node.least, 1)
        if node.most != 1:  # rather many short ones than few long ones
            some = min(some, 64)
        each = max(low, some if high is None else min(high, some), 1)
        times = most // each
        return Repeat(limit_length(node.item, each), node.least, min(times, node.most or times))
    return node


def extend_length(node: Node, least: int) -> Node:
    """A node whose strings are some of the given node's, none shorter than `least`.

    Raises:
        CannotFit: the bound cannot be worked into one of its repetitions.
    """
    short = least - length_range(node)[0]
    if short <= 0:
        return node
    items = list(node.items) if isinstance(node, Seq) else [node]
    for i, item in enumerate(items):
        if isinstance(item, Repeat) and (each := length_range(item.item)[0]):
            more = item.least + -(-short // each)
            if item.most is None or item.most >= more:
                items[i] = Repeat(item.item, more, item.most)
                return seq(*items)
    raise CannotFit


def fit_length(node: Node, least: int, most: int | None) -> Node | None:
    """The strings of a node within bounds of length, exactly; None where that is not a matter of one count.

    Of all parts of a sequence, only one repetition may vary in length, and what it repeats must not.
    """
    items = list(node.items) if isinstance(node, Seq) else [node]
    ranges = [length_range(item) for item in items]
    varying = [i for i, (low, high) in enumerate(ranges) if low != high]
    if len(varying) != 1:
        return None
    item = items[varying[0]]
    if not isinstance(item, Repeat):
        return None
    low, high = length_range(item.item)
    if low != high or not low:
        return None
    rest = sum(low for i, (low, _) in enumerate(ranges) if i != varying[0])
    fewest = max(item.least, -(-(least - rest) // low))
    times = item.most if most is None else least_of(item.most, (most - rest) // low)
    if times is not None and times < fewest:
        return None
    fitted = EMPTY if times == 0 else Repeat(item.item, fewest, times)
    return seq(*items[: varying[0]], fitted, *items[varying[0] + 1 :])


def least_of(a: int | None, b: int | None) -> int | None:
    """The lower of two upper limits."""
    return b if a is None else a if b is None else min(a, b)


def _slack(bounds: tuple[int, int | None], most: int) -> int:
    """How much longer than its shortest string a node can get."""
    return most if bounds[1] is None else bounds[1] - bounds[0]
