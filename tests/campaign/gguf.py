"""Damaged models and projectors: opened, and asked about a picture where they have eyes."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tiny

from gemma4_gguf import Image, Session
from gemma4_gguf.convert import convert_checkpoint
from gemma4_gguf.files.gguf_header import ALIGNMENT, SCALARS
from gemma4_gguf.files.gguf_reader import open_gguf

COUNT = 2000
MEMBERS = ("e2b", "26b", "12b")
WHOLE = (0, 1, 2, 3, 5, 7, 31, 33, 255, 256, 4096, 2**15, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
NUMBERS = (0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, -1e-6, float("nan"), float("inf"), float("-inf"))
TEXTS = ("", "\0", "gemma4", "llama", "yarn", "none", "x" * 5000, "ä", "[EMPTY_0]", "a b", "\n", "<|turn>")
_IDS = {name: kind for kind, (name, _) in SCALARS.items()} | {"STRING": 8}
TYPE_NUMBERS = (*range(0, 42), 99)


@dataclass
class Parts:
    """A file taken apart: entries by key, tensor entries, data."""

    fields: dict[str, bytes]
    tensors: list[list[Any]]  # name, shape (ggml order), type, offset
    data: bytes
    counts: list[int]
    alignment: int = ALIGNMENT

    def packed(self) -> bytes:
        infos = b"".join(
            _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
            for name, shape, kind, offset in self.tensors
        )
        head = b"GGUF" + struct.pack("<IQQ", 3, *self.counts) + b"".join(self.fields.values()) + infos
        return head + bytes(-len(head) % max(1, self.alignment)) + self.data


def prepare(folder: Path) -> list[tuple[Path, Path]]:
    """A tiny model and its projector of several members, sound ones."""
    made = []
    for member in MEMBERS:
        files = convert_checkpoint(
            tiny.write_checkpoint(member, folder / member), folder / f"{member}-gguf", "Q4_K_M", "BF16"
        )
        assert files.projector is not None
        made.append((files.model, files.projector))
    return made


def attempt(case: int, shared: list[tuple[Path, Path]], folder: Path) -> str:
    """Changes one or two things in one of the files, opens both and asks."""
    rng = random.Random(case)
    model, projector = shared[case % len(shared)]
    damaged = rng.random() < 0.35
    source = projector if damaged else model
    target = folder / source.name
    target.write_bytes(_damage(source, rng))
    if damaged:
        projector = target
    else:
        model = target
    with Session(model, projector=projector, device="cpu", n_ctx=256, n_threads=1) as session:
        parts: list[Any] = ["Hi"]
        if session.has_vision:
            pixels = np.random.default_rng(case).integers(0, 255, (96, 144, 3), np.uint8)
            from PIL import Image as PILImage

            parts.insert(0, Image(PILImage.fromarray(pixels), image_tokens=70))
        session.ask(*parts, max_tokens=2)
        if session.has_audio:
            session.engine.projector.encode_audio(np.zeros(8000, np.float32))  # type: ignore[union-attr]
    return "answered"


def _damage(source: Path, rng: random.Random) -> bytes:
    if rng.random() < 0.1:  # the bytes themselves
        data = bytearray(source.read_bytes())
        end = open_gguf(source).data_offset
        for _ in range(rng.choice((1, 1, 3, 20))):
            at = rng.randrange(end if rng.random() < 0.7 else len(data))
            data[at] = rng.randrange(256)
        return bytes(data[: rng.randrange(len(data))] if rng.random() < 0.2 else data)
    parts = _take_apart(source)
    for _ in range(rng.choice((1, 1, 1, 2))):
        rng.choice(_CHANGES)(parts, rng)
    return parts.packed()


def _take_apart(source: Path) -> Parts:
    file = open_gguf(source)
    tensors = [
        [info.name, list(reversed(info.shape)), _ggml_type(info.type), info.offset - file.data_offset]
        for info in file.tensors.values()
    ]
    fields = {key: file.metadata.raw(key) for key in file.metadata}
    data = source.read_bytes()[file.data_offset :]
    return Parts(fields, tensors, data, [len(tensors), len(fields)])


def _ggml_type(name: str) -> int:
    from gguf.constants import GGMLQuantizationType

    return int(GGMLQuantizationType[name])


def _change_value(parts: Parts, rng: random.Random) -> None:
    """Another value of the same or another type."""
    key = _key(parts, rng)
    parts.fields[key] = _text(key) + _value(rng)


def _change_same_type(parts: Parts, rng: random.Random) -> None:
    """Another value of the same type; of an array, one item, or its length."""
    key = _key(parts, rng)
    head = len(_text(key))
    raw = parts.fields[key]
    kind = struct.unpack_from("<I", raw, head)[0]
    if kind == 9:
        item, n = struct.unpack_from("<IQ", raw, head + 4)
        if item not in SCALARS or not n:
            return
        width = np.dtype(SCALARS[item][1]).itemsize
        items = [raw[head + 16 + i * width :][:width] for i in range(n)]
        change = rng.random()
        if change < 0.6:
            items[rng.randrange(n)] = _scalar(item, rng)
        elif change < 0.8:
            items = items[: rng.randrange(n)]
        else:
            items += items[: 1 + rng.randrange(n)]
        parts.fields[key] = raw[: head + 8] + struct.pack("<Q", len(items)) + b"".join(items)
    elif kind == 8:
        parts.fields[key] = raw[: head + 4] + _text(rng.choice(TEXTS))
    else:
        parts.fields[key] = raw[: head + 4] + _scalar(kind, rng)


def _change_token(parts: Parts, rng: random.Random) -> None:
    """A text of the vocabulary or of the merges."""
    key = rng.choice(("tokenizer.ggml.tokens", "tokenizer.ggml.merges"))
    if key not in parts.fields:
        return
    raw, at = parts.fields[key], len(_text(key)) + 8
    n = struct.unpack_from("<Q", raw, at)[0]
    texts, position = [], at + 8
    for _ in range(n):
        length = struct.unpack_from("<Q", raw, position)[0]
        texts.append(raw[position + 8 : position + 8 + length])
        position += 8 + length
    i = rng.randrange(n)
    texts[i] = rng.choice(
        (b"", b"a\0b", b"\0", b"\xff", texts[rng.randrange(n)], b"<0xZZ>", b" ", b"[EMPTY_3]")
    )
    body = b"".join(struct.pack("<Q", len(text)) + text for text in texts)
    parts.fields[key] = raw[:at] + struct.pack("<Q", n) + body


def _drop_key(parts: Parts, rng: random.Random) -> None:
    del parts.fields[_key(parts, rng)]
    parts.counts[1] -= 1


def _add_key(parts: Parts, rng: random.Random) -> None:
    """A key that llama.cpp knows and this file lacks, or a key twice."""
    known = (
        *(
            "gemma4.expert_count",
            "gemma4.expert_used_count",
            "gemma4.expert_group_count",
            "general.alignment",
        ),
        *("gemma4.rope.scaling.type", "gemma4.rope.scaling.factor", "gemma4.attention.causal", "split.count"),
        *("gemma4.nextn_predict_layers", "gemma4.pooling_type", "gemma4.embedding_length_out", "split.no"),
        *("gemma4.vocab_size", "clip.use_silu", "clip.use_gelu", "clip.vision.projector.scale_factor"),
        *("clip.vision.attention.head_dim", "clip.vision.attention.head_count_kv", "clip.projector_type"),
        *("clip.vision.feature_layer", "clip.vision.image_grid_pinpoints", "clip.vision.mm_patch_merge_type"),
        *("clip.minicpmv_version", "clip.has_gen_audio_encoder", "tokenizer.ggml.eot_token_id"),
        *(
            "tokenizer.ggml.add_eos_token",
            "tokenizer.ggml.suppress_tokens",
            "gemma4.classifier.output_labels",
        ),
    )
    key = rng.choice(known)
    parts.fields[f"{key} "] = _text(key) + _value(rng)
    parts.counts[1] += 1


def _change_type(parts: Parts, rng: random.Random) -> None:
    """A tensor of another type, in as many bytes as it has, or laid out anew."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    entry = rng.choice(parts.tensors)
    kind = rng.choice(TYPE_NUMBERS)
    known = {int(one): size for one, size in GGML_QUANT_SIZES.items()}
    if kind not in known or rng.random() < 0.2:
        entry[2] = kind
        return
    entry[2] = kind
    pieces, position = [], 0
    for one in parts.tensors:
        block, n_bytes = known.get(one[2], (1, 4))
        size = int(np.prod(one[1], dtype=object)) // block * n_bytes
        piece = parts.data[one[3] : one[3] + size] if one is not entry else rng.randbytes(min(size, 2**24))
        one[3] = position
        pieces.append(piece + bytes(-len(piece) % ALIGNMENT))
        position += len(pieces[-1])
    assert GGMLQuantizationType
    parts.data = b"".join(pieces)


def _change_shape(parts: Parts, rng: random.Random) -> None:
    shape = rng.choice(parts.tensors)[1]
    change = rng.random()
    if change < 0.3:
        shape.reverse()
    elif change < 0.6:
        shape[rng.randrange(len(shape))] = rng.choice(WHOLE)
    elif change < 0.8:
        shape.append(1)
    else:
        shape.pop()


def _change_tensor(parts: Parts, rng: random.Random) -> None:
    """A name, an offset, a tensor that is missing or there twice."""
    one, other = rng.choice(parts.tensors), rng.choice(parts.tensors)
    change = rng.random()
    if change < 0.25:
        one[0], other[0] = other[0], one[0]
    elif change < 0.45:
        one[0] = rng.choice((other[0], "", "x" * 64, "x" * 200, "blk.0.unknown.weight", "ä\0"))
    elif change < 0.65:
        one[3] = rng.choice((0, 1, 32, other[3], 2**40, 2**64 - 32))
    elif change < 0.85:
        parts.tensors.remove(one)
        parts.counts[0] -= 1
    else:
        parts.tensors.append(list(one))
        parts.counts[0] += 1


def _change_weights(parts: Parts, rng: random.Random) -> None:
    """Bytes of the weights: NaN, infinity, anything."""
    _, _, _, offset = rng.choice(parts.tensors)
    data = bytearray(parts.data)
    junk = rng.choice((b"\xff" * 64, b"\0" * 64, struct.pack("<f", float("inf")) * 16, rng.randbytes(64)))
    data[offset : offset + 64] = junk[: max(0, len(data) - offset)]
    parts.data = bytes(data)


def _change_alignment(parts: Parts, rng: random.Random) -> None:
    key = "general.alignment"
    value = rng.choice((1, 8, 16, 64, 128, 4096, 2**20, 0, 33))
    parts.alignment = value
    parts.fields[key] = _text(key) + struct.pack("<II", 4, value)
    parts.counts[1] += 1


def _change_counts(parts: Parts, rng: random.Random) -> None:
    parts.counts[rng.randrange(2)] = rng.choice(
        (0, 1, 2**31, 2**63, parts.counts[0] + 1, parts.counts[1] - 1)
    )


_CHANGES: tuple[Callable[[Parts, random.Random], None], ...] = (
    *(_change_value, _change_same_type, _change_same_type, _change_same_type, _change_token, _drop_key),
    *(_add_key, _add_key, _change_type, _change_type, _change_shape, _change_tensor, _change_weights),
    *(_change_alignment, _change_counts),
)


def _key(parts: Parts, rng: random.Random) -> str:
    keys = [key for key in parts.fields if not key.startswith("general.") or rng.random() < 0.3]
    return rng.choice(keys or list(parts.fields))


def _value(rng: random.Random) -> bytes:
    if rng.random() < 0.25:
        item = rng.choice([*SCALARS, 8])
        n = rng.choice((0, 1, 2, 3, 6, 600))
        body = b"".join(_text(rng.choice(TEXTS)) if item == 8 else _scalar(item, rng) for _ in range(n))
        return struct.pack("<IIQ", 9, item, n) + body
    kind = rng.choice([4, 5, 6, 7, 8, *SCALARS])
    return struct.pack("<I", kind) + (_text(rng.choice(TEXTS)) if kind == 8 else _scalar(kind, rng))


def _scalar(kind: int, rng: random.Random) -> bytes:
    name, dtype = SCALARS[kind]
    if name.startswith("FLOAT"):
        with np.errstate(over="ignore"):
            return np.array(rng.choice(NUMBERS)).astype(dtype).tobytes()
    width = np.dtype(dtype).itemsize
    return (rng.choice(WHOLE) % 256**width).to_bytes(width, "little")


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
