"""Calls and their results: each result stands right after its call, and no call is left without one.

Templates print results by their place alone, and say nothing where a result or its call is missing. So what
several readings are possible for is refused here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import Any

from gemma4_gguf.errors import MessageError

Message = dict[str, Any]


def pair_results(messages: Sequence[Message]) -> list[Message]:
    """Brings the results of tools into the order of their calls, each with the id and the name of its call.

    Args:
        messages: checked; results that lack an id or a name are given them.

    Returns:
        The same messages, results right behind the calls that they answer.

    Raises:
        MessageError: a result has no call before it, a call has no result, or it cannot be told which result
            belongs to which call.
    """
    _name_calls(messages)
    ordered: list[Message] = []
    # The calls that wait, the place of their message, and the results that came, by number of the call.
    open_at = -1
    calls: list[Message] = []
    numbers: dict[str, int] = {}
    found: dict[int, Message] = {}

    def settle(place: int) -> None:
        waiting = [i for i in range(len(calls)) if i not in found]
        if waiting:
            where = f"before messages[{place}]" if place < len(messages) else "after it"
            raise MessageError(
                f"messages[{open_at}] calls {_named(calls[waiting[0]])}, and no result of it stands {where}. "
                "Add it as a tool message, or leave the call out."
            )
        at = len(ordered)
        while ordered[at - 1] is not messages[open_at]:  # results may come after more words of the user
            at -= 1
        ordered[at:at] = [found[i] for i in range(len(calls))]
        calls.clear()
        found.clear()

    for place, message in enumerate(messages):
        if message["role"] == "tool":
            i = _call_of(message, f"messages[{place}]", calls, numbers, found)
            function = calls[i]["function"]
            found[i] = message
            message |= {"tool_call_id": calls[i]["id"], "name": function["name"]}
            continue
        if message["role"] == "assistant" and calls:
            settle(place)
        ordered.append(message)
        if message.get("tool_calls"):
            open_at, calls = place, list(message["tool_calls"])
            numbers = {call["id"]: i for i, call in enumerate(calls)}
    if calls:
        settle(len(messages))
    return ordered


def open_calls(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The calls at the end of a conversation that wait for results.

    Args:
        messages: OpenAI-shaped dicts.

    Returns:
        Calls of the last assistant message less as many as there are results behind it.
    """
    n_results = 0
    for message in reversed(messages):
        if message["role"] == "tool":
            n_results += 1
        elif message["role"] == "assistant":
            calls = list(message.get("tool_calls") or ())
            answered = {m.get("tool_call_id") for m in messages if m["role"] == "tool"}
            return [call for call in calls if call.get("id") not in answered] if n_results else calls
        else:
            break
    return []


def _name_calls(messages: Sequence[Message]) -> None:
    """Calls without an id get the one that a reply would have given them."""
    calls = [call for message in messages for call in message.get("tool_calls", ())]
    used = {call.get("id") for call in calls}
    for n, call in enumerate(calls):
        if call.get("id") is None:
            number = next(i for i in range(n, n + len(used) + 1) if f"call_{i}" not in used)
            call["id"] = f"call_{number}"
            used.add(call["id"])
    for place, message in enumerate(messages):
        ids = [call["id"] for call in message.get("tool_calls", ())]
        if len(set(ids)) < len(ids):
            doubled = next(i for i, n in Counter(ids).items() if n > 1)
            raise MessageError(f"messages[{place}] has two calls with the id {doubled!r}; give each its own.")


def _call_of(
    result: Message,
    where: str,
    calls: Sequence[Message],
    numbers: Mapping[str, int],
    answered: Container[int],
) -> int:
    """Which of the calls a result answers."""
    given, name = result.get("tool_call_id"), result.get("name")
    if not calls:
        raise MessageError(
            f"{where} is the result of a tool, but no call before it waits for one. Where the call was left "
            "out of the conversation, leave its result out, too."
        )
    if given is not None:
        fitting = [numbers[given]] if given in numbers else []
    else:
        fitting = [i for i, call in enumerate(calls) if name in (None, call["function"]["name"])]
    free = [i for i in fitting if i not in answered]
    if not fitting:
        said = f"the call {given!r}" if given is not None else f"a call of {name!r}"
        known = ", ".join(map(_named, calls[:20]))
        raise MessageError(f"{where} answers {said}; the calls before it are {known}. Name one of them.")
    if not free:
        raise MessageError(f"{where} answers {_named(calls[fitting[0]])}, which has its result already.")
    return free[0]  # several without ids are taken in the order of the calls


def _named(call: Message) -> str:
    return f"{call['function']['name']} (id {call['id']!r})"
