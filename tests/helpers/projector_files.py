"""Projector files with something changed: what no converter writes, but a disk or a tool may."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np


def rewrite(
    source: Path,
    target: Path,
    *,
    keys: dict[str, Any] | None = None,
    tensors: Callable[[str, np.ndarray], np.ndarray | None] = lambda _, values: values,
) -> Path:
    """A projector file with other metadata or other tensors; None leaves one out."""
    reader, changes = gguf.GGUFReader(source), dict(keys or {})
    writer = gguf.GGUFWriter(target, "clip")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        value = changes.pop(field.name, field.contents())
        if value is not None:
            item = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, value, kind, item)
    for key, value in changes.items():
        if value is None:
            continue
        writer.add_bool(key, value) if isinstance(value, bool) else writer.add_uint32(key, value)
    for tensor in reader.tensors:
        values = tensors(tensor.name, np.array(tensor.data))
        if values is not None:
            writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
