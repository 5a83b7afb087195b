"""Model and projector: does this projector belong to that model, and which of those in a directory does?

A projector of another model gives fluent hallucination instead of an error, so widths and types are compared
before llama.cpp opens either file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gemma4_gguf.convert.reader import open_gguf, require_gemma4
from gemma4_gguf.engine.checks import CONVERT_AGAIN, ModelFacts
from gemma4_gguf.errors import GGUFError, PairingError

_VISION_TYPES, _AUDIO_TYPES = ("gemma4v", "gemma4uv"), ("gemma4a", "gemma4ua")
_UNIFIED_TYPES = ("gemma4uv", "gemma4ua")
_PROJECTOR_RANK = ("BF16", "F16", "F32", "Q8_0")  # the audio tower wants BF16
_TYPE_SUFFIX = re.compile(r"[-_.]((UD-)?I?Q\d\w*|TQ\d_\d|MXFP4\w*|NVFP4|BF16|F16|F32)$", re.I)


@dataclass(frozen=True)
class ProjectorFacts:
    """What a projector file can do and what it fits.

    Args:
        path: the file.
        types: projector types inside, such as ("gemma4v", "gemma4a").
        width: of the embeddings it makes.
        has_vision: it takes pictures.
        has_audio: it takes sounds.
    """

    path: Path
    types: tuple[str, ...]
    width: int
    has_vision: bool
    has_audio: bool


def check_projector(path: str | Path) -> ProjectorFacts:
    """Checks a projector file by itself.

    Raises:
        GGUFError: it is damaged, not a Gemma 4 projector, or contradicts itself.
    """
    file = open_gguf(path)
    if require_gemma4(file) != "projector":
        raise GGUFError(f"{file.path} is a model, not a projector (mmproj-….gguf).")
    metadata = file.metadata
    found = {}
    for modality, known in (("vision", _VISION_TYPES), ("audio", _AUDIO_TYPES)):
        if not metadata.get(f"clip.has_{modality}_encoder", False):
            continue
        kind = metadata.get(f"clip.{modality}.projector_type", metadata.get("clip.projector_type"))
        if kind not in known:
            raise GGUFError(f"{path}: its {modality} part is {kind!r}; expected one of {', '.join(known)}.")
        width = metadata.get(f"clip.{modality}.projection_dim")
        if not isinstance(width, int) or width < 1:
            raise GGUFError(f"{path}: clip.{modality}.projection_dim is {width!r}. {CONVERT_AGAIN}")
        found[modality] = (str(kind), width)
    widths = {width for _, width in found.values()}
    if len(widths) != 1:
        raise GGUFError(
            f"{path}: widths of its parts: {sorted(widths) or 'none'}; expected one. {CONVERT_AGAIN}"
        )
    return ProjectorFacts(
        path=file.path,
        types=tuple(kind for kind, _ in found.values()),
        width=widths.pop(),
        has_vision="vision" in found,
        has_audio="audio" in found,
    )


def check_pair(model: ModelFacts, projector: ProjectorFacts) -> None:
    """Checks that a projector belongs to a model: a wrong one makes the model see things that are not there.

    Raises:
        PairingError: widths differ, or the encoder-free projector of the 12B meets an E2B or E4B.
    """
    way_out = "Pass the projector made from the same checkpoint, or projector=None for text only."
    if projector.width != model.n_embd:
        raise PairingError(
            f"{projector.path.name} makes embeddings of width {projector.width}; {model.path.name} takes "
            f"{model.n_embd}. {way_out}"
        )
    unified = [kind for kind in projector.types if kind in _UNIFIED_TYPES]
    if unified and model.ple_width:
        raise PairingError(
            f"{projector.path.name} is of type {', '.join(unified)}, made for the 12B; {model.path.name} has "
            f"per-layer embeddings, so it is an E2B or E4B. {way_out}"
        )


def find_projector(model: ModelFacts) -> ProjectorFacts | None:
    """Finds the projector that lies beside a model (its file name contains "mmproj").

    Args:
        model: facts of the model file.

    Returns:
        The one that belongs to it; None when there is none in the directory.

    Raises:
        GGUFError: the only candidate is damaged.
        PairingError: the only candidate belongs to another model, or several fit and none by name.
    """
    folder = model.path.parent
    paths = sorted(p for p in folder.glob("*.gguf") if "mmproj" in p.name.lower())
    named = [p for p in paths if _base_name(p) == _base_name(model.path)]
    candidates = named or paths
    if not candidates:
        return None
    if len(candidates) > 1:
        candidates = [p for p in candidates if _fits(model, p)] or candidates
    if len({_base_name(p) for p in candidates}) > 1:
        listed = ", ".join(p.name for p in candidates)
        raise PairingError(
            f"{folder} holds several projectors for {model.path.name}: {listed}. Say which with projector=."
        )
    facts = check_projector(min(candidates, key=_rank))
    check_pair(model, facts)
    return facts


def _fits(model: ModelFacts, path: Path) -> bool:
    try:
        check_pair(model, check_projector(path))
    except GGUFError:
        return False
    return True


def _base_name(path: Path) -> str:
    """Name of the model a file belongs to: without mmproj and the quantization."""
    stem = re.sub(r"(^mmproj[-_.]?)|([-_.]?mmproj)", "", path.stem, flags=re.I)
    return _TYPE_SUFFIX.sub("", stem).lower()


def _rank(path: Path) -> tuple[int, str]:
    match = _TYPE_SUFFIX.search(path.stem)
    kind = match[1].upper() if match else ""
    return (_PROJECTOR_RANK.index(kind) if kind in _PROJECTOR_RANK else len(_PROJECTOR_RANK), path.name)
