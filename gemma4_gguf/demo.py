"""Demonstration: the bundled checkpoint is converted, opened, and shows every ability on real input, offline.

The checkpoint is a small trained Gemma 4 (gemma4_gguf/nano, whose README.md has its figures). Which abilities
are shown, and on which samples, is written beside it in samples/demo.json: a checkpoint that has learned more
shows more.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from PIL import Image as PILImage
from pydantic import BaseModel

from gemma4_gguf.convert import convert_checkpoint
from gemma4_gguf.convert.progress import ProgressCallback
from gemma4_gguf.errors import CheckpointError, OutputError
from gemma4_gguf.nano.bundled import bundled_checkpoint
from gemma4_gguf.session import Session
from gemma4_gguf.tasks.boxes import Box, draw_boxes

NAME = "nano"
ACTS = "demo.json"
MIN_WIDTH = 600  # pixels a drawing is enlarged to, so that labels can be read
MAX_TOKENS = 200


# What a user would write down for the tool and the typed value that are shown.


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


def get_weather(city: str) -> str:
    """Current weather for a place.

    Args:
        city: City name

    Returns:
        A temperature and a word.
    """
    return f"{len(city) * 3} C, sun" if city else "unknown"


@dataclass(frozen=True)
class Converted:
    """The first half: files.

    Args:
        model: the converted model.
        projector: its projector.
        samples: pictures and sounds to show it, beside it.
        acts: what is shown, from samples/demo.json.
        seconds: the conversion took.
    """

    model: Path
    projector: Path
    samples: tuple[Path, ...]
    acts: tuple[Mapping[str, Any], ...]
    seconds: float


@dataclass(frozen=True)
class Shown:
    """One ability, shown.

    Args:
        ability: "eyes", "ears", "thought", "tool" or "typed".
        question: what was asked, for people.
        lines: the answer, for people.
        code: the expression that gives `value`, as a user would write it; {folder} stands for the directory.
        value: what it gave.
        seconds: from the question to the end of the answer.
        drawing: the picture with what was found in it.
    """

    ability: str
    question: str
    lines: tuple[str, ...]
    code: str
    value: Any
    seconds: float
    drawing: Path | None = None


def convert(out_dir: Path, *, progress: ProgressCallback | None = None) -> Converted:
    """Convert the bundled checkpoint to Q4_K_M with a BF16 projector.

    Args:
        out_dir: directory for them and the samples; made if absent, files of an earlier demo are replaced.
        progress: called while converting.

    Returns:
        What was written.

    Raises:
        CheckpointError: the bundled checkpoint is damaged.
        OutputError: the directory cannot be written.
    """
    start = perf_counter()
    with bundled_checkpoint() as bundled:
        made = convert_checkpoint(bundled, out_dir, "Q4_K_M", name=NAME, force=True, progress=progress)
        seconds = perf_counter() - start
        acts = tuple(json.loads((bundled / "samples" / ACTS).read_bytes()))
        names = dict.fromkeys(act["file"] for act in acts if "file" in act)
        samples = tuple(out_dir / name for name in names)
        for sample in samples:
            with _writing(sample):
                shutil.copyfile(bundled / "samples" / sample.name, sample)
    if made.projector is None:
        raise OutputError(f"{made.model} has no projector: the installation is damaged. Install it again.")
    return Converted(made.model, made.projector, samples, acts, seconds)


def perform(session: Session, files: Converted) -> Generator[Shown, None, None]:
    """Let a session show what it can, one ability after the other.

    Args:
        session: on the converted model.
        files: from `convert`.

    Yields:
        What was asked and answered.

    Raises:
        OutputError: a drawing cannot be written.
    """
    for act in files.acts:
        ability = _ABILITIES.get(act["ability"])
        if ability is None:
            raise CheckpointError(f"{ACTS} names an ability {act['ability']!r} that nothing can show.")
        yield ability(session, files.model.parent, act)


def snippet(shown: list[Shown], folder: str) -> str:
    """The same questions as a user would ask them from Python.

    Args:
        shown: what was asked.
        folder: where the files are.

    Returns:
        A script that prints the same values.
    """
    code = [one.code.replace("{folder}", folder) for one in shown]
    used = [name for name in ("Person", "get_weather") if any(name in line for line in code)]
    imports = ["from gemma4_gguf import Session"]
    imports += [f"from gemma4_gguf.demo import {', '.join(used)}"] if used else []
    lines = [f"    print({line})" for line in code]
    return "\n".join([*imports, "", f'with Session("{folder}/{NAME}-Q4_K_M.gguf") as session:', *lines, ""])


# One function for each ability


def _detect(session: Session, folder: Path, act: Mapping[str, Any]) -> Shown:
    """{"file": picture, "what": …, "options": {…} of Session.detect}"""
    options = act.get("options", {})
    picture = folder / act["file"]
    start = perf_counter()
    boxes = session.detect(picture, act["what"], **options)
    seconds = perf_counter() - start
    written = "".join(f", {name}={json.dumps(value)}" for name, value in options.items())
    return Shown(
        "eyes",
        f"{act['what']} in {picture.name}",
        tuple(
            f"{box.label}  x {box.x0:.0f} to {box.x1:.0f}, y {box.y0:.0f} to {box.y1:.0f}" for box in boxes
        ),
        f'session.detect("{{folder}}/{picture.name}", {json.dumps(act["what"])}{written})',
        boxes,
        seconds,
        _drawing(picture, boxes),
    )


def _transcribe(session: Session, folder: Path, act: Mapping[str, Any]) -> Shown:
    """{"file": sound}"""
    start = perf_counter()
    text = session.transcribe(folder / act["file"])
    seconds = perf_counter() - start
    code = f'session.transcribe("{{folder}}/{act["file"]}")'
    return Shown("ears", f"what is said in {act['file']}", (text,), code, text, seconds)


def _think(session: Session, folder: Path, act: Mapping[str, Any]) -> Shown:
    """{"question": …}"""
    start = perf_counter()
    reply = session.ask(act["question"], thinking=True, temperature=0, max_tokens=MAX_TOKENS)
    seconds = perf_counter() - start
    thought = " ".join((reply.thinking or "").split())
    asked = json.dumps(act["question"], ensure_ascii=False)
    code = f"session.ask({asked}, thinking=True, temperature=0, max_tokens={MAX_TOKENS}).text"
    return Shown("thought", act["question"], (f"({thought})", reply.text), code, reply.text, seconds)


def _call_tool(session: Session, folder: Path, act: Mapping[str, Any]) -> Shown:
    """{"question": …}, about the weather"""
    calls: list[str] = []
    start = perf_counter()
    reply = session.chat(tools=[get_weather]).run(
        act["question"],
        temperature=0,
        max_tokens=MAX_TOKENS,
        on_result=lambda call, result: calls.append(f"{call.name}({_written(call)}) gave {result.content}"),
    )
    seconds = perf_counter() - start
    asked = json.dumps(act["question"], ensure_ascii=False)
    code = f"session.chat(tools=[get_weather]).run({asked}, temperature=0, max_tokens={MAX_TOKENS}).text"
    return Shown("tool", act["question"], (*calls, reply.text), code, reply.text, seconds)


def _extract(session: Session, folder: Path, act: Mapping[str, Any]) -> Shown:
    """{"question": …}, about a person"""
    start = perf_counter()
    person = session.extract(Person, act["question"], max_tokens=MAX_TOKENS)
    seconds = perf_counter() - start
    asked = json.dumps(act["question"], ensure_ascii=False)
    code = f"session.extract(Person, {asked}, max_tokens={MAX_TOKENS})"
    return Shown("typed", act["question"], (repr(person),), code, person, seconds)


_ABILITIES: dict[str, Callable[[Session, Path, Mapping[str, Any]], Shown]] = {
    "eyes": _detect,
    "ears": _transcribe,
    "thought": _think,
    "tool": _call_tool,
    "typed": _extract,
}


def as_json(value: Any) -> Any:
    """A value of `Shown` for a JSON file.

    Args:
        value: `Shown.value`.

    Returns:
        What JSON holds.
    """
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, list):
        return [as_json(item) for item in value]
    if isinstance(value, Box):
        return {name: v if name == "label" else round(v, 1) for name, v in asdict(value).items()}
    return value


def _written(call: Any) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in call.arguments.items())


def _drawing(picture: Path, boxes: list[Box]) -> Path:
    """The picture, large enough for labels to be read, with boxes; saved beside it."""
    with PILImage.open(picture) as opened:
        times = max(1, -(-MIN_WIDTH // opened.width))
        size = (opened.width * times, opened.height * times)
        large = opened.convert("RGB").resize(size, PILImage.Resampling.LANCZOS)
    found = [Box(box.label, *(side * times for side in (box.x0, box.y0, box.x1, box.y1))) for box in boxes]
    path = picture.with_name(f"{picture.stem}-boxes.png")
    with _writing(path):
        draw_boxes(large, found).save(path)
    return path


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"Cannot write {path}: {error.strerror or error}. Choose another directory."
        ) from error
