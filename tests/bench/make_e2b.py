"""Write a full-size random Gemma 4 E2B checkpoint: 5.104 B parameters in BF16 shards, the real vocabulary.

    PYTHONPATH=tests:tests/helpers python tests/bench/make_e2b.py ggml-vocab-gemma-4.gguf OUT_DIR

The vocabulary comes from llama.cpp's models/ggml-vocab-gemma-4.gguf (or any Gemma 4 GGUF). Weights are random
normals: sizes and times are those of the published checkpoint, and no licence is involved. It takes a minute
or two and a few hundred megabytes of memory; the directory takes 10.3 GB.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tiny_shapes import Shape, tensor_shapes

from gemma4_gguf.files.gguf_reader import open_gguf
from gemma4_gguf.templates import load

SHARD_BYTES = 5_000_000_000
CHUNK = 1 << 22  # numbers drawn at a time
CONTROL = 3  # token type of llama.cpp
MASK = 4  # the last of the tokens with a setting of their own

PUBLISHED = Path(__file__).resolve().parents[1] / "data/published"
MEMBER = "gemma-4-E2B-it"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vocabulary", type=Path, help="a GGUF with Gemma 4's vocabulary")
    parser.add_argument("out_dir", type=Path)
    options = parser.parse_args()
    options.out_dir.mkdir(parents=True, exist_ok=True)
    config = write_config(options.out_dir)
    write_tokenizer(options.vocabulary, options.out_dir)
    shapes = tensor_shapes(config)
    write_weights(options.out_dir, shapes)
    total = sum(math.prod(shape) for shape in shapes.values())
    print(f"{total / 1e9:.3f} B parameters, {len(shapes)} tensors in {options.out_dir}", file=sys.stderr)


def write_config(out: Path) -> dict[str, Any]:
    """Write config.json, generation_config.json and processor_config.json as published; return the first."""
    for kind in ("config", "generation_config", "processor_config"):
        (out / f"{kind}.json").write_bytes((PUBLISHED / f"{MEMBER}.{kind}.json").read_bytes())
    return json.loads((out / "config.json").read_text("utf-8"))


def write_tokenizer(vocabulary: Path, out: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json from the vocabulary of a GGUF file."""
    metadata = open_gguf(vocabulary).metadata
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    small = Path(__file__).resolve().parents[1] / "data/tokenizer"
    tokenizer = json.loads((small / "tokenizer.json").read_text("utf-8"))
    settings = json.loads((small / "tokenizer_config.json").read_text("utf-8"))
    markers = {token["content"] for token in tokenizer["added_tokens"]} | set(
        settings["extra_special_tokens"]
    )
    special = [i for i, token in enumerate(tokens) if types[i] == CONTROL or token in markers]
    settings["extra_special_tokens"] = [tokens[i] for i in special if i > MASK]
    template = tokenizer["added_tokens"][0]
    tokenizer["added_tokens"] = [template | {"id": i, "content": tokens[i]} for i in special]
    # As published. Tokens of the small vocabulary hold no second word, so that it may be cut at each.
    tokenizer["pre_tokenizer"]["pattern"] = {"String": " "}
    tokenizer["model"]["vocab"] = {token: i for i, token in enumerate(tokens)}
    tokenizer["model"]["merges"] = [_pair(merge) for merge in metadata["tokenizer.ggml.merges"]]
    (out / "chat_template.jinja").write_text(load("small"), "utf-8")
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")
    _write_json(
        out / "tokenizer_config.json", settings | {"mask_token": "<mask>", "model_max_length": 131072}
    )


def write_weights(out: Path, shapes: dict[str, Shape]) -> None:
    """Write the shards and their index."""
    shards: list[list[str]] = [[]]
    size = 0
    for name in sorted(shapes):
        n_bytes = 2 * math.prod(shapes[name])
        if size and size + n_bytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += n_bytes
    where: dict[str, str] = {}
    for i, names in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        where |= dict.fromkeys(names, file)
        _write_shard(out / file, {name: shapes[name] for name in names}, seed=i)
    total = sum(2 * math.prod(shape) for shape in shapes.values())
    _write_json(
        out / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where}
    )


def _write_shard(path: Path, shapes: dict[str, Shape], seed: int) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    jobs = list(_jobs(shapes, seed))
    with path.open("wb") as file, ThreadPoolExecutor() as pool:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, len(jobs), 16):  # a bounded number of chunks in memory
            for values in pool.map(_draw, jobs[start : start + 16]):
                file.write(values)


def _jobs(shapes: dict[str, Shape], seed: int) -> Iterator[tuple[str, int, int, tuple[int, int]]]:
    """Name, fan-in, count and seed of each chunk."""
    n_jobs = 0
    for name, shape in shapes.items():
        count = math.prod(shape)
        for start in range(0, count, CHUNK):
            yield name, (shape or (1,))[-1], min(CHUNK, count - start), (seed, n_jobs)
            n_jobs += 1


def _draw(job: tuple[str, int, int, tuple[int, int]]) -> bytes:
    name, fan_in, count, seed = job
    values = np.random.default_rng(seed).standard_normal(count, dtype=np.float32)
    if "norm" in name or name.endswith(("layer_scalar", "per_dim_scale", "_max")):
        values = values * np.float32(0.05) + np.float32(0.35 if "q_norm" in name or "k_norm" in name else 0.8)
    elif name.endswith("_min"):
        values = values * np.float32(0.05) - np.float32(0.8)
    else:
        values *= np.float32(1 / math.sqrt(fan_in))
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def _pair(merge: str) -> list[str]:
    """A merge is two tokens with a space between; a token may be a space, but holds none otherwise."""
    at = merge.index(" ", 1)
    return [merge[:at], merge[at + 1 :]]


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
