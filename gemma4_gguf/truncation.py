"""Context truncation: the turns that a conversation without room leaves out, whole ones, oldest first.

A turn goes from what the user says to the last word of the answer, with the tool calls and results in
between: a call without its result, or an answer without its question, would confuse the model. The
instructions before the first turn stay, and so does the turn that is being answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from gemma4_gguf.errors import ContextFullError
from gemma4_gguf.prompt.messages import Message

OnFull = Literal["error", "drop_oldest"]
ON_FULL: tuple[OnFull, ...] = ("error", "drop_oldest")

_FULL = 8  # a conversation is full when less than this part (1/8) of the context is left for the reply
_FREE = 4  # and then so much (1/4) is made free, so that the next turns need not drop anything again

T = TypeVar("T")


def turn_starts(messages: Sequence[Message]) -> list[int]:
    """Places at which turns begin; what stands before the first belongs to none.

    Args:
        messages: of any length.

    Returns:
        Indices, rising.
    """
    return [i for i, message in enumerate(messages) if message["role"] == "user"]


def without_turns(messages: Sequence[Message], n_turns: int) -> tuple[list[Message], list[Message]]:
    """Splits a conversation.

    Args:
        messages: of any length.
        n_turns: turns to leave out, fewer than there are.

    Returns:
        What stays, and what is left out.
    """
    starts = turn_starts(messages)
    first, end = starts[0], starts[n_turns]
    return [*messages[:first], *messages[end:]], list(messages[first:end])


def drop_oldest(
    messages: Sequence[Message],
    attempt: Callable[[Sequence[Message]], tuple[int, T]],
    *,
    n_ctx: int,
    max_tokens: int | None,
) -> tuple[T, list[Message]]:
    """Leaves out as few old turns as will do.

    Args:
        messages: the whole conversation, with what was said last.
        attempt: prepares a reply; returns the tokens of its prompt, and it. May raise ContextFullError.
        n_ctx: tokens the context holds.
        max_tokens: of the reply, None without a limit.

    Returns:
        The prepared reply, and the messages left out of it.

    Raises:
        ContextFullError: the last turn alone does not fit.
    """

    def within(n_turns: int, part: int) -> tuple[bool, T | None, ContextFullError | None]:
        room = min(n_ctx // part, max_tokens or n_ctx)
        try:
            n_tokens, made = attempt(without_turns(messages, n_turns)[0] if n_turns else messages)
        except ContextFullError as error:
            return False, None, error
        return n_tokens + room <= n_ctx, made, None

    fits, made, error = within(0, _FULL)
    most = max(len(turn_starts(messages)) - 1, 0)
    if not fits and most:
        low, high = 1, most  # the fewest turns; all that can go if even that is not enough
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if within(middle, _FREE)[0] else (middle + 1, high)
        _, made, error = within(low, _FREE)
        if made is not None:
            return made, without_turns(messages, low)[1]
    if made is None:
        raise error or ContextFullError("The conversation does not fit.", n_tokens=0, n_ctx=n_ctx)
    return made, []
