"""Running tools: async ones, their timeouts and errors; whose errors are whose."""

from __future__ import annotations

import asyncio
import contextvars
import datetime
import functools
import json
import os
import sqlite3
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pytest
from pydantic import AfterValidator, BaseModel
from typing_extensions import TypedDict

from gemma4_gguf.errors import ToolError
from gemma4_gguf.tools import Tool, as_tools, run_call
from gemma4_gguf.types import ToolCall


def call(tools: Any, /, _name: str | None = None, timeout_s: float | None = None, **arguments: Any) -> Any:
    read = as_tools(tools if isinstance(tools, list) else [tools])
    return run_call(read, ToolCall("c", _name or read[0].name, arguments), timeout_s=timeout_s)


async def double(x: int) -> int:
    """Doubles.

    Args:
        x: a number.
    """
    await asyncio.sleep(0)
    return 2 * x


class Doubler:
    """Doubles."""

    async def __call__(self, x: int) -> int:
        return await double(x)

    async def method(self, x: int) -> int:
        return await double(x)

    @classmethod
    async def of_class(cls, x: int) -> int:
        return await double(x)

    @staticmethod
    async def static(x: int) -> int:
        return await double(x)


async def scaled(x: int, by: int) -> int:
    return x * by


def returns_coroutine(x: int) -> Awaitable[int]:
    return double(x)


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return inner


class Later:
    """Awaitable, and no coroutine."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        return self.value


def returns_awaitable(x: int) -> Any:
    return Later(2 * x)


POOL = ThreadPoolExecutor(1)


def returns_future(x: int) -> Any:
    return POOL.submit(lambda: 2 * x)


ASYNC = {
    "function": double,
    "object": Doubler(),
    "method": Doubler().method,
    "class method": Doubler.of_class,
    "static method": Doubler.static,
    "partial": functools.partial(scaled, by=2),
    "partial of a partial": functools.partial(functools.partial(scaled), by=2),
    "decorated": wrapped(double),
    "returns a coroutine": returns_coroutine,
    "returns an awaitable": returns_awaitable,
    "returns a future": returns_future,
}


@pytest.mark.parametrize("timeout_s", [None, 5.0])
@pytest.mark.parametrize("function", ASYNC.values(), ids=ASYNC)
def test_async_functions_are_awaited(function: Any, timeout_s: float | None) -> None:
    result = call(function, x=21, timeout_s=timeout_s)
    assert (result.content, result.failed) == ("42", False)


@pytest.mark.parametrize("timeout_s", [None, 5.0])
def test_inside_of_a_running_loop(timeout_s: float | None) -> None:
    async def main() -> Any:
        return call(double, x=21, timeout_s=timeout_s)

    assert asyncio.run(main()).content == "42"


def test_all_calls_share_one_loop() -> None:
    """Clients keep connections, which belong to the loop that opened them."""
    loops = []

    async def where() -> None:
        loops.append(asyncio.get_running_loop())

    call(where)
    asyncio.run(asyncio.to_thread(call, where))
    assert loops[0] is loops[1] and not loops[0].is_closed()


def test_an_async_function_that_takes_too_long_is_cancelled() -> None:
    cancelled = threading.Event()

    async def slow() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    result = call(slow, timeout_s=0.05)
    assert result.failed and "0.05 s" in result.content
    assert cancelled.wait(5)


@pytest.mark.parametrize(
    "error", [TimeoutError("of its own"), asyncio.CancelledError(), ValueError("of its own")]
)
def test_errors_of_async_functions_are_told(error: BaseException) -> None:
    async def broken() -> None:
        raise error

    result = call(broken, timeout_s=5.0)
    assert result.failed and ("of its own" in result.content or "cancelled" in result.content)


@pytest.mark.parametrize("timeout_s", [None, 5.0])
def test_context_variables_reach_the_function(timeout_s: float | None) -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user")

    async def later() -> str:
        return user.get()

    def now() -> str:
        return user.get()

    user.set("me")
    assert [call(f, timeout_s=timeout_s).content for f in (later, now)] == ["me", "me"]


def test_without_a_timeout_functions_run_in_this_thread() -> None:
    database = sqlite3.connect(":memory:")

    def count() -> int:
        return database.execute("select 3").fetchone()[0]

    assert call(count).content == "3"


@pytest.mark.skipif(not hasattr(os, "fork") or sys.version_info >= (3, 15), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_awaits_too() -> None:
    assert call(double, x=1).content == "2"
    child = os.fork()
    if child == 0:
        ok = call(double, x=21, timeout_s=5.0).content == "42"
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# Whose error


def undefined() -> str:
    return missing_name  # type: ignore[name-defined]  # noqa: F821


def unimportable() -> str:
    import no_such_module_anywhere  # noqa: F401

    return ""


async def undefined_later() -> str:
    return missing_name  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize("timeout_s", [None, 5.0])
@pytest.mark.parametrize(
    ("function", "error"), [(undefined, NameError), (unimportable, ImportError), (undefined_later, NameError)]
)
def test_errors_of_the_programmer_are_raised(
    function: Any, error: type[Exception], timeout_s: float | None
) -> None:
    with pytest.raises(error):
        call(function, timeout_s=timeout_s)


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), KeyError("x"), TypeError("x"), OSError("x"), ToolError("x"), StopIteration("x")],
)
def test_errors_of_the_task_are_told(error: Exception) -> None:
    def broken() -> None:
        raise error

    result = call(broken)
    assert result.failed and result.error is error
    assert json.loads(result.content)["error"].startswith(f"{type(error).__name__}: ")


def test_what_cannot_be_told_is_raised() -> None:
    def opaque() -> object:
        return object()

    with pytest.raises(ToolError, match="opaque returned what the model cannot be told: a object"):
        call(opaque, timeout_s=5.0)


SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


def test_a_declaration_that_the_function_does_not_fit_is_the_programmers() -> None:
    def other(y: int) -> int:
        return y

    with pytest.raises(ToolError, match="does not take"):
        call(Tool("f", "", SCHEMA, run=other), x=1)
    assert call(Tool("f", "", SCHEMA, run=lambda x: x), x=1).content == "1"


@pytest.mark.parametrize(("arguments", "said"), [({"z": 1, "x": 1}, "z: not declared"), ({}, "x: required")])
def test_arguments_that_were_not_declared_are_the_models(arguments: dict[str, int], said: str) -> None:
    result = call(Tool("f", "", SCHEMA, run=lambda x: x), **arguments)
    assert result.failed and said in result.content


class Pair(NamedTuple):
    a: int
    b: str


class Bag(TypedDict):
    n: int


@functools.lru_cache
def cached(x: int) -> int:
    """Cached."""
    return x


def test_arguments_come_in_the_types_of_the_hints() -> None:
    def kinds(
        pair: Pair,
        bag: Bag,
        many: set[int],
        day: datetime.date,
        where: Path,
        part: deque[int],
        *,
        flag: bool = False,
    ) -> list[str]:
        return [type(one).__name__ for one in (pair, bag, many, day, where, part, flag)]

    given = {
        "pair": [1, "x"],
        "bag": {"n": "3"},
        "many": [1, 1],
        "day": "2026-07-01",
        "where": "a/b",
        "part": [1],
    }
    found = json.loads(call(kinds, **given).content)
    assert found == ["Pair", "dict", "set", "date", type(Path()).__name__, "deque", "bool"]
    assert call(cached, x="3").content == "3"


def digit(value: int) -> int:
    if value > 9:
        raise ValueError("more than nine")
    return value


def test_a_validator_that_refuses_is_told() -> None:
    def f(x: Annotated[int, AfterValidator(digit)]) -> int:
        return x

    assert "x: Value error, more than nine" in call(f, x=10).content


def test_a_type_is_validated_once() -> None:
    class Trimmed(BaseModel):
        """What is read."""

        path: str

        def model_post_init(self, _: Any) -> None:
            self.path += "!"

    assert json.loads(call(Trimmed, path="a").content) == {"path": "a!"}
