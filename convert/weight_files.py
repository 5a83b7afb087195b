"""Weight files: which safetensors files of a directory hold the model, complete or refused.

transformers' order: model.safetensors alone, then the shards of the index, and where there is no index those
whose names number them. What else lies there (optimizer states, adapters, consolidated.safetensors) is left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gemma4_gguf.convert.json_section import shown
from gemma4_gguf.convert.safetensors import SourceTensor, read_header
from gemma4_gguf.errors import CheckpointError
from gemma4_gguf.files.source_files import SourceFiles

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{1,9})-of-(?P<total>\d{1,9})")
_NO_WEIGHTS = re.compile(r"(adapter|optimizer|scheduler|training|random_states|imatrix)", re.IGNORECASE)


def read_weights(
    directory: Path, index: Mapping[str, Any] | None, files: SourceFiles
) -> tuple[dict[str, SourceTensor], tuple[str, ...]]:
    """The tensors of a checkpoint, and which files beside them were left.

    Args:
        directory: of the checkpoint.
        index: the parsed index, None without one.
        files: what opens them.

    Returns:
        Tensors by stored name, shards in order, names sorted within a shard; and names of weight files that
        were not read.

    Raises:
        CheckpointError: no weights, a missing shard, a damaged file, or a tensor that is there twice.
    """
    chosen = _chosen(directory, index)
    tensors: dict[str, SourceTensor] = {}
    for path, expected in chosen.items():
        found = read_header(path, files)
        if expected is not None:
            _compare_with_index(path, expected, found)
        for name, tensor in sorted(found.items()):
            if name in tensors:
                other = tensors[name].path.name
                raise CheckpointError(f"{name} is in {other} and again in {path.name}. Remove one shard set.")
            tensors[name] = tensor
    if not tensors:
        raise CheckpointError(
            f"{directory}: the safetensors files hold no tensor. Download the checkpoint again."
        )
    left = [path.name for path in _candidates(directory) if path not in chosen]
    return tensors, tuple(left)


def _chosen(directory: Path, index: Mapping[str, Any] | None) -> Mapping[Path, set[str] | None]:
    """Each file in reading order, with the tensor names that the index, if any, places there."""
    whole = directory / WHOLE
    places = index.get("weight_map") if index is not None else None
    if whole.exists() and not (isinstance(places, dict) and WHOLE in places.values()):
        return {whole: None}
    if index is not None:
        indexed = _placed(directory, index)
        _require_all(directory, indexed)
        return dict(indexed)
    files = sorted(_candidates(directory))
    named = [path for path in files if path.name.startswith("model")] or files
    if not named:
        raise _no_weights(directory)
    shards = [path for path in named if _SHARD.fullmatch(path.stem)]
    if shards:
        _check_shard_count(shards)
        return dict.fromkeys(shards)
    if len(named) > 1 and named is files:
        raise CheckpointError(
            f"{directory} has {len(named)} weight files and nothing that says which belong together: "
            f"{first_names([path.name for path in named])}. Name the right one {WHOLE}."
        )
    return dict.fromkeys(named)


def _candidates(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.glob("*.safetensors")) if not _NO_WEIGHTS.match(path.name))


def _placed(directory: Path, index: Mapping[str, Any]) -> dict[Path, set[str]]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{directory / INDEX} has no weight_map. Download the checkpoint again.")
    placed: dict[str, set[str]] = {}
    for name, file in weight_map.items():
        placed.setdefault(str(file), set()).add(name)
    for file in placed:
        if Path(file).name != file or not file.isprintable():
            raise CheckpointError(
                f"{directory / INDEX} names {file!r:.200}, which is not a file of this directory."
            )
    return {directory / file: placed[file] for file in sorted(placed)}


def _require_all(directory: Path, indexed: Mapping[Path, set[str]]) -> None:
    missing = [path.name for path in indexed if not path.exists()]
    if missing:
        raise CheckpointError(
            f"{directory}: {len(missing)} of {len(indexed)} shards named by {INDEX} are missing: "
            f"{first_names(missing)}. Download them."
        )


def _check_shard_count(files: list[Path]) -> None:
    """Without an index, the names model-0000i-of-0000n must be complete and alone."""
    found = [match for path in files if (match := _SHARD.fullmatch(path.stem))]
    sets = {(match["stem"], int(match["total"])) for match in found}
    numbers = {int(match["number"]) for match in found}
    total = next(iter(sets))[1]
    if len(sets) > 1 or len(files) != total or numbers != set(range(1, total + 1)):
        raise CheckpointError(
            f"{files[0].parent}: found {first_names([path.name for path in files])}, "
            f"which is no complete set of shards. Download the missing ones, and {INDEX}."
        )


def _compare_with_index(path: Path, expected: set[str], found: Mapping[str, SourceTensor]) -> None:
    if missing := sorted(expected - set(found)):
        raise CheckpointError(
            f"{path} lacks {len(missing)} tensors that {INDEX} places there: {first_names(missing)}. "
            "Download it again."
        )
    if extra := sorted(set(found) - expected):
        raise CheckpointError(
            f"{path} holds {len(extra)} tensors that {INDEX} does not place there: {first_names(extra)}. "
            "The index belongs to other files."
        )


def _no_weights(directory: Path) -> CheckpointError:
    if any(directory.glob("adapter_*")):
        return CheckpointError(
            f"{directory} holds a LoRA adapter, not a model. Merge it into its base model "
            "(peft: merge_and_unload) and convert the result."
        )
    for pattern, what in (("*.bin", "PyTorch .bin"), ("*.pth", "PyTorch .pth"), ("*.gguf", "GGUF")):
        if any(directory.glob(pattern)):
            return CheckpointError(
                f"{directory} has {what} files but no model*.safetensors. "
                "Save the model again with safetensors (save_pretrained does by default)."
            )
    return CheckpointError(f"{directory} has no weights: expected {WHOLE} or {INDEX} with its shards.")


def first_names(names: list[str], most: int = 3) -> str:
    """The first of some names, for a message; "…" stands for the others."""
    return ", ".join(map(shown, names[:most])) + (", …" if len(names) > most else "")
