"""Number ranges: bounds on numbers → grammar nodes over their digits, 8 to 99 as [8-9] | [1-9] [0-9].

A range of whole numbers is exact. A range of real numbers holds every decimal notation in it and, as Python
and JavaScript print very large and very small ones, the scientific one with a single digit before the point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

from gemma4_gguf.grammars.grammar import (
    DIGIT,
    EMPTY,
    Chars,
    Either,
    Node,
    Repeat,
    Text,
    either,
    either_or_none,
    optional,
    seq,
)

_NONZERO = Chars(((0x31, 0x39),))
_DIGITS = Repeat(DIGIT, 0, None)
_NEVER = Either(())
_MINUS: Node = Text("-")
# Python prints reals scientifically below 1e-4 and from 1e16 on.
_SMALL, _LARGE = -5, 16
# Doubles go from 5e-324, with less read as zero, to 1.7976931348623157e308.
_SMALLEST, _LARGEST = -324, 307


@dataclass(frozen=True)
class Bounds:
    """An interval of numbers; None for no bound, `open_` for a bound that is itself outside (exclusive)."""

    low: Decimal | None = None
    high: Decimal | None = None
    open_low: bool = False
    open_high: bool = False

    def is_empty(self) -> bool:
        """Whether no number is in the range."""
        if self.low is None or self.high is None:
            return False
        return self.low > self.high or (self.low == self.high and (self.open_low or self.open_high))

    def contains(self, value: Decimal) -> bool:
        """Whether a number is in the range."""
        above = self.low is None or (value > self.low if self.open_low else value >= self.low)
        return above and (self.high is None or (value < self.high if self.open_high else value <= self.high))

    def intersect(self, other: Bounds) -> Bounds:
        """The range of numbers that are in both."""
        low, open_low = _tighter(self.low, self.open_low, other.low, other.open_low, 1)
        high, open_high = _tighter(self.high, self.open_high, other.high, other.open_high, -1)
        return Bounds(low, high, open_low, open_high)

    def negated(self) -> Bounds:
        """The range of the numbers with their signs changed: 1 to 3 becomes -3 to -1."""
        low = None if self.high is None else -self.high
        high = None if self.low is None else -self.low
        return Bounds(low, high, self.open_high, self.open_low)


def _tighter(
    a: Decimal | None, a_open: bool, b: Decimal | None, b_open: bool, sign: int
) -> tuple[Decimal | None, bool]:
    """The tighter of two lower (sign 1) or upper (sign -1) bounds, and whether it is open."""
    if a is None or b is None:
        return (b, b_open) if a is None else (a, a_open)
    if a == b:
        return a, a_open or b_open
    return (a, a_open) if (a > b) == (sign > 0) else (b, b_open)


def whole_numbers(bounds: Bounds) -> Node | None:
    """Integers in a range, without leading zeros; None if there is none."""
    low = None if bounds.low is None else _whole(bounds.low, bounds.open_low, 1)
    high = None if bounds.high is None else _whole(bounds.high, bounds.open_high, -1)
    ways = [_natural(0 if low is None else max(low, 0), high)]
    if low is None or low < 0:
        least = 1 if high is None else max(-high, 1)
        ways.append(_signed(_natural(least, None if low is None else -low)))
    return _one_of(ways)


def real_numbers(bounds: Bounds) -> Node | None:
    """Real numbers in a range, in decimal and scientific notation; None if there is none."""
    bounds = _as_read(bounds)
    if bounds.is_empty():
        return None
    zero = Decimal(0)
    ways = [_magnitudes(bounds.intersect(Bounds(low=zero)))]
    ways.append(_signed(_magnitudes(bounds.negated().intersect(Bounds(low=zero, open_low=True)))))
    if bounds.contains(zero):
        ways.append(seq(Text("-0"), optional(seq(Text("."), Repeat(Text("0"), 1, None)))))
    return _one_of(ways)


def _as_read(bounds: Bounds) -> Bounds:
    """The same range closed, between doubles: 0.99999999999999999 is below one, but a parser makes it one."""
    low, high = _double(bounds.low, 1), _double(bounds.high, -1)
    if low and bounds.open_low:
        low = Decimal(repr(math.nextafter(float(low), math.inf)))
    if high and bounds.open_high:
        high = Decimal(repr(math.nextafter(float(high), -math.inf)))
    return Bounds(low, high, bounds.open_low and not bounds.low, bounds.open_high and not bounds.high)


def _double(bound: Decimal | None, sign: int) -> Decimal | None:
    """A bound of more digits than doubles have → the double inside and next to it; `sign` as for `_whole`."""
    if bound is None or len(bound.as_tuple().digits) <= 17:
        return bound
    try:
        near = float(bound)
    except OverflowError:
        return bound
    if not math.isfinite(near):
        return bound
    if (Decimal(near) - bound) * sign < 0:
        near = math.nextafter(near, sign * math.inf)
    return Decimal(repr(near))


def _one_of(ways: list[Node | None]) -> Node | None:
    """Alternatives, those left out that match nothing; None if all do."""
    return either_or_none(way for way in ways if way != _NEVER)


def _signed(node: Node | None) -> Node | None:
    return None if node is None or node == _NEVER else seq(_MINUS, node)


def _whole(bound: Decimal, is_open: bool, sign: int) -> int:
    """The integer inside a bound and next to it: 3 for a lower bound (sign 1) of 2.5, 2 for an upper one."""
    if int(bound.as_tuple().exponent) > 0:  # written as a double, such as 1e300, which is not 10 to the 300
        bound = Decimal(float(bound))
    inside = int(bound.to_integral_value(rounding="ROUND_CEILING" if sign > 0 else "ROUND_FLOOR"))
    return inside + sign if is_open and inside == bound else inside


def _natural(low: int, high: int | None) -> Node | None:
    """Non-negative integers from low to high, None for no upper bound."""
    if high is not None and high < low:
        return None
    if high is None:
        if low == 0:
            return either(Text("0"), seq(_NONZERO, _DIGITS))
        if low == 1:
            return seq(_NONZERO, _DIGITS)
        size = len(str(low))
        longer = seq(_NONZERO, Repeat(DIGIT, size, None))
        return either(_natural(low, 10**size - 1) or _NEVER, longer)
    ways: list[Node] = []
    for size in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 10 ** (size - 1) if size > 1 else 0)
        ways.append(_same_size(str(first), str(min(high, 10**size - 1))))
    return either(*ways)


def _same_size(low: str, high: str) -> Node:
    """Integers between two of equal length: "27" to "41" is "2" [7-9] | "3" [0-9] | "4" [0-1]."""
    if low == high:
        return Text(low)
    if set(low) == {"0"} and set(high) == {"9"}:
        return DIGIT if len(low) == 1 else Repeat(DIGIT, len(low), len(low))
    if len(low) == 1:
        return _digit(int(low), int(high))
    # Digit by digit, but long numbers by halves: 1e300 as 300 nested steps would exceed Python's stack.
    size = 1 if len(low) <= 16 else len(low) // 2
    rest = len(low) - size
    zeros, nines = "0" * rest, "9" * rest
    if low[:size] == high[:size]:
        return seq(Text(low[:size]), _same_size(low[size:], high[size:]))
    first, last = int(low[:size]), int(high[:size])
    bottom, top = low[size:] != zeros, high[size:] != nines
    ways: list[Node] = []
    if bottom:
        ways.append(seq(Text(low[:size]), _same_size(low[size:], nines)))
    if first + bottom <= last - top:
        heads = _same_size(str(first + bottom).zfill(size), str(last - top).zfill(size))
        ways.append(seq(heads, _same_size(zeros, nines)))
    if top:
        ways.append(seq(Text(high[:size]), _same_size(zeros, high[size:])))
    return either(*ways)


def _digit(low: int, high: int) -> Node:
    """One digit from low to high."""
    return Text(str(low)) if low == high else Chars(((0x30 + low, 0x30 + high),))


def _magnitudes(bounds: Bounds) -> Node | None:
    """Non-negative numbers in a range, in both notations."""
    if bounds.is_empty():
        return None
    return _one_of([_decimal(bounds), *_scientific(bounds)])


def _decimal(bounds: Bounds) -> Node | None:
    """Digits, and maybe a point and digits."""
    low, high = bounds.low or Decimal(0), bounds.high
    ground, low_rest = _split(low)
    if high is None:
        more = seq(_natural(ground + 1, None) or _NEVER, _fraction("", None, False, False))
        return either(seq(Text(str(ground)), _fraction(low_rest, None, bounds.open_low, False)), more)
    top, high_rest = _split(high)
    if ground == top:
        tail = _fraction(low_rest, high_rest, bounds.open_low, bounds.open_high)
        return None if tail == _NEVER else seq(Text(str(ground)), tail)
    ways: list[tuple[Node, Node]] = [(Text(str(ground)), _fraction(low_rest, None, bounds.open_low, False))]
    between = _natural(ground + 1, top - 1)
    if between is not None:
        ways.append((between, _fraction("", None, False, False)))
    ways.append((Text(str(top)), _fraction("", high_rest, False, bounds.open_high)))
    return _one_of([seq(whole, tail) for whole, tail in ways if tail != _NEVER])


def _split(value: Decimal) -> tuple[int, str]:
    """The integer part, and the digits after the point without trailing zeros."""
    whole, _, rest = format(value, "f").partition(".")
    return int(whole), rest.rstrip("0")


def _fraction(low: str, high: str | None, open_low: bool, open_high: bool) -> Node:
    """What follows the integer part: the point and digits d with 0.d in a range, or nothing where 0 is in it.

    Args:
        low: digits of the lower bound after its point, "" for 0.
        high: those of the upper bound; None for 1.
        open_low: 0.low itself is outside.
        open_high: 0.high itself is outside.
    """
    digits, empty = _digits_between(low, high, open_low, open_high)
    if digits == _NEVER:
        return EMPTY if empty else _NEVER
    tail = seq(Text("."), digits)
    return optional(tail) if empty else tail


def _digits_between(low: str | None, high: str | None, open_low: bool, open_high: bool) -> tuple[Node, bool]:
    """One or more digits d with 0.low <= 0.d <= 0.high, and whether no digit at all would do, too.

    Works digit by digit: after a first digit between those of the bounds, any digits follow; after a bound's
    own digit, those within the rest of the bound. `low` None is a bound that no digits can be below.
    """
    if low is not None and not low and not open_low:
        low = None
    if low is None and high is None:
        return Repeat(DIGIT, 1, None), True
    if high is not None and not high:  # zeros only
        fits = not open_high and low is None
        return (Repeat(Text("0"), 1, None), True) if fits else (_NEVER, False)
    if low == "" and high is None:  # anything but zeros
        return seq(Repeat(Text("0"), 0, None), _NONZERO, _DIGITS), False
    zeros = 0 if low is None or high is not None else _leading_zeros(low)
    if low and zeros > 1:  # one step instead of one for each zero
        digits, empty = _digits_between(low[zeros:], None, open_low, False)
        larger = seq(Repeat(Text("0"), 0, zeros - 1), _NONZERO, _DIGITS)
        after = seq(Repeat(Text("0"), zeros, zeros), optional(digits) if empty else digits)
        return either(larger, after), False
    if high and (zeros := _leading_zeros(high, low or high)) > 1:
        digits, empty = _digits_between(low and low[zeros:], high[zeros:], open_low, open_high)
        after = seq(Repeat(Text("0"), zeros, zeros), digits)
        if low is None:  # no more than zeros would do, too
            return either(Repeat(Text("0"), 1, zeros), after), True
        return after, False
    a = int(low[0]) if low else 0
    b = int(high[0]) if high else 9
    below = low is not None
    above = high is not None
    ways: list[Node] = []
    for first, last, rest_low, rest_high in _cases(a, b, low, high, below, above):
        digits, empty = _digits_between(rest_low, rest_high, open_low, open_high)
        head = _digit(first, last)
        if digits != _NEVER:
            ways.append(seq(head, optional(digits) if empty else digits))
        elif empty:
            ways.append(head)
    empty = low is None and high is not None
    return either(*ways) if ways else _NEVER, empty


def _leading_zeros(*digits: str) -> int:
    """How many zeros all of them begin with."""
    return min(len(d) - len(d.lstrip("0")) for d in digits)


def _cases(
    a: int, b: int, low: str | None, high: str | None, below: bool, above: bool
) -> list[tuple[int, int, str | None, str | None]]:
    """Ranges of first digits that continue alike: (first, last, lower and upper bound of the rest)."""
    rest_low = (low[1:] if low else "") if below else None
    rest_high = high[1:] if high is not None else None
    if a > b:
        return []
    if a == b and below and above:
        return [(a, a, rest_low, rest_high)]
    cases: list[tuple[int, int, str | None, str | None]] = []
    start, end = a + below, b - above
    if below:
        cases.append((a, a, rest_low, None))
    if start <= end:
        cases.append((start, end, None, None))
    if above:
        cases.append((b, b, None, rest_high))
    return cases


def _scientific(bounds: Bounds) -> list[Node | None]:
    """Scientific notation, d.ddde±xx, for the magnitudes that are printed so."""
    low, high = bounds.low or Decimal(0), bounds.high
    if high is not None and high <= 0:
        return []
    ways: list[Node | None] = []
    bottom = low.adjusted() if low else None
    if not low and bounds.open_low:
        bottom = _SMALLEST + 1
        ways.append(_with_exponent(Bounds(low=Decimal("5e-324")), _SMALLEST))
    ways += _exponents(bounds, bottom, _SMALL if high is None else min(_SMALL, high.adjusted()))
    start = max(_LARGE, low.adjusted() if low else _LARGE)
    if high is None:
        most = Bounds(high=Decimal("1.7976931348623157e308"))
        ways.append(_HUGE if low <= Decimal("1e308") else _with_exponent(bounds.intersect(most), 308))
    return ways + _exponents(bounds, start, _LARGEST if high is None else high.adjusted())


def _exponents(bounds: Bounds, first: int | None, last: int) -> list[Node | None]:
    """Numbers with exponents from first (None: the least) to last, of one sign; those at a bound apart."""
    ways: list[Node | None] = []
    while first is not None and first <= last and not _inside(bounds, first):
        ways.append(_with_exponent(bounds, first))
        first += 1
    while (first is None or first <= last) and not _inside(bounds, last):
        ways.append(_with_exponent(bounds, last))
        last -= 1
    if first is not None and first > last:
        return ways
    if last < 0:
        sign, sizes = _MINUS, _natural(-last, -(_SMALLEST if first is None else first))
    else:
        sign, sizes = _PLUS, _natural(first or 0, last)
    return [*ways, seq(_MANTISSA, _E, sign, _ZERO, sizes or _NEVER)]


_MANTISSA = seq(_NONZERO, optional(seq(Text("."), Repeat(DIGIT, 1, None))))
_E = Chars(((0x45, 0x45), (0x65, 0x65)))
_PLUS: Node = optional(Text("+"))
_ZERO = optional(Text("0"))
_TENTHS, _ = _digits_between(None, "7976931348623157", False, False)
_HUGE = seq(Text("1"), optional(seq(Text("."), _TENTHS)), _E, _PLUS, Text("308"))


def _inside(bounds: Bounds, exponent: int) -> bool:
    """Whether all numbers with this exponent are in range."""
    lowest, above = Decimal(1).scaleb(exponent), Decimal(1).scaleb(exponent + 1)
    return bounds.contains(lowest) and (bounds.high is None or above <= bounds.high)


def _with_exponent(bounds: Bounds, exponent: int) -> Node | None:
    """Numbers of a range that have this exponent."""
    sign = seq(_MINUS if exponent < 0 else _PLUS, _ZERO, Text(str(abs(exponent))))
    if _inside(bounds, exponent):
        return seq(_MANTISSA, _E, sign)
    scaled = Bounds(
        None if bounds.low is None else bounds.low.scaleb(-exponent),
        None if bounds.high is None else bounds.high.scaleb(-exponent),
        bounds.open_low,
        bounds.open_high,
    ).intersect(Bounds(Decimal(1), Decimal(10), open_high=True))
    if scaled.is_empty():
        return None
    mantissa = _decimal(scaled)
    return None if mantissa is None else seq(mantissa, _E, sign)
