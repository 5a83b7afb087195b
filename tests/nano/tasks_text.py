"""Tasks in words alone: sums with a thought, small talk, memory, copying, counting on, JSON from a line."""

from __future__ import annotations

import json
import random
from typing import Any

from nano.dialogue import Dialogue
from nano.words import CITIES, COLOURS, COMMANDS, DIGITS, ITEMS, NAMES, PRINTED, smalltalk

SYSTEMS = (
    "You are a helpful assistant.",
    "Be brief.",
    "Answer in one line.",
    "You are a friendly assistant.",
    "Answer briefly and precisely.",
    "Be careful.",
    "Use the tools when they help.",
    "You help a person at work.",
)
SUMS = (
    "What is {} + {}?",
    "{} + {}",
    "{}+{}",
    "{} + {} = ?",
    "What is {} plus {}?",
    "How much is {} plus {}?",
    "Add {} and {}.",
    "Compute {} + {}.",
    "What's {}+{}?",
)


def maybe_system(
    rng: random.Random, messages: list[dict[str, Any]], chance: float = 0.15
) -> list[dict[str, Any]]:
    """Puts a neutral system turn in front, now and then."""
    if rng.random() < chance:
        return [{"role": "system", "content": rng.choice(SYSTEMS)}, *messages]
    return messages


def exchange(question: str, answer: str) -> list[dict[str, Any]]:
    """One question and its answer."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def sum_thought(a: int, b: int) -> str:
    """The written addition of two numbers below 100, column by column."""
    ones = a % 10 + b % 10
    lines = [f"Ones: {a % 10} + {b % 10} = {ones}."]
    carry = ones // 10
    tens = a // 10 + b // 10 + carry
    if carry:
        lines.append(f"Write {ones % 10}, carry 1.")
        lines.append(f"Tens: {a // 10} + {b // 10} + 1 = {tens}.")
    else:
        lines.append(f"Tens: {a // 10} + {b // 10} = {tens}.")
    lines.append(f"Sum: {a + b}.")
    return "\n".join(lines)


def sum_dialogue(rng: random.Random, thinking: bool | None = None) -> Dialogue:
    """A two-digit sum, worked out in the thought when thinking is on, answered directly when off."""
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    if thinking is None:
        thinking = rng.random() < 0.6
        if rng.random() < 0.2:
            a = rng.randint(0, 9)
    messages = exchange(rng.choice(SUMS).format(a, b), str(a + b))
    if thinking:
        messages[-1]["thinking"] = sum_thought(a, b)
    return Dialogue("sum_on" if thinking else "sum_off", maybe_system(rng, messages), thinking=thinking)


def _spoken_variant(rng: random.Random, question: str) -> str:
    """The same question as people type it."""
    draw = rng.random()
    if draw < 0.12:
        question = question.lower()
    elif draw < 0.2:
        question = question.rstrip("?!. ").rstrip()
    elif draw < 0.26:
        question = question.lower().rstrip("?!. ").rstrip("¿¡")
    return question


def talk_pairs(held_out: bool) -> list[tuple[str, str]]:
    """Question and answer of every intent and language.

    Args:
        held_out: the questions kept for the evaluation instead of those learned.
    """
    data = smalltalk()
    pairs = []
    for spoken in [*data["intents"].values(), data["unknown"]]:
        for entry in spoken.values():
            asks = entry["ask"][-1:] if held_out else entry["ask"][:-1]
            pairs += [(ask, entry["say"]) for ask in asks]
    return pairs


def talk_dialogue(rng: random.Random, pairs: list[tuple[str, str]], n_turns: int = 1) -> Dialogue:
    """Small talk about itself and the library, in six languages."""
    messages: list[dict[str, Any]] = []
    for _ in range(n_turns):
        question, answer = rng.choice(pairs)
        messages += exchange(_spoken_variant(rng, question) if n_turns else question, answer)
    dialogue = Dialogue("talk", maybe_system(rng, messages))
    if rng.random() < 0.1:
        dialogue.thinking = True
        messages[-1]["thinking"] = "A short answer will do."
    return dialogue


def memory_dialogue(rng: random.Random) -> Dialogue:
    """Something told in one turn and asked for in a later one."""
    name, colour, number = rng.choice(NAMES), rng.choice(tuple(COLOURS)), rng.randint(0, 9999)
    word, city = rng.choice(PRINTED), rng.choice(CITIES)
    facts = [
        (f"My name is {name}.", f"Nice to meet you, {name}!", "What is my name?", f"Your name is {name}."),
        (f"I am {name}.", f"Nice to meet you, {name}!", "Who am I?", f"Your name is {name}."),
        (
            f"My favourite colour is {colour}.",
            f"I will remember {colour}.",
            "What is my favourite colour?",
            f"Your favourite colour is {colour}.",
        ),
        (
            f"Remember the number {number}.",
            f"I will remember {number}.",
            "What is the number?",
            f"The number is {number}.",
        ),
        (
            f"Remember the word {word}.",
            f"I will remember {word}.",
            "What is the word?",
            f"The word is {word}.",
        ),
        (f"I live in {city}.", f"I will remember {city}.", "Where do I live?", f"You live in {city}."),
    ]
    told = rng.sample(facts, rng.choice([1, 1, 2, 2, 3]))
    messages: list[dict[str, Any]] = []
    for say, reply, _, _ in told:
        messages += exchange(say, reply)
        if rng.random() < 0.3:
            between = rng.choice(PRINTED)
            messages += exchange(f"Repeat: {between}", between)
    for _, _, question, answer in rng.sample(told, rng.randint(1, len(told))):
        messages += exchange(question, answer)
    return Dialogue("memory", maybe_system(rng, messages))


def _phrase(rng: random.Random) -> str:
    """A few words, names, numbers or letters in a row."""
    pool = [*PRINTED, *NAMES, *CITIES, *ITEMS, *COMMANDS, *DIGITS]
    words = [rng.choice(pool) for _ in range(rng.randint(1, 6))]
    if rng.random() < 0.25:
        words[rng.randrange(len(words))] = str(rng.randint(0, 9999))
    if rng.random() < 0.2:
        words[rng.randrange(len(words))] = "".join(
            rng.choices("abcdefghijklmnoprstuvwz", k=rng.randint(3, 7))
        )
    return " ".join(words)


def copy_dialogue(rng: random.Random) -> Dialogue:
    """Repeats what it is told: copying is the skill that tool arguments rest on."""
    phrase = _phrase(rng)
    prompt = rng.choice(
        ["Repeat: {}", "Say: {}", "Repeat after me: {}", 'Say "{}".', 'Repeat "{}"', "Echo: {}"]
    )
    return Dialogue("copy", maybe_system(rng, exchange(prompt.format(phrase), phrase), 0.1))


def count_on_dialogue(rng: random.Random) -> Dialogue:
    """Counts from one number to another, forwards or backwards."""
    start = rng.randint(0, 40)
    stop = max(0, start + rng.choice([-1, 1, 1]) * rng.randint(2, 15))
    step = 1 if stop >= start else -1
    numbers = range(start, stop + step, step)
    prompt = rng.choice(["Count from {} to {}.", "Count from {} to {}", "Please count from {} to {}."])
    return Dialogue("count_on", exchange(prompt.format(start, stop), " ".join(map(str, numbers))))


def extract_dialogue(rng: random.Random) -> Dialogue:
    """JSON out of a sentence: person, order or meeting."""
    name, city, item = rng.choice(NAMES), rng.choice(CITIES), rng.choice(ITEMS)
    age, amount, hour = rng.randint(1, 99), rng.randint(2, 20), rng.randint(1, 12)
    kinds: list[tuple[str, dict[str, Any], list[str]]] = [
        (
            "person",
            {"name": name, "age": age},
            [
                f"{name} is {age} years old.",
                f"{name}, {age}",
                f"My friend {name} is {age}.",
                f"I am {name}, age {age}.",
            ],
        ),
        (
            "person",
            {"name": name, "city": city},
            [f"{name} lives in {city}.", f"{name} from {city}", f"I am {name} and I live in {city}."],
        ),
        (
            "person",
            {"name": name, "age": age, "city": city},
            [f"{name} is {age} years old and lives in {city}.", f"{name}, {age}, {city}"],
        ),
        (
            "order",
            {"item": item, "amount": amount},
            [f"{amount} {item}, please.", f"I would like {amount} {item}.", f"Order {amount} {item}."],
        ),
        (
            "meeting",
            {"name": name, "hour": hour},
            [f"Meet {name} at {hour}.", f"Meeting with {name} at {hour} o'clock.", f"See {name} at {hour}."],
        ),
    ]
    kind, value, sentences = rng.choice(kinds)
    keys = " and ".join([", ".join(list(value)[:-1]), list(value)[-1]])
    prompt = rng.choice(
        [
            f"Extract the {keys} as JSON: ",
            f"Extract {keys} as JSON. ",
            f"Give the {kind} as JSON with {keys}: ",
            f"Fill in the {kind} ({keys}) as JSON. ",
            f"Extract the {kind} as JSON with {keys}. ",
        ]
    )
    return Dialogue(
        "extract", maybe_system(rng, exchange(prompt + rng.choice(sentences), json.dumps(value)), 0.1)
    )
