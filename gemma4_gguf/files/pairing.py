"""Projector pairing: whether a projector belongs to a model, and which one in its directory does.

A projector of another model gives fluent hallucination instead of an error, so widths and types are compared
before llama.cpp opens either file.
"""

from __future__ import annotations

import logging
from pathlib import Path

from gemma4_gguf.errors import GGUFError, PairingError
from gemma4_gguf.files.model_file import ModelFacts
from gemma4_gguf.files.projector_file import ProjectorFacts, check_projector
from gemma4_gguf.files.quant_types import read_name

_log = logging.getLogger(__name__)
_NONE_BESIDE = "Put the mmproj file of the model beside it, or pass it as projector=."
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


def find_projector(model: ModelFacts) -> tuple[ProjectorFacts | None, str]:
    """Finds the projector that lies beside a model (its file name contains "mmproj").

    Of those that fit by what they hold, the one named like the model is taken. Text needs none, so that a
    directory without one that is certain is no error.

    Args:
        model: facts of the model file.

    Returns:
        The one that belongs to it, or None and why, in a sentence.
    """
    misfits, fitting = [], []
    for path in _projector_paths(model.path.parent):
        try:
            facts = check_projector(path)
            check_pair(model, facts)
            fitting.append(facts)
        except GGUFError as error:
            misfits.append(str(error))
    named = [facts for facts in fitting if _model_name(facts.path) == _model_name(model.path)]
    candidates = named or fitting
    if len({_model_name(facts.path) for facts in candidates}) > 1:
        listed = ", ".join(facts.path.name for facts in candidates)
        return None, f"Several beside it fit: {listed}. Say which with projector=."
    if candidates:
        return min(candidates, key=lambda facts: (read_name(facts.path).projector_rank, facts.path.name)), ""
    return None, misfits[0] if misfits else _NONE_BESIDE


def _projector_paths(folder: Path) -> list[Path]:
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".gguf")
    except OSError:  # a directory that may be entered but not listed
        return []
    return [path for path in files if read_name(path).is_projector]


def _model_name(path: Path) -> str:
    return read_name(path).model.lower()


def paired_projector(model: ModelFacts, projector: str | Path | None) -> tuple[ProjectorFacts | None, str]:
    """The projector that a session was told to use.

    Args:
        model: facts of the model file.
        projector: its path; "auto" takes the one beside the model, None goes without.

    Returns:
        Its facts, or None and why, in a sentence.

    Raises:
        GGUFError: the file that was named is damaged or no projector.
        PairingError: it belongs to another model.
    """
    if projector is None:
        return None, _NONE_BESIDE
    if projector == "auto":
        facts, why_none = find_projector(model)
        if why_none and why_none != _NONE_BESIDE:
            _log.warning("%s is opened for text only: %s", model.path, why_none)
        return facts, why_none
    facts = check_projector(projector)
    check_pair(model, facts)
    return facts, ""
