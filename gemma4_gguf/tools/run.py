"""Running tools: a call of the model → the result that it reads.

What the model did wrong, and what a tool says of its task by raising, is told to the model. What only the
programmer can mend is raised: a value that cannot be shown, a signature that does not fit, a name that is not
defined.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import logging
import math
import os
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from gemma4_gguf.engine.compute_thread import Cancelled, cancellation, require_wanted
from gemma4_gguf.errors import ToolError
from gemma4_gguf.tools.declare import Tool
from gemma4_gguf.tools.results import ToolResult, as_result
from gemma4_gguf.types import ToolCall

# Code that raises these is wrong whatever the model asked for.
_PROGRAMMERS = (NameError, ImportError, SyntaxError)
_STEP_S = 0.1  # between two looks at whether an answer is still wanted

_log = logging.getLogger(__name__)


def run_call(tools: Sequence[Tool], call: ToolCall, *, timeout_s: float | None = None) -> ToolResult:
    """Runs one call. Whatever the model can do something about becomes a result that it reads.

    Args:
        tools: the declared tools.
        call: what the model asked for.
        timeout_s: seconds to wait, > 0; None waits for ever and runs the function in this thread. A function
            that is still running then is left alone in its thread, since Python cannot stop it; one that is
            async is cancelled.

    Returns:
        What the function returned, or what went wrong.

    Raises:
        ToolError: the tool has no function to run, the function does not take what was declared, or it
            returned what the model cannot be told.
        NameError, ImportError, SyntaxError: as the function raised them.
    """
    tool = next((tool for tool in tools if tool.name == call.name), None)
    if tool is None:
        known = ", ".join(tool.name for tool in tools) or "none"
        return failure(f"There is no tool {call.name!r}; there are: {known}.")
    if tool.run is None:
        raise ToolError(f"{call.name!r} was declared without a function. Run it yourself and add its result.")
    try:
        work = _prepared(tool, tool.run, call.arguments)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors()
        )
        return failure(f"Wrong arguments: {wrong}.")
    except _WrongNames as error:
        return failure(f"Wrong arguments: {error}.")
    try:
        value = _waited(work, timeout_s)
    except _TimedOut:
        return failure(f"No answer within {timeout_s:g} s.")
    except (*_PROGRAMMERS, Cancelled):
        raise
    except Exception as error:  # the model is told, whatever it was
        _log.debug("%s raised", tool.name, exc_info=True)
        return failure(f"{type(error).__name__}: {error}", error)
    return as_result(value, tool.name)


def failure(message: str, error: Exception | None = None) -> ToolResult:
    """The result of a call that went wrong.

    Args:
        message: what the model is told.
        error: what was raised.

    Returns:
        A failed result.
    """
    return ToolResult(json.dumps({"error": message}, ensure_ascii=False), failed=True, error=error)


class _WrongNames(Exception):
    """Arguments that were not declared, or that lack a required one."""


class _TimedOut(Exception):
    """The function took too long; its own TimeoutError is another thing."""


def _prepared(tool: Tool, run: Callable[..., Any], given: Mapping[str, Any]) -> Callable[[], Any]:
    """The call with checked arguments, ready to run."""
    if tool.arguments is None:
        arguments = _by_names(tool, given)
    else:
        value = tool.arguments.model_validate(given)
        if run is tool.arguments:
            return lambda: value
        names = type(value).model_fields
        arguments = {(info.alias or key): getattr(value, key) for key, info in names.items()}
    try:
        inspect.signature(run).bind(**arguments)
    except TypeError as error:
        raise ToolError(
            f"{tool.name} was declared with arguments that its function does not take: {error}. Let the "
            "declaration follow the signature."
        ) from error
    except ValueError:  # some built-ins have none
        pass
    return lambda: run(**arguments)


def _by_names(tool: Tool, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a tool that has a schema and no type: at least their names are right."""
    properties = tool.parameters.get("properties")
    if isinstance(properties, Mapping):
        free = tool.parameters.get("additionalProperties", False) is not False
        unknown = [] if free else [name for name in given if name not in properties]
        missing = [name for name in tool.parameters.get("required", ()) if name not in given]
        if unknown or missing:
            said = [f"{name}: not declared" for name in unknown] + [f"{name}: required" for name in missing]
            raise _WrongNames("; ".join(said))
    return dict(given)


def _waited(work: Callable[[], Any], timeout_s: float | None) -> Any:
    """What the function returns, awaited if need be."""
    start = time.monotonic()
    value = work() if timeout_s is None else _in_thread(work, timeout_s)
    left = None if timeout_s is None else max(0.0, timeout_s - (time.monotonic() - start))
    if isinstance(value, Future):
        return _result(value, left)
    return _awaited(value, left) if inspect.isawaitable(value) else value


def _in_thread(work: Callable[[], Any], timeout_s: float) -> Any:
    answer: Future[Any] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            answer.set_result(context.run(work))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return _result(answer, timeout_s)


def _result(answer: Future[Any], timeout_s: float | None) -> Any:
    """Waits for an answer as long as it is wanted."""
    end = math.inf if timeout_s is None else time.monotonic() + timeout_s
    while not answer.done():
        require_wanted()
        left = end - time.monotonic()
        if left <= 0:
            raise _TimedOut
        step = left if cancellation.get() is None else min(left, _STEP_S)
        wait([answer], None if step == math.inf else step)
    return answer.result()


# Async functions

# The loop of a caller that does not wait in it: what its tools hold, such as an MCP client, belongs to it.
loop_of_tools: contextvars.ContextVar[asyncio.AbstractEventLoop | None]
loop_of_tools = contextvars.ContextVar("loop_of_tools", default=None)

_loop: asyncio.AbstractEventLoop | None = None
_loop_lock = threading.Lock()


def _event_loop() -> asyncio.AbstractEventLoop:
    """The caller's, if he does not wait in it, else one for all async tools, in a thread of its own: clients
    that a tool keeps between calls belong to the loop they were first used in."""
    global _loop
    callers = loop_of_tools.get()
    if callers is not None and callers.is_running() and _running_loop() is not callers:
        return callers
    with _loop_lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="gemma4-gguf tools", daemon=True).start()
        return _loop


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _forget_loop() -> None:
    """A forked child has the loop, but not its thread."""
    global _loop, _loop_lock
    _loop, _loop_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_loop)


def _awaited(value: Awaitable[Any], timeout_s: float | None) -> Any:
    loop, context = _event_loop(), contextvars.copy_context()
    answer: Future[Any] = Future()
    tasks: list[asyncio.Task[None]] = []

    async def work() -> None:
        try:
            answer.set_result(await value)
        except asyncio.CancelledError:
            answer.set_exception(RuntimeError("it was cancelled"))
        except BaseException as error:
            answer.set_exception(error)

    def begin() -> None:
        tasks.append(loop.create_task(work()))

    loop.call_soon_threadsafe(begin, context=context)
    try:
        return _result(answer, timeout_s)
    finally:
        if not answer.done():
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
