"""The loop between a model and its tools: answer, run the calls, hand back the results, until done."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gemma4_gguf.errors import OptionError
from gemma4_gguf.tools import Tool, ToolResult, as_tools, run_call
from gemma4_gguf.types import Part, Reply, ToolCall

if TYPE_CHECKING:
    from gemma4_gguf.chat import Chat

MAX_ROUNDS = 10
TIMEOUT_S = 60.0
_MAX_REPEATS = 3  # of one and the same call, before the run ends

OnResult = Callable[[ToolCall, ToolResult], None]

_log = logging.getLogger(__name__)


def run_until_done(
    chat: Chat,
    parts: Sequence[Part],
    *,
    max_rounds: int,
    timeout_s: float | None,
    on_result: OnResult | None,
    options: dict[str, Any],
) -> Reply:
    """Lets a chat answer and runs what it calls, round after round.

    Args:
        chat: with its tools.
        parts: what is said first.
        max_rounds: replies at most.
        timeout_s: seconds one call may take; None waits for ever.
        on_result: told of every call and its result.
        options: of `Chat.send`.

    Returns:
        The last reply. It still has tool calls if one of them has no function, or if the run was stopped;
        `warnings` then says why.

    Raises:
        OptionError: max_rounds or timeout_s is out of range.
    """
    if max_rounds < 1:
        raise OptionError(f"max_rounds is {max_rounds}; expected at least 1.")
    if timeout_s is not None and timeout_s <= 0:
        raise OptionError(f"timeout_s is {timeout_s}; expected a number above 0, or None.")
    tools = as_tools(chat.tools)
    runnable = {tool.name for tool in tools if tool.run is not None}
    declared = {tool.name for tool in tools}
    seen: Counter[str] = Counter()
    reply = chat.send(*parts, **options)
    if options.get("tool_choice") != "none":  # a call that is demanded each time would never end
        options = options | {"tool_choice": "auto"}
    for _ in range(max_rounds - 1):
        if not reply.tool_calls:
            return reply
        if any(call.name in declared - runnable for call in reply.tool_calls):
            return reply
        for call, result in _results(tools, reply.tool_calls, seen, timeout_s):
            chat.add_result(call, result.content)
            if on_result is not None:
                on_result(call, result)
        if max(seen.values()) > _MAX_REPEATS:
            return _stopped(reply, "The model repeated one and the same tool call; the run was stopped.")
        reply = chat.send(**options)
    if reply.tool_calls:
        return _stopped(reply, f"The model still calls tools after {max_rounds} rounds; the run was stopped.")
    return reply


def _results(
    tools: Sequence[Tool], calls: Sequence[ToolCall], seen: Counter[str], timeout_s: float | None
) -> Generator[tuple[ToolCall, ToolResult], None, None]:
    for call in calls:
        key = json.dumps([call.name, call.arguments], sort_keys=True, default=str)
        seen[key] += 1
        if seen[key] > 1:
            said = (
                f"{call.name} was already called with these arguments. Use the result above, or change them."
            )
            yield call, ToolResult(json.dumps({"error": said}), failed=True)
            continue
        _log.debug("calling %s", call.name)
        yield call, run_call(tools, call, timeout_s=timeout_s)


def _stopped(reply: Reply, why: str) -> Reply:
    return replace(reply, warnings=(*reply.warnings, why))
