"""Asking from an event loop: nothing holds it up, who is cancelled stops, and everybody gets a turn."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from gemma4_gguf import AsyncChat, AsyncSession, Chunk, Session
from gemma4_gguf.engine.compute_thread import Interrupt
from gemma4_gguf.errors import EngineError, Gemma4Error, IncompleteReplyError, MessageError, OptionError

ENDLESS: dict[str, Any] = {"temperature": 3.0, "top_k": 0, "seed": 4}


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(work(), 60))


@pytest.fixture(scope="module")
def own(nano: Path) -> Iterator[Session]:
    with Session(nano, projector=None, n_ctx=1024, n_threads=2) as session:
        yield session


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Threads that decoded, one entry for each decode."""
    seen: list[int] = []
    decode = Interrupt.run

    def counted(interrupt: Interrupt, work: Callable[[], int]) -> int:
        code = decode(interrupt, work)
        seen.append(threading.get_ident())
        return code

    monkeypatch.setattr(Interrupt, "run", counted)
    return seen


def never_ends(session: Session) -> dict[str, Any]:
    ends = [i for i in session.facts.special_tokens.values() if session.engine.model.ends_reply(i)]
    return {**ENDLESS, "logit_bias": dict.fromkeys(ends, -1e9)}


def test_answers_are_those_of_a_session(own: Session) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
    expected = own.ask("detect", **options)

    async def work() -> None:
        session = AsyncSession(own)
        assert (await session.ask("detect", **options)).text == expected.text
        assert (
            await session.complete([{"role": "user", "content": "detect"}], **options)
        ).text == expected.text
        chunks = [chunk async for chunk in session.stream("detect", **options)]
        assert chunks[-1].reply is not None and chunks[-1].reply.text == expected.text
        assert "".join(chunk.text for chunk in chunks if chunk.kind == "text") == expected.text
        assert await session.extract(bool, "Is it?") in (True, False)
        assert await session.run(own.tokenize, "detect") == own.tokenize("detect")
        chat = session.chat(system="Be brief.")
        assert isinstance(chat, AsyncChat)
        assert (await chat.send("detect", **options)).text
        assert [chunk.kind async for chunk in chat.stream("detect", **options)][-1] == "end"
        assert (await chat.fork().run("detect", **options)).text
        assert [message["role"] for message in chat.messages] == ["system", *["user", "assistant"] * 2]

    run(work)


def test_it_opens_and_closes(nano: Path) -> None:
    async def work() -> None:
        session = AsyncSession(nano, projector=None, n_ctx=256, n_threads=2)
        with pytest.raises(EngineError, match="not open"):
            await session.ask("detect")
        async with session:
            assert await session.open() is session
            assert (await session.ask("detect", max_tokens=2)).usage.completion_tokens == 2
        with pytest.raises(EngineError, match="closed"):
            await session.ask("detect")
        await session.close()
        with pytest.raises(Gemma4Error):
            await AsyncSession(nano / "nowhere.gguf").open()

    run(work)
    with pytest.raises(OptionError, match="n_ctxx"):
        AsyncSession(nano, n_ctxx=1)  # type: ignore[call-arg]


def test_the_loop_is_never_held_up(own: Session) -> None:
    async def work() -> int:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.create_task(tick())
        await AsyncSession(own).ask("detect", max_tokens=30, **never_ends(own))
        ticking.cancel()
        return ticks

    assert run(work) > 100


@pytest.mark.parametrize("how", ["ask", "stream", "send", "chat stream", "run", "timeout"])
def test_cancelling_ends_the_reply_before_its_next_decode(own: Session, decodes: list[int], how: str) -> None:
    async def ask(session: AsyncSession, chat: AsyncChat) -> None:
        if how in ("ask", "timeout"):
            await session.ask("detect", **never_ends(own))
        elif how == "send":
            await chat.send("detect", **never_ends(own))
        elif how == "run":
            await chat.run("detect", **never_ends(own))
        else:
            stream = session.stream if how == "stream" else chat.stream
            async for _ in stream("detect", **never_ends(own)):
                pass

    async def work() -> None:
        session = AsyncSession(own)
        chat = session.chat()
        task = asyncio.create_task(ask(session, chat))
        while len(decodes) < 5:
            await asyncio.sleep(0.001)
        if how == "timeout":
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(task, 0.001)
        else:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        n_decodes = len(decodes)
        await asyncio.sleep(0.05)
        assert len(decodes) == n_decodes < 900
        assert [message["role"] for message in chat.messages] in ([], ["user", "assistant"])
        assert (await session.ask("detect", max_tokens=2)).usage.completion_tokens == 2

    run(work)


def test_a_stream_that_is_left_draws_no_further(own: Session, decodes: list[int]) -> None:
    async def work() -> None:
        session = AsyncSession(own)
        stream = session.stream("detect", **never_ends(own))
        first = await stream.__anext__()
        assert isinstance(first, Chunk)
        await asyncio.sleep(0.05)
        n_decodes = len(decodes)
        await asyncio.sleep(0.05)
        assert len(decodes) == n_decodes, "nothing is drawn that nobody asked for"
        await stream.aclose()
        assert len(decodes) == n_decodes
        chat = session.chat()
        async for _ in chat.stream("detect", **never_ends(own)):
            break
        reply = await session.ask("detect", max_tokens=2)
        assert reply.usage.completion_tokens == 2

    run(work)


def test_everybody_gets_a_turn_in_order(own: Session) -> None:
    """One sequence, five tasks: none is starved by one that asks again and again."""
    ended: list[int] = []

    async def work() -> None:
        session = AsyncSession(own)

        async def ask(number: int) -> None:
            for _ in range(3):
                await session.ask("detect", max_tokens=3, **never_ends(own))
                ended.append(number)

        await asyncio.gather(*(ask(number) for number in range(5)))

    run(work)
    assert [sorted(ended[at : at + 5]) for at in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3


def test_who_waits_can_be_cancelled(own: Session) -> None:
    async def work() -> None:
        session = AsyncSession(own)
        stream = session.stream("detect", **never_ends(own))
        await stream.__anext__()
        waiting = asyncio.create_task(session.ask("detect"))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await stream.__anext__()).kind in ("text", "end")
        await stream.aclose()

    run(work)


def test_an_error_leaves_the_session_and_the_others_alone(own: Session) -> None:
    async def work() -> None:
        session = AsyncSession(own)
        results = await asyncio.gather(
            session.ask("detect", max_tokens=3),
            session.ask(),
            session.ask("detect", temperature=-1),
            session.ask("detect", schema=["a" * 50], max_tokens=2),
            session.ask("detect", max_tokens=3),
            return_exceptions=True,
        )
        kinds = [type(result) for result in results]
        assert kinds[1:4] == [MessageError, OptionError, IncompleteReplyError]
        assert results[0].text == results[4].text  # type: ignore[union-attr]
        with pytest.raises(OptionError):
            async for _ in session.stream("detect", temperature=-1):
                pass

    run(work)


def test_turns_of_one_chat_come_one_after_the_other(own: Session) -> None:
    async def work() -> None:
        chat = AsyncSession(own).chat()
        await asyncio.gather(*(chat.send(f"detect {n}", max_tokens=2) for n in range(3)))
        assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 3
        said = [message["content"] for message in chat.messages[::2]]
        assert [str(words).count(str(n)) for n, words in enumerate(said)] == [1, 1, 1]

    run(work)


def test_closing_while_replies_are_awaited(nano: Path) -> None:
    async def work() -> None:
        session = await AsyncSession(nano, projector=None, n_ctx=1024, n_threads=2).open()
        options = never_ends(session.session)
        tasks = [asyncio.create_task(session.ask("detect", **options)) for _ in range(3)]
        stream = session.stream("detect")
        await asyncio.sleep(0.1)
        await session.close()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, EngineError)
        with pytest.raises(EngineError):
            await stream.__anext__()

    run(work)


def test_a_cancelled_opening_keeps_nothing(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = threading.Event()
    monkeypatch.setattr(Session, "close", lambda *_, close=Session.close: (close(*_), closed.set()))

    async def work() -> None:
        task = asyncio.create_task(AsyncSession(nano, projector=None, n_ctx=256, n_threads=2).open())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while not closed.is_set():
            await asyncio.sleep(0.01)

    run(work)
