"""Limits of foreign templates: what they compute is bounded in steps, time and size.

A template comes with a model and is a program: it may loop without end or ask for a billion spaces. Nothing
can be stopped from outside in the middle of one operation, so each is charged to a budget before it runs, by
what it will make: steps of loops and calls of macros (a call is written into their bodies), operators,
methods, filters, and everything that is printed. Lists are charged with all that is inside them, as often as
it is inside.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from jinja2 import nodes
from jinja2.runtime import Context, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context
from jinja2.visitor import NodeTransformer

from gemma4_gguf.errors import TemplateError

MAX_TEMPLATE = 2**17  # characters; the official ones have 17,000
MAX_SIZE = 50_000_000  # characters and items of everything that one rendering makes; a step counts as STEP
STEP = 50
MAX_SECONDS = 2.0  # of processor time
MAX_BITS = 50_000  # of a whole number
_LOOK = 20_000  # what is charged between two looks at the clock

# Filters and methods of strings whose result grows as the product of what goes in.
_PRODUCTS = frozenset(
    ("expandtabs", "format", "format_map", "indent", "join", "replace", "translate", "wordwrap", "xmlattr")
)
# Filters in whose result numbers are text.
_PRINTING = frozenset(("d", "default", "format", "format_map", "join", "replace", "tojson"))
_WIDE = re.compile(r"\d{5}|\{[^{}]*\{|%[^a-zA-Z%]*\*")  # a width of 10,000 and more, or one out of a value


class _Budget:
    """What is left for one rendering."""

    def __init__(self) -> None:
        self._left = MAX_SIZE
        self._next_look = MAX_SIZE - _LOOK
        self._end_s = time.thread_time() + MAX_SECONDS

    def charge(self, size: int) -> None:
        self._left -= size
        if self._left < self._next_look:
            if self._left < 0:
                raise _refusal(f"it makes more than {MAX_SIZE:,} characters, items and steps")
            if time.thread_time() > self._end_s:
                raise _refusal(f"it takes more than {MAX_SECONDS:g} s")
            self._next_look = self._left - _LOOK


_budget: ContextVar[_Budget] = ContextVar("budget")


def _charge(size: int) -> None:
    _budget.get().charge(size)


def limited(render: Callable[..., str], **variables: Any) -> str:
    """Renders with a budget of its own.

    Args:
        render: of a template compiled by a `LimitedEnvironment`.
        variables: for it.

    Returns:
        What it prints.

    Raises:
        TemplateError: it wants too much.
    """
    token = _budget.set(_Budget())
    try:
        return render(**variables)
    finally:
        _budget.reset(token)


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox in which everything is charged. Trees must pass `instrument` before they are compiled."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, **options: Any) -> None:
        # Nothing is computed while compiling, which has no budget.
        super().__init__(optimized=False, finalize=_printed, **options)
        del self.globals["lipsum"]
        self.charge_filters()

    def charge_filters(self) -> None:
        """Wraps every filter that is not wrapped yet."""
        for name, function in self.filters.items():
            if not hasattr(function, "charged"):
                self.filters[name] = _charged(name, function)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Charges an operator by its result before it is computed."""
        _charge(_operator_size(operator, left, right))
        return _made(super().call_binop(context, operator, left, right))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Charges a call; the methods of strings by what they will make."""
        _charge(STEP)
        owner = getattr(getattr(obj, "__wrapped__", obj), "__self__", None)
        if isinstance(owner, str):
            _charge_text(obj.__name__, (owner, *args), kwargs)
        return _made(super().call(context, obj, *args, **kwargs))

    def step(self, size: int) -> bool:
        """Charges one round of a loop, or the body of a macro."""
        _budget.get().charge(size)
        return True

    def made(self, value: Any) -> Any:
        """Charges a list, tuple or dict that a template spells out."""
        return _made(value)

    def joined(self, *values: Any) -> str:
        """The operator ~."""
        _charge(sum(map(_size, values)))
        return str_join(values)


def instrument(tree: nodes.Template) -> nodes.Template:
    """Writes the charges into the tree of a template.

    Args:
        tree: as parsed; it is changed.

    Returns:
        The tree.
    """
    changed: nodes.Template = _Instrument().visit(tree)
    return changed


class _Instrument(NodeTransformer):
    def visit_For(self, node: nodes.For) -> nodes.For:
        step = _step(node)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(step))
        if node.test is not None:
            node.test = nodes.And(step, node.test)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        step = _step(node)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(step))
        return node

    visit_CallBlock = visit_Macro

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        return _call("joined", *node.nodes)

    def visit_List(self, node: nodes.List | nodes.Tuple | nodes.Dict) -> nodes.Expr:
        plain = getattr(node, "ctx", "load") != "load" or all(
            isinstance(item, nodes.Const) for item in node.iter_child_nodes()
        )
        self.generic_visit(node)
        return node if plain else _call("made", node)

    visit_Tuple = visit_Dict = visit_List


def _call(name: str, *values: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), list(values), [], None, None)


def _step(node: nodes.Node) -> nodes.Expr:
    """A call written out, as one through the sandbox takes as long as a short body."""
    size = STEP + sum(len(text.data) for text in node.find_all(nodes.TemplateData))
    return nodes.EnvironmentAttribute(f"step({size})")


@pass_context
def _printed(_context: Context, value: Any) -> Any:
    if value.__class__ is str:
        _budget.get().charge(len(value))
    else:
        _charge(_size(value))
    return value


def _made(value: Any) -> Any:
    kind = value.__class__
    if kind is str or kind is bytes:
        _budget.get().charge(len(value))
    elif isinstance(value, (list, tuple, dict)):
        _charge_all(value)
    return value


def _charged(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    n_passed = int(hasattr(function, "jinja_pass_arg"))

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if name == "join" and len(args) > n_passed and not hasattr(args[n_passed], "__len__"):
            args = (*args[:n_passed], list(args[n_passed]), *args[n_passed + 1 :])
        _charge_text(name, args[n_passed:], kwargs)
        return _made(function(*args, **kwargs))

    run.charged = True  # type: ignore[attr-defined]
    return run


def _charge_text(name: str, values: Sequence[Any], named: Mapping[str, Any]) -> None:
    """Charges a filter, or a method of a string; the first value is what it is applied to."""
    if name in ("string", "pprint", "tojson", *_PRODUCTS):
        sizes = [_size(value) for value in (*values, *named.values())]
    else:
        sizes = [len(v) if hasattr(v, "__len__") else 1 for v in values]
    numbers = [abs(v) for v in (*values[1:], *named.values()) if isinstance(v, int)]
    if name == "round" and any(n > 300 for n in numbers):
        raise _refusal("it rounds to more than 300 digits")
    if name == "sum" and any(isinstance(v, (list, tuple)) for v in (*values[1:], *named.values())):
        raise _refusal("it adds up lists")
    if "format" in name and values and isinstance(values[0], str) and _WIDE.search(values[0]):
        raise _refusal("it prints with a width of 10,000 or more, or one from a value")
    if name in _PRODUCTS:
        # Twice the sizes: numbers among the arguments count in full where they are widths.
        widths = 0 if name in _PRINTING else sum(numbers)
        _charge((sizes[0] + 1 if sizes else 1) * (1 + sum(sizes[1:]) + widths) // 2)
    elif name == "tojson":
        _charge((sizes[0] if sizes else 1) * (1 + sum(numbers)))
    else:
        _charge(STEP + sum(sizes) + (0 if name in _PRINTING else sum(numbers)))


def _operator_size(operator: str, left: Any, right: Any) -> int:
    if operator == "%" and isinstance(left, str):
        if _WIDE.search(left):
            raise _refusal("it prints with a width of 10,000 or more, or one from a value")
        return (len(left) + 1) * (1 + _size(right)) // 2
    if isinstance(left, int) and isinstance(right, int):
        bits = {
            "*": left.bit_length() + right.bit_length(),
            "**": left.bit_length() * max(0, right),
        }.get(operator, 0)
        if bits > MAX_BITS:
            raise _refusal(f"it makes a number of more than {MAX_BITS:,} bits")
        return 1
    sized = (str, list, tuple)
    if operator == "*":
        text, n = (left, right) if isinstance(left, sized) else (right, left)
        return len(text) * max(0, n) if isinstance(text, sized) and isinstance(n, int) else 1
    return sum(len(value) for value in (left, right) if isinstance(value, sized))


def _size(value: Any) -> int:
    """Characters that a value prints, about; what is inside of lists is charged on the way."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, int):
        return 20 if -(2**60) < value < 2**60 else value.bit_length() // 3
    if isinstance(value, (list, tuple, dict, Namespace)):
        return _charge_all(value)
    return len(value) if hasattr(value, "__len__") else 20


def _charge_all(value: Any) -> int:
    """Charges a list, tuple or dict with all that is inside, and says how much that was."""
    total, charged, waiting = 0, 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Namespace):
            raise _refusal("it keeps or prints a namespace")
        if isinstance(item, dict):
            waiting += item.keys()
            waiting += item.values()
        elif isinstance(item, (list, tuple)):
            waiting += item
        total += 1 + (len(item) if isinstance(item, (str, list, tuple, dict)) else 1)
        if total - charged > _LOOK:
            _charge(total - charged)
            charged = total
    _charge(total - charged)
    return total


def _refusal(reason: str) -> TemplateError:
    return TemplateError(
        f"the chat template is stopped: {reason}. Use one of the shipped templates "
        "(gemma4_gguf.templates.load), or a model from a source that you trust."
    )
