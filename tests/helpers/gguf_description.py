"""A GGUF file as comparable values: metadata keys with their types, tensors with their hashes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf

LONG_ARRAY = 64


def describe(path: Path) -> dict[str, Any]:
    """Describe a GGUF file.

    Returns:
        {"metadata": {key: [type, value]}, "tensors": {name: [type, shape, sha256 prefix]}}, in file order;
        shapes in ggml order, fastest dimension first. Arrays of more than 64 items are given by length and
        hash.
    """
    reader = gguf.GGUFReader(path)
    metadata = {
        key: _value(field) for key, field in reader.fields.items() if not key.startswith("GGUF.")
    }  # GGUF.* are the header's own counts
    tensors = {
        tensor.name: [
            tensor.tensor_type.name,
            [int(size) for size in tensor.shape],
            hashlib.sha256(tensor.data.tobytes()).hexdigest()[:16],
        ]
        for tensor in reader.tensors
    }
    return {"metadata": metadata, "tensors": tensors}


def _value(field: gguf.ReaderField) -> list[Any]:
    kind = field.types[0].name
    value = field.contents()
    if kind == "ARRAY":
        kind = f"ARRAY[{field.types[-1].name}]"
        if len(value) > LONG_ARRAY:
            text = json.dumps(value, ensure_ascii=False)
            value = {"length": len(value), "sha256": hashlib.sha256(text.encode()).hexdigest()[:16]}
    return [kind, value]
