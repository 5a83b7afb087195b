"""What a model wrote, changed at random, with declarations of every shape: thoughts, text and calls.

Whatever comes is read without an error, alike in one piece, in pieces and token by token; chunks joined are
the reply; and no word is lost: it is in the text, the thought, a call or a warning.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from gemma4_gguf.reply.parser import ReplyParser
from gemma4_gguf.special_tokens import MARKER_TEXT, SILENT_TEXT, Markers
from gemma4_gguf.types import Chunk, Reply

COUNT = 3000
PATTERNS = Path(__file__).resolve().parents[1] / "data" / "reply_patterns.jsonl"
IDS = {name: 46 + number for number, name in enumerate(MARKER_TEXT)}
PIECES = (
    *MARKER_TEXT.values(),
    *("call:", "call:f{", "call:f(", "call:bash{command:", "<call>f{", "<tool_call:f{", "<|tool_call>:f{"),
    *("thought\n", "thought", "response:f{", "model\n", "```\n", "BEGIN_ARG:\n", "END_ARG", "\n", " ", "\t"),
    *("{", "}", "[", "]", "(", ")", ":", ",", "=", '"', "'", "`", "\\", ">", "<", "<|", "|>", ".", "-"),
    *("null", "true", "108.", "+3", "1e999", "9" * 400, "\u2028", "\u200d", "\ue000", "\0", "🎈"),
    '{"name":"f","arguments":{',
)
KEYS = ("command", "a", "b", "n", "path", "content", "text", "x", "limit")
SCHEMAS: tuple[Any, ...] = (
    *(
        {"type": kind}
        for kind in ("string", "integer", "number", "boolean", "null", "array", "object", "any", 3)
    ),
    {"type": ["string", "null"]},
    {"type": ["integer", "null"]},
    {"anyOf": [{"type": "number"}, {"type": "null"}]},
    {"anyOf": [{"$ref": "#"}, {"type": "integer"}]},
    {"$ref": "#/properties/a"},
    {"$ref": "#/%zz"},
    {"enum": [1, "a", None]},
    {"type": "array", "items": {"type": "integer"}},
    {"type": "object", "additionalProperties": {"type": "number"}},
    {"type": "object", "properties": {"x": {"type": "number"}, "path": {"type": "string"}}},
    *(True, None, 5, "string", [], {}),
)


def prepare(folder: Path) -> list[str]:
    """Outputs that were seen in the wild."""
    lines = PATTERNS.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["raw"] for line in lines]


def attempt(case: int, shared: list[str], folder: Path) -> str:
    rng = random.Random(case)
    text, words = changed(rng, shared)
    options = {
        "tools": tools(rng),
        "starts_in_thought": rng.random() < 0.2,
        "parallel_tool_calls": rng.random() < 0.9,
    }
    finish = rng.choice(["stop", "stop", "length"])
    whole = read([text], finish, **options)
    cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(1, 30)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(parts, finish, **options) == whole, "chunks change the reply"
    if not any(marker in text for marker in SILENT_TEXT) and len(text) < 5000:
        assert read(tokens_of(text), finish, **options) == whole, "ids and text differ"
    seen = json.dumps(
        [whole.text, whole.thinking, [[c.name, c.arguments] for c in whole.tool_calls], whole.warnings]
    )
    lost = [word for word in words if word in text and word not in seen]
    assert not lost, f"{lost} are nowhere"
    return "calls" if whole.tool_calls else "warnings" if whole.warnings else "text"


def changed(rng: random.Random, raws: list[str]) -> tuple[str, list[str]]:
    """One or two outputs with pieces put in, taken out, doubled or moved, and words that must not be lost."""
    text = "".join(rng.choices(raws, k=rng.randrange(1, 3)))
    words = [f"qzx{number}" for number in range(rng.randrange(4))]
    for _ in range(rng.randrange(1, 8)):
        at, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        end = min(end, at + rng.randrange(1, 40))
        match rng.randrange(5):
            case 0:
                text = text[:at] + rng.choice(PIECES) + text[at:]
            case 1:
                text = text[:at] + text[end:]
            case 2:
                text = text[:end] + text[at:]
            case 3:
                text = text[:at] + "".join(rng.choices(PIECES, k=rng.randrange(1, 9))) + text[end:]
            case _:
                text = text[:at] + text[end:] + text[at:end]
    if rng.random() < 0.03:
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(PIECES) * rng.randrange(500, 4_000) + text[at:]
    if rng.random() < 0.1:
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(sorted(SILENT_TEXT)) + text[at:]
    for word in words:
        at = rng.randrange(len(text) + 1)
        text = f"{text[:at]} {word} {text[at:]}"
    return text, words


def tools(rng: random.Random) -> list[dict[str, Any]] | None:
    if rng.random() < 0.2:
        return None
    return [
        {"type": "function", "function": {"name": name, "parameters": parameters(rng)}}
        for name in rng.sample(("f", "bash", "get_weather", "write", "F", "x.f"), rng.randrange(1, 4))
    ]


def parameters(rng: random.Random) -> Any:
    if rng.random() < 0.1:
        return rng.choice([schema for schema in SCHEMAS if isinstance(schema, dict)])
    chosen = rng.sample(KEYS, rng.randrange(len(KEYS)))
    return {"type": "object", "properties": {key: rng.choice(SCHEMAS) for key in chosen}}


def read(pieces: list[Any], finish: Any, **options: Any) -> Reply:
    """The reply to pieces of text, or to (id, text) of tokens."""
    by_id = bool(pieces) and isinstance(pieces[0], tuple)
    parser = ReplyParser(Markers(**IDS) if by_id else None, **options)
    chunks: list[Chunk] = []
    for piece in pieces:
        chunks += parser.feed(*piece) if by_id else parser.feed(None, piece)
    chunks += parser.flush(finish)
    reply = parser.finish(finish)
    assert "".join(chunk.text for chunk in chunks if chunk.kind == "text") == reply.text
    assert "".join(chunk.text for chunk in chunks if chunk.kind == "thinking") == (reply.thinking or "")
    assert tuple(chunk.tool_call for chunk in chunks if chunk.kind == "tool_call") == reply.tool_calls
    return reply


def tokens_of(text: str) -> list[tuple[int, str]]:
    """Markers by id, the rest a character each."""
    by_text = {marker: IDS[name] for name, marker in MARKER_TEXT.items()}
    out: list[tuple[int, str]] = []
    at = 0
    while at < len(text):
        marker = next((marker for marker in by_text if text.startswith(marker, at)), None)
        out.append((by_text[marker], marker) if marker else (1000 + ord(text[at]), text[at]))
        at += len(marker or "x")
    return out
