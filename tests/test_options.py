"""Options: one list of what can be said beside a question, and their checks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_type_hints

import numpy as np
import pytest

from gemma4_gguf import SamplingOptions, Session, SessionOptions
from gemma4_gguf.chat import Chat
from gemma4_gguf.errors import OptionError
from gemma4_gguf.options import SessionFields, ToolOptions, TurnOptions, turn_options

# What is said beside a question and is no field of an option type.
OF_THE_TURN = {"system", "tools", "thinking", "image_tokens", "schema", "special_in_content", "sampling"}
ASKS: list[Callable[..., Any]] = [
    Session.ask,
    Session.stream,
    Session.complete,
    Session.extract,
    Session.prompt,
    Session.detect,
    Session.point,
    Session.describe,
    Session.transcribe,
    Session.transcribe_segments,
    Chat.send,
    Chat.stream,
    Chat.run,
]


def test_the_list_has_every_field_of_the_option_types() -> None:
    names = {field.name for kind in (SamplingOptions, ToolOptions) for field in fields(kind)}
    assert set(TurnOptions.__annotations__) == names | OF_THE_TURN
    assert set(SessionFields.__annotations__) == {field.name for field in fields(SessionOptions)}


@pytest.mark.parametrize("ask", ASKS, ids=lambda ask: ask.__qualname__)
def test_everything_that_asks_takes_the_list(ask: Callable[..., Any]) -> None:
    (options,) = [p for p in inspect.signature(ask).parameters.values() if p.kind is p.VAR_KEYWORD]
    assert options.annotation == "Unpack[TurnOptions]"
    spelled = set(inspect.signature(ask).parameters) & set(TurnOptions.__annotations__)
    assert not spelled, "an option is written once"


def test_the_types_can_be_read() -> None:
    assert get_type_hints(TurnOptions)["max_tokens"] == int | None
    assert get_type_hints(SessionFields)["n_ctx"] is int


def test_options_are_sorted() -> None:
    rest, drawn, called = turn_options(
        {"thinking": True, "top_k": 3, "strict": True, "stop": "x"}, SamplingOptions(temperature=0.5)
    )
    assert rest == {"thinking": True}
    assert drawn == SamplingOptions(temperature=0.5, top_k=3, stop=("x",))
    assert called == ToolOptions(strict=True)


def test_sampling_replaces_the_default_and_fields_change_it() -> None:
    given = {"sampling": SamplingOptions(seed=4), "top_p": 0.5}
    assert turn_options(given, SamplingOptions(temperature=0))[1] == SamplingOptions(seed=4, top_p=0.5)
    assert turn_options({"sampling": None}, SamplingOptions(top_k=9))[1].top_k == 9


@pytest.mark.parametrize("name", ["temprature", "maxtokens", "Temperature", "n_ctx", "tool"])
def test_typos_are_refused_by_name(name: str) -> None:
    with pytest.raises(OptionError, match=rf"no option '{name}'.*temperature"):
        turn_options({name: 1}, SamplingOptions())


def test_a_system_message_is_one_of_the_whole_chat(session: Session) -> None:
    with pytest.raises(OptionError, match=r"Session\.chat"):
        session.chat().send("Hello!", system="Be brief.")
    asked = session.prompt([{"role": "user", "content": "Hi"}], system="Be brief.")
    written = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert asked.items == session.prompt(written).items


def test_a_turn_may_have_tools_and_thoughts_of_its_own(session: Session) -> None:
    def ping() -> str:
        """Answers pong."""
        return "pong"

    chat = session.chat()
    reply = chat.send("Hello!", tools=[ping], tool_choice="required", temperature=0, max_tokens=40)
    assert [call.name for call in reply.tool_calls] == ["ping"]
    assert chat.tools == () and chat.thinking is False
    chat.tools = [ping]
    assert chat.tools[0].run is ping


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sampling", {"temperature": 0}),
        ("sampling", 0.7),
        ("stop", 3),
        ("stop", [3]),
        ("stop", [""]),
        ("logit_bias", 5),
        ("logit_bias", [1, 2]),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {1: "much"}),
        ("logit_bias", {1.5: 1}),
        ("logit_bias", {True: 1}),
        ("logit_bias", {1: True}),
        ("logit_bias", {1: float("nan")}),
        ("logit_bias", {1: float("inf")}),
        ("logit_bias", {1: 1e300}),
        ("logit_bias", {"1.0": 1}),
        ("logit_bias", [(1, 2, 3)]),
        ("logit_bias", "12"),
        ("stop", ""),
        ("stop", b"x"),
        ("stop", [b"x"]),
        ("stop", {"x": 1}),
        ("stop", ["x", None]),
        ("stop", 0),
        ("stop", False),
        ("stop", ["\ud800"]),
        ("temperature", True),
        ("temperature", None),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", 1e300),
        ("temperature", 10**400),
        ("temperature", 1j),
        ("temperature", [1.0]),
        ("top_p", True),
        ("top_p", 0),
        ("top_p", 1.5),
        ("min_p", -0.1),
        ("min_p", "0"),
        ("repeat_penalty", 0),
        ("repeat_penalty", 1e30),
        ("top_k", 1.0),
        ("top_k", -1),
        ("top_k", None),
        ("max_tokens", True),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", "5"),
        ("max_tokens", float("inf")),
        ("seed", -1),
        ("seed", 1.0),
        ("seed", True),
        ("seed", "1"),
        ("sampling", False),
        ("sampling", {}),
        ("thinking", np.zeros(2)),
        ("thinking", 2),
        ("thinking", "no"),
        ("strict", "yes"),
        ("parallel_tool_calls", None),
        ("temperature", "hot"),
        ("max_tokens", 2.5),
    ],
)
def test_values_of_wrong_types_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"{name} is .*expected") as caught:
        turn_options({name: value}, SamplingOptions())
    assert len(str(caught.value)) < 500
    if name in {field.name for field in fields(SamplingOptions)}:
        given = SamplingOptions(**{name: value})
        with pytest.raises(OptionError, match=f"{name} is .*expected"):
            turn_options({"sampling": given}, SamplingOptions())


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("temperature", np.float32(0.5), 0.5),
        ("temperature", 1, 1.0),
        ("temperature", 0, 0.0),
        ("top_k", np.int64(5), 5),
        ("max_tokens", np.uint8(5), 5),
        ("max_tokens", 10**30, 10**30),
        ("seed", 2**64 + 1, 2**64 + 1),
        ("stop", None, ()),
        ("stop", [], ()),
        ("stop", {"x"}, ("x",)),
        ("stop", iter(["x", "y"]), ("x", "y")),
        ("stop", "###", ("###",)),
        ("logit_bias", None, ()),
        ("logit_bias", {"5": -100}, ((5, -100.0),)),
        ("logit_bias", {np.int32(5): np.float16(2)}, ((5, 2.0),)),
        ("logit_bias", [(5, 1), (5, 2)], ((5, 2.0),)),
        ("logit_bias", {5: float("-inf")}, ((5, float("-inf")),)),
    ],
)
def test_values_of_other_libraries_are_taken(name: str, value: Any, expected: Any) -> None:
    drawn = turn_options({name: value}, SamplingOptions())[1]
    assert getattr(drawn, name) == expected and type(getattr(drawn, name)) is type(expected)
    if not hasattr(value, "__next__"):
        given = SamplingOptions(**{name: value})
        assert turn_options({"sampling": given}, SamplingOptions())[1] == drawn


def test_extremes_draw(session: Session) -> None:
    """What llama.cpp computes with 32 bits, and with ids that it does not look up."""
    likeliest = session.ask("detect", temperature=0, max_tokens=4).text
    for cold in (1e-300, 1e-40, 1e-7):
        assert session.ask("detect", temperature=cold, max_tokens=4).text == likeliest
    for options in (
        {"temperature": 1e6},
        {"repeat_penalty": 1e3},
        {"repeat_penalty": 1e-3},
        {"top_p": 1e-30},
    ):
        assert session.ask("detect", max_tokens=4, seed=2**70, **options).usage.completion_tokens  # type: ignore[arg-type]
    many = [f"stop {n} " * 5 for n in range(10_000)]
    assert session.ask("detect", temperature=0, max_tokens=4, stop=many).text == likeliest
    for token in (-1, session.facts.n_vocab, 2**40):
        with pytest.raises(OptionError, match=f"logit_bias names token {token}"):
            session.ask("detect", logit_bias={token: 1.0})
