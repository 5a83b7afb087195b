"""Multiples: numbers that are multiples of a step → grammar nodes over their digits.

Read from left to right, the digits of a number give its remainder: after a remainder of r, a digit d leads to
10 r + d. A step of 0.25 is one of 25 hundredths; at most two digits after the point count, and zeros follow.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from math import lcm

from gemma4_gguf.errors import SchemaError
from gemma4_gguf.grammars.automata import Automaton, TooLarge, build, minimized, to_node
from gemma4_gguf.grammars.grammar import Grammar, Meet, Node, Text, either, optional, seq
from gemma4_gguf.grammars.schema_numbers import real_numbers, whole_numbers
from gemma4_gguf.grammars.schema_shapes import Alternative

_MAX_LISTED = 500  # so many multiples between two bounds are listed
_MAX_STEP = 2000
_ATOMS = (*((ord(digit), ord(digit)) for digit in "0123456789"), (ord("."), ord(".")))
_POINT = 10


def numbers(alternative: Alternative, grammar: Grammar, *, whole: bool) -> Node | None:
    """Numbers within the bounds of an alternative that are multiples of its steps.

    Args:
        alternative: its bounds and steps.
        grammar: takes the rules.
        whole: integers only.

    Returns:
        The node, None if there is no such number.

    Raises:
        SchemaError: the steps need too large a grammar.
    """
    within = (whole_numbers if whole else real_numbers)(alternative.bounds)
    if within is None or not alternative.steps:
        return within
    step = common_step(alternative.steps, whole=whole)
    listed = _listed(alternative, step)
    if listed is not None:
        return either(*map(Text, listed)) if listed else None
    where = f"{alternative.pointer}/multipleOf"
    try:
        multiples = _multiples(step, grammar, whole=whole)
        if alternative.bounds.low is None and alternative.bounds.high is None:
            return multiples
        if grammar.meets:
            return Meet((within, multiples))
        automaton = build([within, _multiples(step, Grammar(meets=True), whole=whole)])
        return to_node(automaton, grammar, "multiple") if automaton.transitions else None
    except TooLarge:
        raise SchemaError(f"multipleOf {step} needs too large a grammar", pointer=where) from None


def common_step(steps: tuple[Decimal, ...], *, whole: bool) -> Fraction:
    """The least number that is a multiple of all steps, and whole if asked."""
    fractions = [Fraction(step) for step in steps] + ([Fraction(1)] if whole else [])
    common = fractions[0]
    for other in fractions[1:]:
        common = Fraction(
            lcm(common.numerator * other.denominator, other.numerator * common.denominator),
            common.denominator * other.denominator,
        )
    return common


def _listed(alternative: Alternative, step: Fraction) -> list[str] | None:
    """The multiples between two bounds as they are written; None if they are too many to list."""
    bounds = alternative.bounds
    if bounds.low is None or bounds.high is None:
        return None
    low, high = Fraction(bounds.low) / step, Fraction(bounds.high) / step
    first = -(-low.numerator // low.denominator)
    last = high.numerator // high.denominator
    if last - first >= _MAX_LISTED:
        return None
    found = []
    for n in range(first, last + 1):
        value = n * step
        if not ((bounds.open_low and n == low) or (bounds.open_high and n == high)):
            found.append(format(Decimal(value.numerator) / Decimal(value.denominator), "f"))
    return found


def _multiples(step: Fraction, grammar: Grammar, *, whole: bool) -> Node:
    """All multiples of a step, with a sign and without a bound."""
    places = 0
    while (step * 10**places).denominator != 1:
        places += 1
        if places > 20:
            raise TooLarge
    unit = int(step * 10**places)
    if unit * (places + 1) > _MAX_STEP:
        raise TooLarge
    node = to_node(_remainders(unit, places, whole), grammar, "multiple")
    return seq(optional(Text("-")), node)


def _remainders(unit: int, places: int, whole: bool) -> Automaton:
    """The automaton of remainders, with `places` digits after the point that count."""
    index: dict[tuple[str, int, int], int] = {}
    order: list[tuple[str, int, int]] = []

    def number(state: tuple[str, int, int]) -> int:
        if state not in index:
            index[state] = len(order)
            order.append(state)
        return index[state]

    number(("start", 0, 0))
    rows: list[dict[int, int]] = []
    accepting = set()
    for kind, remainder, n in order:
        row: dict[int, int] = {}
        if kind in ("start", "whole"):
            for digit in range(10):
                after = "zero" if kind == "start" and digit == 0 else "whole"
                row[digit] = number((after, (10 * remainder + digit) % unit, 0))
        if kind in ("zero", "whole") and not whole:
            row[_POINT] = number(("point", remainder, 0))
        if kind in ("point", "part"):
            for digit in range(10) if n < places else (0,):
                value = (10 * remainder + digit) % unit if n < places else remainder
                row[digit] = number(("part", value, min(n + 1, places) if n < places else n))
        if kind in ("zero", "whole", "part") and remainder * 10 ** (places - n) % unit == 0:
            accepting.add(index[kind, remainder, n])
        rows.append(row)
    return minimized(Automaton(_ATOMS, tuple(rows), frozenset(accepting)))
