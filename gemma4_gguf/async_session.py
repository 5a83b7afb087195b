"""Async session: asking without holding up an event loop.

Each reply runs on a thread of its own, which waits for whoever reads it: nothing is drawn that nobody has
asked for. A task that is cancelled ends its reply before the next decode. Replies of one session take turns
in the order they were asked for.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

from typing_extensions import Unpack

from gemma4_gguf.chat import Chat
from gemma4_gguf.engine.compute_thread import Cancelled, cancellation
from gemma4_gguf.errors import EngineError
from gemma4_gguf.options import SessionFields, TurnOptions, session_options
from gemma4_gguf.session import Session
from gemma4_gguf.tools.run import loop_of_tools
from gemma4_gguf.types import Chunk, Part, Reply, ToolCall

T = TypeVar("T")
P = ParamSpec("P")


class AsyncSession:
    """A Session for asyncio. Open it with `async with`, or `await` its `open`.

    Args:
        model: as for Session; or a Session that is open, which this one then closes.
        projector: as for Session.
        options: as for Session.

    Raises:
        OptionError: an option is unknown or out of range.

    Example:
        >>> async with AsyncSession("gemma-4-E2B-it-Q4_K_M.gguf") as session:
        ...     print((await session.ask("Hello!")).text)
        ...     async for chunk in session.stream("And now in verse."):
        ...         print(chunk.text, end="")
    """

    def __init__(
        self,
        model: str | Path | Session,
        *,
        projector: str | Path | None = "auto",
        **options: Unpack[SessionFields],
    ) -> None:
        session_options(options)
        self._session = model if isinstance(model, Session) else None
        self._open = lambda: Session(model, projector=projector, **options)  # type: ignore[arg-type]

    @property
    def session(self) -> Session:
        """The session that answers; all it can do can be had with `run`.

        Raises:
            EngineError: it is not open.
        """
        if self._session is None:
            raise EngineError("The session is not open: use it with `async with`, or await its open().")
        return self._session

    async def open(self) -> AsyncSession:
        """Loads the model. Calling it again does nothing.

        Returns:
            The session itself.

        Raises:
            Gemma4Error: as Session does.
        """
        if self._session is None:
            self._session = await _Work(self._open, discard=Session.close).start().result()
        return self

    async def close(self) -> None:
        """Stops what is computed, and frees everything. Replies in the making raise EngineError."""
        if self._session is not None:
            await _Work(self._session.close).start().result()

    async def __aenter__(self) -> AsyncSession:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def ask(self, *parts: Part, **options: Unpack[TurnOptions]) -> Reply:
        """Asks one question, without memory of earlier ones; see `Session.ask`.

        Args:
            parts: as there.
            options: as there.

        Returns:
            The whole reply.

        Raises:
            Gemma4Error: as there.
        """
        return await self.run(self.session.ask, *parts, **options)

    def stream(self, *parts: Part, **options: Unpack[TurnOptions]) -> AsyncGenerator[Chunk, None]:
        """Asks one question and yields the reply as it comes; see `Session.stream`.

        Errors in the question are raised by the first step.

        Args:
            parts: as there.
            options: as there.

        Returns:
            Chunks; the last one, of kind "end", carries the whole reply. Close it (`aclose`) to end it early.
        """
        session = self.session
        return _chunks(session, lambda: session.stream(*parts, **options))

    async def complete(self, messages: Sequence[Mapping[str, Any]], **options: Unpack[TurnOptions]) -> Reply:
        """Answers an OpenAI-shaped conversation; see `Session.complete`.

        Args:
            messages: as there.
            options: as there.

        Returns:
            The whole reply.

        Raises:
            Gemma4Error: as there.
        """
        return await self.run(self.session.complete, messages, **options)

    async def extract(self, type_: type[T], *parts: Part, **options: Unpack[TurnOptions]) -> T:
        """Asks for a value of a type; see `Session.extract`.

        Args:
            type_: as there.
            parts: as there.
            options: as there.

        Returns:
            The instance, validated.

        Raises:
            Gemma4Error: as there.
        """
        session = self.session
        return await _Work(lambda: session.extract(type_, *parts, **options), session).start().result()

    def chat(self, **settings: Any) -> AsyncChat:
        """Starts a conversation that remembers.

        Args:
            settings: as for `Session.chat`: system, tools, thinking, on_full.

        Returns:
            The conversation, still empty.
        """
        return AsyncChat(self.session, self.session.chat(**settings))

    async def run(self, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Runs anything that the session can do, such as `session.session.detect`, away from the event loop.

        Args:
            work: a method of the session.
            args: its arguments.
            options: its arguments by name.

        Returns:
            What it returns.

        Raises:
            Gemma4Error: as it does.
        """
        return await _Work(lambda: work(*args, **options), self.session).start().result()


class AsyncChat:
    """A Chat for asyncio: one turn after the other, in the order they were asked for.

    A turn that is cancelled leaves what was said so far in `messages`, as a stream that is closed early does.

    Args:
        session: that answers.
        chat: the conversation.

    Attributes:
        chat: the conversation itself: its messages and settings, between turns.
    """

    def __init__(self, session: Session, chat: Chat) -> None:
        self.chat = chat
        self._session = session
        self._turn = asyncio.Lock()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Of the conversation, oldest first."""
        return self.chat.messages

    async def send(self, *parts: Part, **options: Unpack[TurnOptions]) -> Reply:
        """Says something and waits for the reply; see `Chat.send`.

        Args:
            parts: as there.
            options: as there.

        Returns:
            The reply, which `messages` now ends with.

        Raises:
            Gemma4Error: as there.
        """
        async with self._turn:
            return await _Work(lambda: self.chat.send(*parts, **options), self._session).start().result()

    async def stream(self, *parts: Part, **options: Unpack[TurnOptions]) -> AsyncGenerator[Chunk, None]:
        """Says something and yields the reply as it comes; see `Chat.stream`.

        Args:
            parts: as there.
            options: as there.

        Yields:
            Chunks; the last one, of kind "end", carries the whole reply.

        Raises:
            Gemma4Error: as there.
        """
        async with self._turn:
            chunks = _chunks(self._session, lambda: self.chat.stream(*parts, **options))
            try:
                async for chunk in chunks:
                    yield chunk
            finally:
                await chunks.aclose()

    async def run(self, *parts: Part, **options: Any) -> Reply:
        """Says something and runs the tools that the model calls, until it calls none; see `Chat.run`.

        Async functions run in this event loop, so that they may use what belongs to it.

        Args:
            parts: as there.
            options: as there.

        Returns:
            The last reply.

        Raises:
            Gemma4Error: as there.
        """
        loop = asyncio.get_running_loop()

        def work() -> Reply:
            loop_of_tools.set(loop)
            return self.chat.run(*parts, **options)

        async with self._turn:
            return await _Work(work, self._session).start().result()

    def add_result(self, call: ToolCall, result: Any) -> None:
        """Answers a tool call of the last reply; see `Chat.add_result`.

        Args:
            call: as there.
            result: as there.
        """
        self.chat.add_result(call, result)

    def fork(self) -> AsyncChat:
        """A second conversation that starts with the messages of this one.

        Returns:
            The new one.
        """
        return AsyncChat(self._session, self.chat.fork())


class _Work(Generic[T]):
    """Something that runs on a thread of its own, until it is done or not wanted any more.

    Args:
        work: what runs there; it begins with `start`.
        session: whose queue is woken when it is not wanted any more.
        discard: takes what came of it when nobody wants that any more.
    """

    def __init__(
        self,
        work: Callable[[], T],
        session: Session | None = None,
        discard: Callable[[T], object] | None = None,
    ) -> None:
        self.unwanted = threading.Event()
        self._work, self._session, self._discard = work, session, discard
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[T] = self._loop.create_future()

    def start(self) -> _Work[T]:
        """Begins."""
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._run,), name="gemma4-reply", daemon=True).start()
        return self

    async def result(self) -> T:
        """What it returns, or raises. A task that is cancelled meanwhile ends it first."""
        try:
            return await asyncio.shield(self._done)
        except asyncio.CancelledError:
            self.unwanted.set()
            if self._discard is None:
                await self.end()
            raise

    async def end(self) -> None:
        """Has it end before its next decode, and waits for that."""
        self.unwanted.set()
        if self._session is not None:
            self._session.engine.pool.wake()
        await asyncio.wait([self._done])

    def tell(self, function: Callable[..., object], *args: Any) -> None:
        """Calls something on the event loop; nothing, once that is closed."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)

    def _run(self) -> None:
        cancellation.set(self.unwanted)
        try:
            value = self._work()
            if self.unwanted.is_set() and self._discard is not None:
                self._discard(value)
        except BaseException as error:
            self.tell(self._fail, error)
        else:
            self.tell(self._done.set_result, value)

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, Cancelled):
            self._done.cancel()
        else:
            self._done.set_exception(error)
            self._done.exception()  # seen, even if nobody waits for it any more


async def _chunks(
    session: Session, start: Callable[[], Generator[Chunk, None, None]]
) -> AsyncGenerator[Chunk, None]:
    """A stream, step by step: its thread goes on when the next chunk is asked for."""
    steps: asyncio.Queue[Chunk | None] = asyncio.Queue()
    wanted = threading.Semaphore(0)

    def draw() -> None:
        try:
            with closing(start()) as chunks:
                for chunk in chunks:
                    work.tell(steps.put_nowait, chunk)
                    wanted.acquire()
                    if work.unwanted.is_set():
                        return
        finally:
            work.tell(steps.put_nowait, None)

    work = _Work(draw, session)
    work.start()
    try:
        while (chunk := await steps.get()) is not None:
            yield chunk
            wanted.release()
        await work.result()
    finally:
        work.unwanted.set()
        wanted.release()
        await work.end()
