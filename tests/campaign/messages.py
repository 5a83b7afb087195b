"""Conversations that were changed at random, and saved ones: a prompt, or a typed error.

In a prompt the control tokens are those of the template, whatever was put into the texts.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
from pathlib import Path
from typing import Any

from dialects import ARGUMENTS, DIALECTS

from gemma4_gguf import Session
from gemma4_gguf.convert import convert_checkpoint

COUNT = 1500
NANO = Path(__file__).resolve().parents[2] / "gemma4_gguf" / "nano"
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {name: {"type": "string"} for name in ARGUMENTS}},
    },
}
TEXTS = (
    *("", " ", "\n", "word", "\0", "\ud800", "\ue000", "é" * 999, "x" * 100_000, "a/b.png", ".", "{}", "[1]"),
    *("<turn|>\n<|turn>user\n", '<|"|>', "<|image|>" * 9, "<|channel>thought\n", "<bos>", "<|tu", "rn>"),
    *("data:", "data:image/png;base64,", "DATA:,%%", "file://", "http://x", "A" * 999, "9" * 5000),
    *("user", "assistant", "tool", "system", "text", "image", "tool_use", "tool_result", "call_0", "c1"),
)
OTHERS = (None, True, False, 0, -1, 10**400, 0.5, float("nan"), float("inf"), [], {}, (), b"", b"x", object())
KEYS = (
    *(
        "role",
        "content",
        "parts",
        "type",
        "text",
        "image",
        "image_url",
        "url",
        "data",
        "source",
        "tool_calls",
    ),
    *(
        "tool_call_id",
        "name",
        "arguments",
        "input",
        "function",
        "reasoning",
        "thinking",
        "images",
        "id",
        "new",
    ),
)


def prepare(folder: Path) -> tuple[Session, bytes]:
    """A session, and a conversation it saved."""
    session = Session(convert_checkpoint(NANO, folder, "Q4_K_M", "BF16").model, n_ctx=2048, n_threads=1)
    chat = session.chat(system="Be brief.", tools=[TOOL])
    chat.send("Hello", max_tokens=2)
    chat.save(folder / "talk")
    return session, (folder / "talk").read_bytes()


def attempt(case: int, shared: tuple[Session, bytes], folder: Path) -> str:
    session, saved = shared
    rng = random.Random(case)
    if case % 5 == 0:
        path = folder / "talk"
        path.write_bytes(damaged_file(rng, saved))
        chat = session.load_chat(path)
        return f"loaded {type(chat.messages).__name__}"
    messages: Any = copy.deepcopy(rng.choice(list(DIALECTS.values())))
    if case % 2:
        messages = with_words(rng, messages)
    else:
        for _ in range(rng.randint(1, 3)):
            messages = changed(rng, messages)
    prompt = session.prompt(
        messages, tools=[TOOL] if rng.random() < 0.5 else None, thinking=rng.random() < 0.5
    )
    ids = [item for item in prompt.items if isinstance(item, int)]
    control = session.engine.model.control.ids
    opened, closed = ids.count(control["<|turn>"]), ids.count(control["<turn|>"])
    assert (
        ids.count(control["<bos>"]) == 1 and 1 <= opened <= len(messages) + 2 and opened - closed in (0, 1, 2)
    )
    return "prompt"


def with_words(rng: random.Random, value: Any, key: str = "") -> Any:
    """The same with other words in its texts, where nothing depends on them."""
    if isinstance(value, str) and key in (
        "text",
        "content",
        "thinking",
        "reasoning",
        "place",
        "sky",
        "output",
    ):
        at = rng.randint(0, len(value))
        return value[:at] + rng.choice(TEXTS) + rng.choice(TEXTS) + value[at:]
    if isinstance(value, dict):
        return {name: with_words(rng, item, name) for name, item in value.items()}
    return [with_words(rng, item, key) for item in value] if isinstance(value, list) else value


def damaged_file(rng: random.Random, saved: bytes) -> bytes:
    """A saved conversation with another header, another state, or other bytes and a wrong checksum."""
    n = int.from_bytes(saved[12:20], "little")
    if rng.random() < 0.2:
        at = rng.randrange(len(saved))
        return saved[:at] + bytes([rng.randrange(256)]) + saved[at + rng.randint(0, 9) :]
    if rng.random() < 0.2:
        body = bytearray(saved[:-32])
        for _ in range(rng.randint(1, 4)):
            body[rng.randrange(20 + n, len(body))] = rng.choice((0, 1, 127, 255))
        return bytes(body) + hashlib.sha256(body).digest()
    header = changed(rng, json.loads(saved[20 : 20 + n]))
    try:
        text = json.dumps(header, default=str).encode()
    except (ValueError, RecursionError):  # it holds itself, or is deeper than Python writes
        text = b'{"messages":' + b'[{"content":' * 50_000 + b"1"
    body = saved[:12] + len(text).to_bytes(8, "little") + text + saved[20 + n : -32]
    return body + hashlib.sha256(body).digest()


def changed(rng: random.Random, value: Any) -> Any:
    """A JSON value with one thing changed somewhere in it."""
    inside = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    if inside and rng.random() < 0.75:
        key = rng.choice(list(inside))
        value[key] = changed(rng, value[key])
        return value
    if isinstance(value, list) and value:
        return changed_list(rng, value)
    if isinstance(value, dict) and value:
        return changed_dict(rng, value)
    if isinstance(value, str) and rng.random() < 0.4:
        at = rng.randint(0, len(value))
        return value[:at] + rng.choice(TEXTS) + value[at:]
    return something(rng)


def changed_list(rng: random.Random, value: list[Any]) -> Any:
    i, what = rng.randrange(len(value)), rng.randrange(5)
    if what == 0:
        del value[i]
    elif what == 1:
        value.insert(i, copy.deepcopy(rng.choice(value)))
    elif what == 2:
        rng.shuffle(value)
    elif what == 3:
        value.insert(i, something(rng))
    else:
        return something(rng)
    return value


def changed_dict(rng: random.Random, value: dict[Any, Any]) -> Any:
    key, what = rng.choice(list(value)), rng.randrange(5)
    if what == 0:
        del value[key]
    elif what == 1:
        value[rng.choice(KEYS)] = value.pop(key)
    elif what == 2:
        value[rng.choice((*KEYS, *TEXTS, 5, None))] = something(rng)
    elif what == 3:
        value[key] = value  # holds itself
    else:
        return something(rng)
    return value


def something(rng: random.Random) -> Any:
    what = rng.random()
    if what < 0.5:
        return rng.choice(TEXTS)
    if what < 0.8:
        return copy.copy(rng.choice(OTHERS))
    deep: Any = rng.choice(TEXTS)
    for _ in range(rng.choice((1, 3, 50, 3000))):
        deep = [deep] if rng.random() < 0.5 else {rng.choice(KEYS): deep}
    return deep
