"""Running tools: calls, results, repeats and limits, with the model's part scripted."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any, Literal

import pytest
from nano_samples import scene
from PIL import Image as Picture

from gemma4_gguf import AsyncSession, Session
from gemma4_gguf.engine.sampler import Sampler
from gemma4_gguf.errors import MessageError, OptionError, ToolError
from gemma4_gguf.tools import ToolResult
from gemma4_gguf.types import ToolCall

TURN = "<turn|>"


def calls(*written: str) -> str:
    return "".join(f"<|tool_call>call:{one}<tool_call|>" for one in written) + TURN


def script(monkeypatch: pytest.MonkeyPatch, session: Session, *replies: str) -> None:
    """Makes the sampler draw these replies; each must end its turn."""
    ids = iter([token for reply in replies for token in session.tokenize(reply)])
    monkeypatch.setattr(Sampler, "draw", lambda *_: next(ids))


def add(a: int, b: int) -> int:
    """Adds.

    Args:
        a: one number.
        b: another.
    """
    return a + b


def test_calls_run_in_order_and_their_results_reach_the_model(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = session.chat(tools=[add])
    script(monkeypatch, session, calls("add{a:1,b:2}", "add{a:3,b:4}"), f"3 and 7.{TURN}")
    seen: list[tuple[ToolCall, ToolResult]] = []
    reply = chat.run("Add them.", on_result=lambda *pair: seen.append(pair))
    assert reply.text == "3 and 7." and not reply.tool_calls and not reply.warnings
    assert [(call.arguments, result.content) for call, result in seen] == [
        ({"a": 1, "b": 2}, "3"),
        ({"a": 3, "b": 4}, "7"),
    ]
    assert [m["role"] for m in chat.messages] == ["user", "assistant", "tool", "tool", "assistant"]
    text = session.detokenize(
        [i for i in session.prompt(chat.messages, tools=[add]).items if isinstance(i, int)]
    )
    assert "declaration:add" in text and "one number." in text
    assert "response:add" in text


def test_a_picture_in_a_result_is_shown(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def look() -> list[Any]:
        return ["here", scene(0)]

    chat = session.chat(tools=[look])
    script(monkeypatch, session, calls("look{}"), f"A circle.{TURN}")
    assert chat.run("Look.", image_tokens=70).text == "A circle."
    prompt = session.prompt(chat.messages, tools=[look], image_tokens=70)
    assert sum(not isinstance(item, int) for item in prompt.items) == 1


def test_a_repeated_call_is_not_run_again_and_ends_the_run(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def once(x: int) -> str:
        ran.append(x)
        return "done"

    script(monkeypatch, session, *[calls("once{x:1}")] * 9)
    chat = session.chat(tools=[once])
    reply = chat.run("Go.")
    assert ran == [1]
    assert reply.tool_calls and "repeated" in reply.warnings[-1]
    results = [m["content"] for m in chat.messages if m["role"] == "tool"]
    assert results[0] == "done" and "already called" in json.loads(results[1])["error"]


def test_rounds_are_limited(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, session, *[calls(f"add{{a:{i},b:0}}") for i in range(5)])
    reply = session.chat(tools=[add]).run("Go.", max_rounds=3)
    assert reply.tool_calls[0].arguments == {"a": 2, "b": 0}
    assert "after 3 rounds" in reply.warnings[-1]


def test_a_failing_call_is_told_to_the_model(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, session, calls("add{a:1}", "gone{}"), f"Sorry.{TURN}")
    chat = session.chat(tools=[add])
    assert chat.run("Go.").text == "Sorry."
    errors = [json.loads(m["content"])["error"] for m in chat.messages if m["role"] == "tool"]
    assert "b: Field required" in errors[0] and "There is no tool 'gone'" in errors[1]


def test_a_tool_without_a_function_is_left_to_the_caller(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = {"type": "function", "function": {"name": "ring", "parameters": {"type": "object"}}}
    script(monkeypatch, session, calls("ring{}"))
    chat = session.chat(tools=[tool, add])
    assert chat.run("Ring.").tool_calls[0].name == "ring"
    assert [m["role"] for m in chat.messages] == ["user", "assistant"]


def test_what_cannot_be_run_is_refused_at_once(session: Session) -> None:
    with pytest.raises(ToolError):
        session.chat(tools=[3])  # type: ignore[list-item]
    wrong: list[dict[str, Any]] = [{"max_rounds": value} for value in (0, "3", 2.0, None)]
    wrong += [{"timeout_s": value} for value in (0.0, -1, "5", float("nan"))]
    for options in wrong:
        with pytest.raises(OptionError):
            session.chat(tools=[add]).run("Go.", **options)


async def halve(x: int) -> float:
    """Halves.

    Args:
        x: a number, or none.
    """
    return x / 2


def test_an_async_function_is_awaited(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = session.chat(tools=[halve])
    script(monkeypatch, session, calls("halve{x:3}"), f"1.5{TURN}")
    assert chat.run("Halve 3.").text == "1.5"
    assert chat.messages[2]["content"] == "1.5"


def test_pictures_inside_of_a_result_are_shown(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def look() -> dict[str, Any]:
        return {"caption": "a scene", "shot": Picture.open(scene(0).source)}

    chat = session.chat(tools=[look])
    script(monkeypatch, session, calls("look{}"), f"A circle.{TURN}")
    chat.run("Look.", image_tokens=70)
    prompt = session.prompt(chat.messages, tools=[look], image_tokens=70)
    assert sum(not isinstance(item, int) for item in prompt.items) == 1
    text = session.detokenize([item for item in prompt.items if isinstance(item, int)])
    assert '{"caption": "a scene", "shot": "image 1"}' in text


@pytest.mark.parametrize("value", [object(), b"\xff", iter([1])])
def test_a_result_that_cannot_be_told_is_the_programmers(
    session: Session, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    def odd() -> Any:
        return value

    chat = session.chat(tools=[odd])
    script(monkeypatch, session, calls("odd{}"), f"Done.{TURN}")
    with pytest.raises(ToolError, match="odd returned"):
        chat.run("Go.")
    with pytest.raises(ToolError, match="odd returned"):
        chat.add_result(ToolCall("call_0", "odd", {}), value)
    chat.add_result(ToolCall(chat.messages[-1]["tool_calls"][0]["id"], "odd", {}), {"n": 1})
    assert chat.send().text == "Done." and chat.messages[2]["content"] == '{"n": 1}'


def test_a_name_that_is_not_defined_is_the_programmers(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Any:
        return missing_name  # type: ignore[name-defined]  # noqa: F821

    script(monkeypatch, session, calls("broken{}"))
    with pytest.raises(NameError):
        session.chat(tools=[broken]).run("Go.")


def test_the_model_is_shown_the_whole_schema(session: Session) -> None:
    def plan(days: int | None, pace: Literal[1, 2], where: list[str] | str) -> None: ...

    mcp = {
        "name": "find",
        "inputSchema": {"type": "object", "properties": {"q": {"type": ["string", "null"]}}},
    }
    items = session.prompt([{"role": "user", "content": "?"}], tools=[plan, mcp]).items
    text = session.detokenize([item for item in items if isinstance(item, int)]).replace('<|"|>', '"')
    assert 'days:{nullable:true,type:"INTEGER"}' in text
    assert 'pace:{description:"One of: 1, 2.",type:"INTEGER"}' in text
    assert 'where:{description:"Array of string or string.",items:{type:"STRING"},type:"ARRAY"}' in text
    assert 'q:{nullable:true,type:"STRING"}' in text


def test_reprs_are_one_line(session: Session, nano: Path) -> None:
    chat = session.chat(system="Be brief.", tools=[add], thinking=True)
    assert repr(chat) == "<Chat 1 messages, 1 tools, thinking>"
    assert repr(session.chat()) == "<Chat 0 messages>"
    assert repr(session) == f"<Session {session.name!r}, sees, hears, n_ctx=1024>"
    with Session(nano, projector=None, device="cpu", n_ctx=256) as other:
        assert repr(other) == f"<Session {session.name!r}, n_ctx=256>"
    assert repr(other) == f"<Session {session.name!r}, closed>"
    assert repr(Session.__new__(Session)) == "<Session that could not be opened>"


def test_a_call_that_nobody_can_answer_does_not_end_the_talk(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = session.chat()
    script(monkeypatch, session, calls("sing{}"), f"Sorry.{TURN}")
    assert [call.name for call in chat.send("Sing!").tool_calls] == ["sing"]
    assert chat.send("What?").text == "Sorry."
    assert [message["role"] for message in chat.messages] == [
        "user",
        "assistant",
        "tool",
        "user",
        "assistant",
    ]
    assert json.loads(chat.messages[2]["content"]) == {"error": "There is no tool 'sing'."}


def test_a_declared_call_has_to_be_answered(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = session.chat(tools=[add])
    script(monkeypatch, session, calls("add{a:1,b:2}"), f"Three.{TURN}")
    call = chat.send("Add.").tool_calls[0]
    with pytest.raises(MessageError, match=r"messages\[1\] calls add .* no result"):
        chat.send("Well?")
    chat.add_result(call, 3)
    assert chat.send().text == "Three."


def test_async_tools_of_an_async_chat_run_in_its_loop(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        asked: asyncio.Queue[str] = asyncio.Queue()

        async def ask_the_user() -> str:
            assert asyncio.get_running_loop() is loop
            return await asked.get()

        loop.call_later(0.05, asked.put_nowait, "blue")
        chat = AsyncSession(session).chat(tools=[ask_the_user])
        script(monkeypatch, session, calls("ask_the_user{}"), f"Blue.{TURN}")
        assert (await chat.run("Which colour?")).text == "Blue."
        assert chat.messages[2]["content"] == "blue"

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_cancelling_does_not_wait_for_a_tool(
    session: Session, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    began, cancelled = threading.Event(), threading.Event()

    def slow() -> None:
        began.set()
        time.sleep(20)

    async def slow_too() -> None:
        began.set()
        try:
            await asyncio.sleep(20)
        finally:
            cancelled.set()

    async def main() -> None:
        tool = slow if kind == "sync" else slow_too
        chat = AsyncSession(session).chat(tools=[tool])
        script(monkeypatch, session, calls(f"{tool.__name__}{{}}"))
        task = asyncio.create_task(chat.run("Go."))
        while not began.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 10)
        if kind == "async":
            await asyncio.sleep(0)
            assert cancelled.is_set()

    asyncio.run(main())
