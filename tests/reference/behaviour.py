"""What the whole product does, written down: taken before a rebuild, and compared after it.

    python tests/reference/behaviour.py record before.json
    python tests/reference/behaviour.py compare before.json after.json

Ids of all tests, checksums of what is converted, the demo, the doctor, seeded replies of the bundled
checkpoint, the help of every command and its exit codes. Speeds, paths and places are left out. Only public
names are used. Replies depend on the machine: record both on one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "gemma4_gguf/nano/samples"
sys.path.insert(0, str(ROOT / "tests/helpers"))

# fmt: off
MODEL_TYPES = (
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_0", "IQ4_NL",
    "IQ4_XS", "Q3_K_M", "Q3_K_S", "Q2_K", "Q4_COMPACT",
)
VARYING = (
    "seconds", "convert_seconds", "open_seconds", "speed", "free_bytes", "places", "version", "packages",
    "path", "file", "model", "drawing",
)
QUESTIONS = (
    "Hello!", "What is your name?", "My name is Anna. What is my name?", "What can you do?",
    "What is 47 + 38?", "What is 12 + 30?", "Wie heißt du?", "Count to five.", "Name three colours.",
    "Thank you!", "こんにちは",
)
# fmt: on
PROJECTOR_TYPES = ("F32", "F16", "BF16", "Q8_0")
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a place",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


def get_weather(place: str) -> dict[str, str]:
    """Weather of a place.

    Args:
        place: a town.
    """
    return {"place": place, "weather": "12 C, sun"}


def collected() -> list[str]:
    """Ids of every test."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "reference or not reference"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.splitlines()
    return sorted(line for line in lines if "::" in line)


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every tiny member as every type, and of its projector as every type."""
    import tiny

    from gemma4_gguf.convert import convert_checkpoint

    found = {}
    for member in tiny.MEMBERS:
        checkpoint = tiny.write_checkpoint(member, folder / member / f"tiny-{member}")
        for number, quant in enumerate(MODEL_TYPES):
            kind = PROJECTOR_TYPES[number % len(PROJECTOR_TYPES)]
            out = folder / member / quant
            try:
                files = convert_checkpoint(checkpoint, out, quant, kind)
            except Exception as error:
                found[f"{member} {quant}"] = f"{type(error).__name__}: {error}"
                continue
            for path in filter(None, (files.model, files.projector)):
                found[f"{member} {path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
                path.unlink()
    return found


def command(*arguments: str, given: str = "") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    environment = {**os.environ, "COLUMNS": "100", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    environment.pop("GEMMA4_GGUF_MODEL", None)
    done = subprocess.run(
        [sys.executable, "-m", "gemma4_gguf", *arguments],
        capture_output=True,
        text=True,
        input=given,
        env=environment,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def helps() -> dict[str, str]:
    """The help of every command."""
    whole = command("--help")[1]
    names = re.findall(r"^    (\w+) ", whole, re.M)
    return {"": whole} | {name: command(name, "--help")[1] for name in names}


def exit_codes(model: Path, folder: Path) -> dict[str, list[Any]]:
    """Codes and, without places, words of commands that go right and wrong."""
    (folder / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    (folder / "noise.wav").write_bytes(b"no sound")
    lines: dict[str, tuple[str, ...]] = {
        "none": (),
        "unknown": ("sing",),
        "version": ("--version",),
        "devices": ("devices",),
        "no checkpoint": ("convert", str(folder / "nowhere"), "-o", str(folder)),
        "no type": ("convert", str(SAMPLES.parent), "-o", str(folder), "-q", "Q9_Z"),
        "no file": ("inspect", str(folder / "none.gguf")),
        "broken file": ("inspect", str(folder / "broken.gguf")),
        "inspect": ("inspect", str(model)),
        "no hub": ("pull", "org/repo"),
        "ask": ("ask", str(model), "What is 47 + 38?", "--temperature", "0", "--max-tokens", "20"),
        "ask, json": ("ask", str(model), "Hello!", "--temperature", "0", "--max-tokens", "20", "--json"),
        "no option": ("ask", str(model), "Hello!", "--temperature", "-1"),
        "no schema": ("ask", str(model), "Hello!", "--schema", str(folder / "none.json")),
        "no picture": ("detect", str(folder / "none.png"), "mugs", "-m", str(model)),
        "detect": (*("detect", str(SAMPLES / "scene0.png"), "every object"), "-m", str(model)),
        "no sound": ("transcribe", str(folder / "noise.wav"), "-m", str(model)),
        "transcribe": ("transcribe", str(SAMPLES / "spoken.wav"), "-m", str(model)),
        "describe": ("describe", str(SAMPLES / "scene1.png"), "-m", str(model), "--max-tokens", "30"),
        "context full": ("ask", str(model), "word " * 3000, "--ctx", "512"),
    }
    found = {}
    for name, arguments in lines.items():
        code, out, err = command(*arguments)
        found[name] = [code, without_places(out, folder), without_places(err, folder)]
    talk = ("chat", str(model), "--temperature", "0", "--max-tokens", "20")
    code, out, err = command(*talk, given="Hello!\n/help\n")
    found["chat"] = [code, without_places(out, folder), without_places(err, folder)]
    return found


def without_places(text: str, folder: Path) -> str:
    """A text without this run's paths and times."""
    text = text.replace(str(folder), "FOLDER").replace(str(ROOT), "ROOT")
    return re.sub(r"\d+(\.\d+)? (s|tokens/s|GB free)\b", "N", text)


def requests(session: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Questions of all kinds: a name, and what asks."""
    from gemma4_gguf import Audio, Image

    few: dict[str, Any] = {"max_tokens": 60}
    for number, question in enumerate(QUESTIONS):
        yield f"seeded: {question}", lambda q=question, n=number: session.ask(q, seed=n, **few)
        yield f"greedy: {question}", lambda q=question: session.ask(q, temperature=0, **few)
    for name in ("scene0", "scene1", "scene2", "scene3", "window", "word"):
        path = SAMPLES / f"{name}.png"
        yield f"detect {name}", lambda p=path: session.detect(p, image_tokens=70)
        yield f"describe {name}", lambda p=path: session.describe(Image(p, 70), temperature=0, **few)
    yield "point", lambda: session.point(SAMPLES / "window.png", "a button", image_tokens=280)
    yield "transcribe", lambda: session.transcribe(SAMPLES / "spoken.wav")
    yield "segments", lambda: list(session.transcribe_segments(SAMPLES / "spoken.wav"))
    yield "sound", lambda: session.ask(Audio(SAMPLES / "spoken.wav"), "What is said?", seed=4, **few)
    yield "thinking", lambda: session.ask("What is 47 + 38?", thinking=True, seed=5, max_tokens=150)
    yield "system", lambda: session.ask("Hello!", system="Answer in one word.", seed=6, **few)
    yield "choices", lambda: session.ask("How are you?", schema=["fine", "ill"], seed=7)
    yield "pattern", lambda: session.ask("A number?", schema=re.compile("[0-9]{3}"), seed=8)
    numbers = {"type": "array", "items": {"type": "integer"}, "maxItems": 3}
    yield "schema", lambda: session.ask("Two?", schema=numbers, seed=18)
    yield "grammar", lambda: session.ask("Yes?", schema='root ::= "yes" | "no"', seed=9)
    told = "Extract the name and age as JSON: Anna is 31 years old."
    yield "extract", lambda: session.extract(Person, told)
    few_steady = few | {"temperature": 0}
    asked = "What is the weather in Oslo?"
    must: dict[str, Any] = {"tool_choice": "required", "seed": 10}
    yield "tool", lambda: session.ask(asked, tools=[WEATHER], **few_steady)
    yield "required", lambda: session.ask("Hello!", tools=[get_weather], **must, **few)
    yield "run", lambda: session.chat(tools=[get_weather]).run(asked, **few_steady)
    yield "stop", lambda: session.ask("Count to five.", stop="e", seed=11, **few)
    yield "bias", lambda: session.ask("Hello!", logit_bias={5: 3.0}, top_k=0, min_p=0.01, seed=12, **few)
    yield "penalty", lambda: session.ask("Hello!", repeat_penalty=1.3, top_p=0.5, seed=13, **few)
    yield "cut", lambda: session.ask("Tell me everything.", max_tokens=3, seed=14)
    messages = [
        {"role": "system", "content": "Answer with words."},
        {"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": str(SAMPLES / "scene0.png")}},
            {"type": "text", "text": "Describe this picture in detail."},
        ]},
        {"role": "assistant", "content": "A red circle."},
        {"role": "user", "content": "And?"},
    ]  # fmt: skip
    yield "messages", lambda: session.complete(messages, seed=15, image_tokens=70, **few)


def replies(model: Path, folder: Path) -> dict[str, Any]:
    """What the bundled checkpoint answers."""
    from gemma4_gguf import Session

    found: dict[str, Any] = {}
    with Session(model, device="cpu", n_ctx=2048, n_threads=2) as session:
        for name, ask in requests(session):
            found[name] = repr(ask())
        found["chunks"] = repr(
            list(session.stream("What is 12 + 30?", thinking=True, seed=16, max_tokens=99))
        )
        chat = session.chat(system="Be brief.")
        found["turns"] = [
            repr(chat.send(text, seed=n, max_tokens=40)) for n, text in enumerate(QUESTIONS[:4])
        ]
        chat.save(folder / "talk.chat")
        again = session.load_chat(folder / "talk.chat")
        found["after a save"] = repr(again.send("Thank you!", seed=17, max_tokens=40))
        found["after a fork"] = repr(chat.fork().send("Thank you!", seed=17, max_tokens=40))
        ids = session.tokenize("Hello, wörld <|turn>")
        found["tokens"] = [ids, session.detokenize(ids)]
        logits = session.logits([2, *ids]).astype("f4")
        found["logits"] = hashlib.sha256(logits.tobytes()).hexdigest()
    return found


def steady(value: Any) -> Any:
    """A report without what differs from run to run."""
    if isinstance(value, dict):
        return {key: steady(item) for key, item in value.items() if key not in VARYING}
    if isinstance(value, list):
        return [steady(item) for item in value]
    return re.sub(r"/\S+/", "", value) if isinstance(value, str) else value


def record() -> dict[str, Any]:
    """Everything."""
    from gemma4_gguf.convert import convert_checkpoint

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = convert_checkpoint(SAMPLES.parent, folder, "Q4_K_M", "BF16").model
        return {
            "tests": collected(),
            "checksums": checksums(folder),
            "demo": steady(json.loads(command("demo", "--json")[1])),
            "doctor": steady(json.loads(command("doctor", "--json")[1])),
            "help": helps(),
            "commands": exit_codes(model, folder),
            "replies": replies(model, folder),
        }


def differences(before: Any, after: Any, place: str = "") -> Iterator[str]:
    """One line for each value that is not the same."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            yield from differences(before.get(key), after.get(key), f"{place}/{key}")
    elif place == "/tests":
        # The layout of the test files may change: what counts is the test and its case.
        old, new = (Counter(test.partition("::")[2] for test in tests or ()) for tests in (before, after))
        yield from (f"gone: {name}" for name in sorted((old - new).elements()))
        yield from (f"new: {name}" for name in sorted((new - old).elements()))
    elif before != after:
        yield f"{place}: {json.dumps(before)[:600]}\n    now {json.dumps(after)[:600]}"


def main() -> int:
    """Records, or compares two records."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("record").add_argument("out", type=Path)
    compare = actions.add_parser("compare")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    args = parser.parse_args()
    if args.action == "record":
        args.out.write_text(json.dumps(record(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return 0
    before, after = (json.loads(path.read_text("utf-8")) for path in (args.before, args.after))
    found = list(differences(before, after))
    print("\n".join(found) or "Everything is the same.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
