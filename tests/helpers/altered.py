"""Copies of GGUF files with some metadata changed, to see what is made of bad ones."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gemma4_gguf.files.gguf_reader import open_gguf

_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


def altered(source: Path, target: Path, changes: Mapping[str, Any]) -> Path:
    """Copy a file with other metadata.

    Args:
        source: a sound file.
        target: where the copy goes.
        changes: key to value: int (uint32), bool, float, str, or a list of one of these (int32 for ints);
            None drops the key.

    Returns: target.
    """
    file = open_gguf(source)
    data = source.read_bytes()
    fields = {key: file.metadata.raw(key) for key in file.metadata}
    header_end = max(data.index(raw) + len(raw) for raw in fields.values())
    infos = data[header_end : _infos_end(data, header_end, len(file.tensors))]
    for key, value in changes.items():
        fields.pop(key, None)
        if value is not None:
            fields[key] = _text(key) + _value(value)
    out = b"GGUF" + struct.pack("<IQQ", 3, len(file.tensors), len(fields)) + b"".join(fields.values()) + infos
    out += bytes(-len(out) % file.alignment)
    target.write_bytes(out + data[file.data_offset :])
    return target


def _infos_end(data: bytes, at: int, n_tensors: int) -> int:
    for _ in range(n_tensors):
        at += 8 + struct.unpack_from("<Q", data, at)[0]
        at += 4 + 8 * struct.unpack_from("<I", data, at)[0] + 4 + 8
    return at


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    if isinstance(value, list):
        kind = _kind(value[0])
        kind = _INT32 if kind == _UINT32 else kind
        return struct.pack("<IIQ", _ARRAY, kind, len(value)) + b"".join(_bare(item, kind) for item in value)
    kind = _kind(value)
    return struct.pack("<I", kind) + _bare(value, kind)


def _kind(value: Any) -> int:
    kinds = {bool: _BOOL, int: _UINT32, float: _FLOAT32, str: _STRING}
    return kinds[type(value)]


def _bare(value: Any, kind: int) -> bytes:
    if kind == _STRING:
        return _text(value)
    return struct.pack({_BOOL: "<?", _INT32: "<i", _UINT32: "<I", _FLOAT32: "<f"}[kind], value)
