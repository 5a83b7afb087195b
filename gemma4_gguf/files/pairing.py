"""Projector pairing: whether a projector belongs to a model, and which one in its directory does.

A projector of another model gives fluent hallucination instead of an error, so widths and types are compared
before llama.cpp opens either file.
"""

from __future__ import annotations

from pathlib import Path

from gemma4_gguf.errors import GGUFError, PairingError
from gemma4_gguf.files.model_file import ModelFacts
from gemma4_gguf.files.projector_file import ProjectorFacts, check_projector
from gemma4_gguf.files.quant_types import read_name

_UNIFIED_TYPES = ("gemma4uv", "gemma4ua")


def check_pair(model: ModelFacts, projector: ProjectorFacts) -> None:
    """Checks that a projector belongs to a model: a wrong one makes the model see things that are not there.

    Args:
        model: facts of the model file.
        projector: facts of the projector's.

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
    paths = sorted(p for p in folder.glob("*.gguf") if read_name(p).is_projector)
    named = [p for p in paths if _model_name(p) == _model_name(model.path)]
    candidates = named or paths
    if not candidates:
        return None
    if len(candidates) > 1:
        candidates = [p for p in candidates if _fits(model, p)] or candidates
    if len({_model_name(p) for p in candidates}) > 1:
        listed = ", ".join(p.name for p in candidates)
        raise PairingError(
            f"{folder} holds several projectors for {model.path.name}: {listed}. Say which with projector=."
        )
    facts = check_projector(min(candidates, key=lambda p: (read_name(p).projector_rank, p.name)))
    check_pair(model, facts)
    return facts


def _fits(model: ModelFacts, path: Path) -> bool:
    try:
        check_pair(model, check_projector(path))
    except GGUFError:
        return False
    return True


def _model_name(path: Path) -> str:
    return read_name(path).model.lower()


def paired_projector(model: ModelFacts, projector: str | Path | None) -> ProjectorFacts | None:
    """The projector that a session was told to use.

    Args:
        model: facts of the model file.
        projector: its path; "auto" takes the one beside the model, None goes without.

    Returns:
        Its facts; None without one.

    Raises:
        GGUFError: the file is damaged or no projector.
        PairingError: it belongs to another model, or several fit and none by name.
    """
    if projector is None:
        return None
    if projector == "auto":
        return find_projector(model)
    facts = check_projector(projector)
    check_pair(model, facts)
    return facts
