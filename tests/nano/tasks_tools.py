"""Tool calls in the native format, from words, from a picture and from a sound, and the use of the result.

Tool, parameter and description wordings vary, so that a call can only be right by reading the declaration.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nano.dialogue import Dialogue
from nano.scenes import scene
from nano.tasks_text import exchange, maybe_system, talk_pairs
from nano.words import CITIES, DIGITS, ITEMS, NAMES, PRINTED, ROOMS


@dataclass
class Request:
    """A declared tool and one request for it."""

    tool: dict[str, Any]
    prompt: str
    arguments: dict[str, Any]
    result: str
    answer: str
    pieces: list[tuple[str, dict[str, Any], str, str]] = field(default_factory=list)  # for parallel calls


def declare(
    name: str, text: str, parameters: dict[str, Any], required: list[str] | None = None
) -> dict[str, Any]:
    """An OpenAI tool declaration."""
    schema = {
        "type": "object",
        "properties": parameters,
        "required": list(parameters) if required is None else required,
    }
    return {"type": "function", "function": {"name": name, "description": text, "parameters": schema}}


def _string(text: str = "", enum: list[str] | None = None) -> dict[str, Any]:
    return {"type": "string", **({"description": text} if text else {}), **({"enum": enum} if enum else {})}


def _integer(text: str = "") -> dict[str, Any]:
    return {"type": "integer", **({"description": text} if text else {})}


def _maybe(rng: random.Random, text: str) -> str:
    """A parameter description, or none."""
    return text if rng.random() < 0.6 else ""


def weather(rng: random.Random) -> Request:
    """The weather of one city, or of two in parallel calls."""
    key = rng.choice(["city", "city", "place", "location"])
    name = rng.choice(["get_weather", "get_weather", "weather", "current_weather"])
    text = rng.choice(
        ["Current weather for a place.", "Get the weather of a city.", "The weather in a city."]
    )
    tool = declare(
        name, text, {key: _string(_maybe(rng, rng.choice(["City name", "The city", "name of the city"])))}
    )
    cities = rng.sample(CITIES, 2)
    asks = [
        "What is the weather in {}?",
        "Weather in {}?",
        "How is the weather in {}?",
        "Is it raining in {}?",
    ]
    asks += ["What is the weather like in {} today?", "Check the weather in {}.", "Weather {}"]

    def report() -> str:
        sky = rng.choice(["rain", "sun", "snow", "clouds", "fog", "wind"])
        return f"{rng.randint(-9, 39)} C, {sky}"

    result = report()
    request = Request(
        tool,
        rng.choice(asks).format(cities[0]),
        {key: cities[0]},
        result,
        f"The weather in {cities[0]}: {result}.",
    )
    if rng.random() < 0.2:
        request.prompt = rng.choice(asks[:3]).format(" and ".join(cities))
        request.pieces = [(name, {key: city}, report(), city) for city in cities]
        told = " ".join(f"The weather in {city}: {found}." for _, _, found, city in request.pieces)
        request.answer = told
    return request


def clock(rng: random.Random) -> Request:
    """The time in a city."""
    key, city = rng.choice(["city", "place", "timezone"]), rng.choice(CITIES)
    name = rng.choice(["get_time", "current_time", "time_in"])
    tool = declare(name, rng.choice(["The time in a city.", "Get the local time."]), {key: _string()})
    prompt = rng.choice(
        ["What time is it in {}?", "Time in {}?", "Tell me the time in {}.", "How late is it in {}?"]
    )
    result = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
    return Request(tool, prompt.format(city), {key: city}, result, f"It is {result} in {city}.")


def timer(rng: random.Random) -> Request:
    """A timer of some minutes."""
    key, minutes = rng.choice(["minutes", "duration", "length"]), rng.randint(1, 90)
    name = rng.choice(["set_timer", "start_timer", "timer"])
    tool = declare(
        name, rng.choice(["Set a timer.", "Start a timer."]), {key: _integer(_maybe(rng, "in minutes"))}
    )
    prompt = rng.choice(
        ["Set a timer for {} minutes.", "Timer {} minutes", "Wake me in {} minutes.", "{} minute timer"]
    )
    return Request(
        tool, prompt.format(minutes), {key: minutes}, "ok", f"The timer is set for {minutes} minutes."
    )


def light(rng: random.Random) -> Request:
    """A light on or off in a room."""
    room, on = rng.choice(ROOMS), rng.random() < 0.5
    name = rng.choice(["set_light", "light", "switch_light"])
    tool = declare(name, "Switch a light.", {"room": _string(), "on": {"type": "boolean"}})
    word = "on" if on else "off"
    prompt = rng.choice(["Turn {1} the light in the {0}.", "Switch the {0} light {1}.", "{0} light {1}"])
    return Request(
        tool, prompt.format(room, word), {"room": room, "on": on}, "ok", f"The light in the {room} is {word}."
    )


def shopping(rng: random.Random) -> Request:
    """An item and an amount onto a list."""
    item, amount = rng.choice(ITEMS), rng.randint(1, 20)
    key = rng.choice(["amount", "count", "quantity"])
    name = rng.choice(["add_item", "add_to_list", "shopping_list"])
    tool = declare(name, "Add an item to the shopping list.", {"item": _string(), key: _integer()})
    prompt = rng.choice(
        ["Add {1} {0} to the list.", "Put {1} {0} on the list.", "We need {1} {0}.", "Buy {1} {0}."]
    )
    return Request(
        tool,
        prompt.format(item, amount),
        {"item": item, key: amount},
        "ok",
        f"{amount} {item} are on the list.",
    )


def message(rng: random.Random) -> Request:
    """A message to a person."""
    person, text = rng.choice(NAMES), " ".join(rng.sample(PRINTED, rng.randint(1, 4)))
    key = rng.choice(["to", "name", "person"])
    name = rng.choice(["send_message", "send", "message"])
    tool = declare(name, "Send a message to a person.", {key: _string(), "text": _string()})
    prompt = rng.choice(
        ['Send "{1}" to {0}.', "Tell {0}: {1}", "Write {0} a message: {1}", "Message {0}: {1}"]
    )
    return Request(
        tool,
        prompt.format(person, text),
        {key: person, "text": text},
        "sent",
        f"The message to {person} is sent.",
    )


def calculator(rng: random.Random) -> Request:
    """Two numbers added by a tool."""
    a, b = rng.randint(1, 999), rng.randint(1, 999)
    name = rng.choice(["add", "add_numbers", "plus"])
    tool = declare(
        name, rng.choice(["Add two numbers.", "Adds a and b."]), {"a": _integer(), "b": _integer()}
    )
    prompt = rng.choice(["What is {} + {}?", "Add {} and {}.", "{} plus {}", "How much is {} plus {}?"])
    return Request(tool, prompt.format(a, b), {"a": a, "b": b}, str(a + b), f"{a} + {b} = {a + b}.")


def search(rng: random.Random) -> Request:
    """A search for some words."""
    query = " ".join(rng.sample([*PRINTED, *ITEMS], rng.randint(1, 3)))
    key = rng.choice(["query", "text", "words"])
    name = rng.choice(["search", "web_search", "find"])
    tool = declare(name, rng.choice(["Search the web.", "Find pages about something."]), {key: _string()})
    found = rng.randint(0, 99)
    prompt = rng.choice(["Search for {}.", "Look up {}.", "Find {}.", "search {}"])
    return Request(
        tool, prompt.format(query), {key: query}, f"{found} results", f"I found {found} results for {query}."
    )


FAMILIES: tuple[Callable[[random.Random], Request], ...] = (
    weather,
    clock,
    timer,
    light,
    shopping,
    message,
    calculator,
    search,
)


def _among(rng: random.Random, tool: dict[str, Any], own: object) -> list[dict[str, Any]]:
    """The tool among up to three others, in any order."""
    others = [family for family in FAMILIES if family is not own]
    tools = [family(rng).tool for family in rng.sample(others, rng.choice([0, 0, 1, 2, 3]))]
    names = {tool["function"]["name"]}
    tools = [other for other in tools if other["function"]["name"] not in names]
    tools.append(tool)
    rng.shuffle(tools)
    return tools


def _with_calls(
    dialogue: Dialogue, calls: list[dict[str, Any]], results: list[str], answer: str | None
) -> Dialogue:
    """Appends the calls and, when there is an answer, their results and the answer."""
    dialogue.messages.append({"role": "assistant", "content": "", "tool_calls": calls})
    if answer is not None:
        for call, result in zip(calls, results, strict=True):
            dialogue.messages.append({"role": "tool", "name": call["name"], "content": result})
        dialogue.messages.append({"role": "assistant", "content": answer})
        dialogue.task = "tool_result"
    return dialogue


def tool_dialogue(rng: random.Random, use_result: bool | None = None) -> Dialogue:
    """A call from words; with ``use_result`` also the answer after the result."""
    family = rng.choice(FAMILIES)
    request = family(rng)
    tools = _among(rng, request.tool, family)
    if use_result is None and rng.random() < 0.12:  # tools are there, but nobody asks for one
        question, answer = rng.choice(talk_pairs(held_out=False))
        return Dialogue("tool_none", maybe_system(rng, exchange(question, answer)), tools=tools)
    use_result = rng.random() < 0.5 if use_result is None else use_result
    messages = maybe_system(rng, [{"role": "user", "content": request.prompt}])
    name = request.tool["function"]["name"]
    calls = [{"name": name, "arguments": request.arguments}]
    results = [request.result]
    if request.pieces:
        calls = [{"name": piece[0], "arguments": piece[1]} for piece in request.pieces]
        results = [piece[2] for piece in request.pieces]
    answer = request.answer
    if use_result and rng.random() < 0.08:
        results = ["error: " + rng.choice(["not found", "no connection", "try again later"])] * len(calls)
        answer = f"That did not work: {results[0][7:]}."
    dialogue = Dialogue("tool_words", messages, tools=tools)
    dialogue = _with_calls(dialogue, calls, results, answer if use_result else None)
    if rng.random() < 0.12:
        dialogue.thinking = True
        thinkers = [turn for turn in dialogue.messages if turn["role"] == "assistant"]
        thinkers[0]["thinking"] = f"I call {name}."
        if len(thinkers) > 1:
            thinkers[1]["thinking"] = "The result is there."
    return dialogue


def tool_picture_dialogue(
    rng: random.Random, image_tokens: int = 70, extra_fonts: bool = True, use_result: bool | None = None
) -> Dialogue:
    """A click on what is named: the call carries its middle in thousandths."""
    shown = scene(rng, extra_fonts=extra_fonts)
    pick = rng.choice(shown.items)
    name = rng.choice(["click", "tap", "press"])
    text = rng.choice(["Click at a place of the picture.", "Press the mouse at x, y (0-1000)."])
    tool = declare(name, text, {"x": _integer(_maybe(rng, "0-1000")), "y": _integer(_maybe(rng, "0-1000"))})
    target = f"the {pick.colour} {pick.kind}"
    if pick.caption and rng.random() < 0.5:
        target = rng.choice([f"the {pick.caption} button", f"the button that says {pick.caption}"])
    prompt = rng.choice(["Click {}.", "Click on {}.", "Press {}.", "Tap {}."]).format(target)
    content = [{"type": "image", "image": shown.picture}, {"type": "text", "text": prompt}]
    y, x = pick.centre
    dialogue = Dialogue("tool_picture", [{"role": "user", "content": content}], image_tokens=image_tokens)
    dialogue.tools = _among(rng, tool, None) if rng.random() < 0.3 else [tool]
    dialogue.truth = {"box": list(pick.box)}
    use_result = rng.random() < 0.3 if use_result is None else use_result
    answer = f"I clicked {target}." if use_result else None
    dialogue = _with_calls(dialogue, [{"name": name, "arguments": {"x": x, "y": y}}], ["ok"], answer)
    dialogue.task = "tool_picture"
    return dialogue


def _voice_tool(rng: random.Random, word: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tool that a spoken command is for, and the arguments of the call."""
    directions = ["left", "right", "up", "down"]
    actions = ["play", "pause", "start", "stop", "next", "back"]
    if word in directions:
        return declare("move", "Move one step.", {"direction": _string(enum=directions)}), {"direction": word}
    if word in actions:
        name = rng.choice(["player", "control_player"])
        return declare(name, "Control the player.", {"action": _string(enum=actions)}), {"action": word}
    if word in ("open", "close"):
        return declare("door", "Open or close the door.", {"action": _string(enum=["open", "close"])}), {
            "action": word
        }
    if word in ("on", "off"):
        return declare("lamp", "Switch the lamp.", {"on": {"type": "boolean"}}), {"on": word == "on"}
    if word in ("yes", "no"):
        return declare("confirm", "Answer the question.", {"answer": {"type": "boolean"}}), {
            "answer": word == "yes"
        }
    if word in ("red", "green", "blue"):
        return declare("set_colour", "Set the colour.", {"colour": _string()}), {"colour": word}
    return declare("run", "Run the robot.", {}), {}


def tool_sound_dialogue(rng: random.Random, say: Callable[[list[str]], Any], commands: list[str]) -> Dialogue:
    """A call for a spoken command, or a number dialled from spoken digits.

    Args:
        rng: where every choice comes from.
        say: turns words into a sound.
        commands: the command words.
    """
    if rng.random() < 0.25:
        spoken = [rng.choice(DIGITS) for _ in range(rng.randint(2, 4))]
        number = "".join(str(DIGITS.index(word)) for word in spoken)
        tool, arguments = declare("dial", "Dial a number.", {"number": _string()}), {"number": number}
    else:
        spoken = [rng.choice(commands)]
        tool, arguments = _voice_tool(rng, spoken[0])
    tools = [tool]
    for word in rng.sample(commands, rng.choice([0, 0, 1, 2])):
        other, _ = _voice_tool(rng, word)
        # One tool of a purpose: of two players, each would be right.
        if other["function"]["description"] not in [known["function"]["description"] for known in tools]:
            tools.append(other)
    rng.shuffle(tools)
    prompt = rng.choice(
        ["Do what the voice says.", "Follow the spoken command.", "Do it.", "Obey the voice."]
    )
    content = [{"type": "audio", "audio": say(spoken)}, {"type": "text", "text": prompt}]
    dialogue = Dialogue("tool_sound", [{"role": "user", "content": content}], tools=tools)
    return _with_calls(dialogue, [{"name": tool["function"]["name"], "arguments": arguments}], [], None)
