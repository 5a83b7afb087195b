"""Damaged checkpoints: values of JSON files, headers of weights, files that are missing, cut or no files.

What is converted all the same is converted to the end, and what fails leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny

from gemma4_gguf.convert import convert_checkpoint
from gemma4_gguf.errors import Gemma4Error

COUNT = 1500

JSON_FILES = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
)
VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 7, 1.5, -0.0, 2**31 - 1, 2**31, 2**63, 10**400, 1e-310, float("nan"),
    float("inf"), "", "a", "\0", "\ud800", "x" * 100_000, "\x1b[2J", [], [0], [[]], [None] * 1000, {},
    {"a": 1}, {"type": "Sequence"}, "sliding_attention", "full_attention", "Gemma4ForCausalLM",
    "Gemma4UnifiedForConditionalGeneration",
)  # fmt: skip
EXTRA = (
    ("chat_template.jinja", b"\xef\xbb\xbf{{ messages }}"),
    ("chat_template.jinja", b"\xff" * 100),
    ("chat_template.json", b'{"chat_template": [1]}'),
    ("adapter_config.json", b"{}"),
    ("model.safetensors.index.json", b'{"weight_map": {"a": "b"}}'),
    ("model.safetensors.index.json", b'{"weight_map": {"a": "../b"}}'),
    ("model-00001-of-00002.safetensors", b"\0" * 8),
    ("consolidated.safetensors", b"twice"),
    ("hf_quant_config.json", b"{}"),
    ("preprocessor_config.json", b"[]"),
    ("README.md", b"---\nlicense: [a, {b: c}]\nbase_model: 5\n---\n"),
    ("README.md", b"---\n" + b"a: &a [*a]\n" * 10 + b"---\n"),
)


def prepare(folder: Path) -> list[Path]:
    """The smallest member with a projector, and one without."""
    warnings.simplefilter("ignore")
    return [tiny.write_checkpoint(member, folder / member) for member in ("e2b", "e2b_text")]


def attempt(case: int, shared: list[Path], folder: Path) -> str:
    rng = random.Random(case)
    source = folder / "model"
    shutil.copytree(shared[case % 2], source)
    done = [rng.choice(DAMAGES)(source, rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    out = folder / "made" / "here"
    quant = rng.choice(("Q8_0", "F32"))
    try:
        made = convert_checkpoint(
            source, out, quant, threads=1, name=rng.choice((None, None, "a/b", "\0", "x" * 300))
        )
    except Gemma4Error as error:
        assert not (folder / "made").exists(), f"{done}: something is left behind"
        assert len(str(error)) < 4000, f"{done}: a message of {len(str(error))} characters"
        raise
    assert sorted(made) == sorted(out.iterdir()), done
    return "converted"


# Damages


def value(source: Path, rng: random.Random) -> str:
    """Another value at a random place of a JSON file."""
    path = source / rng.choice(JSON_FILES)
    if not path.is_file():
        return "nothing"
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return "nothing"
    at, place = content, []
    while isinstance(at, dict | list) and at:
        key = rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
        place.append(key)
        if not isinstance(at[key], dict | list) or not at[key] or rng.random() < 0.25:
            if rng.random() < 0.15 and isinstance(at, dict):
                del at[key]
            else:
                at[key] = rng.choice(VALUES)
            break
        at = at[key]
    path.write_text(json.dumps(content))
    return f"{path.name}: {place}"


def flipped(source: Path, rng: random.Random) -> str:
    """Random bytes in a file, mostly in the first kilobytes."""
    path = rng.choice(sorted(path for path in source.iterdir() if path.is_file()))
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 3, 30))):
        if data:
            data[rng.randrange(min(len(data), rng.choice((16, 4096, 1 << 30))))] = rng.randrange(256)
    path.write_bytes(data)
    return f"{path.name}: flipped"


def cut(source: Path, rng: random.Random) -> str:
    """A file that ends early, or goes on."""
    path = rng.choice(sorted(path for path in source.iterdir() if path.is_file()))
    size = path.stat().st_size
    os.truncate(path, rng.choice((0, 1, 7, 8, 9, size // 2, max(size - 1, 0), size + 1, size + (1 << 33))))
    return f"{path.name}: cut"


def header(source: Path, rng: random.Random) -> str:
    """Another value in the header of the weights, whose length is set right."""
    path = source / "model.safetensors"
    data = path.read_bytes() if path.is_file() else b""
    length = int.from_bytes(data[:8], "little")
    try:
        content = json.loads(data[8 : 8 + length])
        name = rng.choice(list(content))
    except (ValueError, IndexError, TypeError, RecursionError):
        return "nothing"
    change = rng.randrange(6)
    if change == 0:
        content[name] = rng.choice(VALUES)
    elif change == 1:
        del content[name]
    elif change == 2:
        content[rng.choice(NAMES).format(name)] = content.pop(name)
    elif change == 3:
        content[rng.choice(NAMES).format(name)] = content[name]
    elif isinstance(content[name], dict):
        key = rng.choice(("dtype", "shape", "data_offsets"))
        content[name][key] = rng.choice(
            (*VALUES, "F64", "I8", "F8_E4M3", "F32", [2**40, 2**40], [-1, 1], [8, 0])
        )
    text = json.dumps(content).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    return f"header: {change} {name}"


NAMES = (
    "module.{}",
    "_orig_mod.{}",
    "base_model.model.{}",
    "{}.lora_A.weight",
    "{}.SCB",
    "optimizer.{}",
    "lm_head.weight",
    "model.layers.99.x",
    "\x1b[31m{}",
    "{}\0",
    "",
    "." * 1000,
)


def gone(source: Path, rng: random.Random) -> str:
    """A file that is missing."""
    path = rng.choice(sorted(source.iterdir()))
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return f"{path.name}: gone"


def special(source: Path, rng: random.Random) -> str:
    """Something else in the place of a file."""
    names = [
        *JSON_FILES,
        "model.safetensors",
        "README.md",
        "chat_template.jinja",
        "additional_chat_templates",
    ]
    path = source / rng.choice(names)
    if path.is_dir():
        return "nothing"
    path.unlink(missing_ok=True)
    makers: tuple[Callable[[], Any], ...] = (
        path.mkdir,
        lambda: os.mkfifo(path),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to("/dev/null"),
        lambda: path.symlink_to(path.name),
        lambda: path.symlink_to("nowhere"),
    )
    rng.choice(makers)()
    return f"{path.name}: special"


def extra(source: Path, rng: random.Random) -> str:
    """A file that does not belong there."""
    name, data = rng.choice(EXTRA)
    if not (source / name).exists():
        (source / name).write_bytes(data)
    return f"{name}: extra"


def text(source: Path, rng: random.Random) -> str:
    """A file of something that is no JSON object, or a very deep one."""
    path = source / rng.choice(JSON_FILES)
    if path.exists():
        path.unlink() if not path.is_dir() else shutil.rmtree(path)
    path.write_bytes(
        rng.choice((b"", b"[]", b"[" * 10**6, b'{"a":' * 10**5, b"\xff\xfe{", b"9" * 5000, b"{}", b"NaN"))
    )
    return f"{path.name}: text"


# Values come as often as all others together.
DAMAGES: tuple[Callable[[Path, random.Random], str], ...] = (
    value, value, value, value, value, value, value, flipped, flipped, cut, header, header, header, gone,
    special, extra, text,
)  # fmt: skip
