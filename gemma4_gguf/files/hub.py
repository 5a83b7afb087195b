"""Hub ids: the files of a repository that conversion or a session reads, and their local paths.

Fetching them is the task of `gemma4_gguf.files.download`.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from gemma4_gguf.errors import Gemma4Error, GGUFError, HubError
from gemma4_gguf.files.download import Listing, Repo, fetch, list_files, open_repo
from gemma4_gguf.files.quant_types import read_name
from gemma4_gguf.options import DownloadProgress, HubOptions, hub_options

DEFAULT_QUANT = "Q4_K_M"
HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*?)(?::(?P<tag>[\w./-]+))?")

CONFIG_FILES = re.compile(
    r"(config|generation_config|processor_config|preprocessor_config|video_preprocessor_config|"
    r"added_tokens|special_tokens_map|chat_template)\.json|chat_template.*\.jinja|tokenizer.*\.(json|model)|"
    r"additional_chat_templates/[^/]+\.jinja|README\.md"
)
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# What can be nothing but a path: its beginning, more than one slash, or its ending.
_LOCAL = re.compile(r"^(/|\.{1,2}[/\\]|~|[A-Za-z]:[/\\])|/.*/|\\|\.(gguf|safetensors|json)$", re.IGNORECASE)
_DEFAULTS = HubOptions()


@dataclass(frozen=True)
class HubId:
    """A repository on the hub and what is wanted of it.

    Args:
        repo: "organisation/name".
        tag: what follows the colon: a quantization or the name of a file; None without one.
    """

    repo: str
    tag: str | None = None


@dataclass(frozen=True)
class GGUFFiles:
    """A downloaded model and, where the repository has one, its projector."""

    model: Path
    projector: Path | None


def locate(source: str | Path, *, missing: type[Gemma4Error] = GGUFError) -> Path | HubId:
    """Tell a local path from a hub id: what exists on disk wins, then "organisation/name" is an id.

    Args:
        source: a path, or "organisation/name" with an optional ":tag".
        missing: what to raise for a path with nothing there.

    Returns:
        An existing path, or the parsed id.

    Raises:
        GGUFError: it can only be a path, and nothing is there.
        HubError: it is neither a path nor an id.
    """
    path = Path(os.path.expanduser(source))  # noqa: PTH111  Path.expanduser raises for unknown users
    if os.path.exists(path):  # noqa: PTH110  Path.exists raises for names that are too long
        return path
    if isinstance(source, Path) or _LOCAL.search(source):
        raise missing(_why_missing(path))
    match = HUB_ID.fullmatch(source)
    if match is None:
        raise HubError(
            f"{source:.200}: as a path it does not exist, and as a hub id it is malformed. "
            'Expected an existing file or directory, or "organisation/name" such as "google/gemma-4-E2B-it".'
        )
    return HubId(match["repo"], match["tag"])


def _why_missing(path: Path) -> str:
    try:
        path.lstat()
        return f"{path} is a link that leads nowhere. It points to {path.readlink()}."
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        return f"{path!s:.200} is no path: {why}. Give that of an existing file or directory."
    above = next((parent for parent in path.parents if parent.exists()), Path())
    if above != path.parent:
        return f"{path} does not exist: {above} has no {path.relative_to(above).parts[0]}."
    there = sorted(one.name for one in above.glob("*.gguf"))
    others = f" The directory has {', '.join(there[:3])}{', …' if len(there) > 3 else ''}." if there else ""
    return f"{path} does not exist.{others} Give the path of an existing file or directory."


def pull(hub_id: str, **options: Any) -> Path:
    """Download a model of the hub, without opening it, into the cache that all Hugging Face tools share.

    Files that are there already are kept, an interrupted one goes on where it stopped; without a network a
    complete earlier download is used.

    Args:
        hub_id: "organisation/name" with an optional ":tag", which names a quantization or a GGUF file.
        options: fields of `HubOptions`: revision, token, cache_dir, endpoint, progress.

    Returns:
        The directory of a checkpoint; of a repository with GGUF files, or with a tag, the model file, which
        has its projector beside it.

    Raises:
        HubError: the id is malformed; the repository, its revision or the quantization is unknown, closed,
            unreachable or ambiguous.
        OptionError: there is no such option.
        OutputError: the disk has no room.

    Example:
        >>> convert_checkpoint(pull("google/gemma-4-E2B-it"), "models")
    """
    found = resolve(hub_id, hub_options(options))
    return found.model if isinstance(found, GGUFFiles) else found


def resolve(hub_id: str, options: HubOptions = _DEFAULTS) -> Path | GGUFFiles:
    """Download whatever a repository holds: a checkpoint, or with a tag or without safetensors GGUF files.

    Args:
        hub_id: "organisation/name" with an optional ":tag".
        options: where to ask and where to store.

    Returns:
        The directory of a checkpoint, or GGUF files.

    Raises:
        HubError: as for `resolve_checkpoint` and `resolve_gguf`.
        OutputError: the disk has no room.
    """
    source = _parse(hub_id, '"organisation/name" or "organisation/name:Q4_K_M"')
    repo, listing = _list(source, options)
    has_gguf = any(name.endswith(".gguf") for name in listing.files)
    has_weights = any(name.endswith(".safetensors") for name in listing.files)
    if source.tag or (has_gguf and not has_weights):
        return _fetch_gguf(repo, listing, source.tag, options.progress)
    return _fetch_checkpoint(repo, listing, options.progress)


def resolve_checkpoint(repo_id: str, options: HubOptions = _DEFAULTS) -> Path:
    """Download what conversion reads of a checkpoint: configuration, tokenizer, template, safetensors.

    Args:
        repo_id: "organisation/name".
        options: where to ask and where to store.

    Returns:
        The directory with the files.

    Raises:
        HubError: the repository or revision is unknown, closed, unreachable, or holds no checkpoint.
        OutputError: the disk has no room.
    """
    source = _parse(repo_id, '"organisation/name"')
    if source.tag:
        raise HubError(f'{repo_id!r} names a GGUF file. Expected a checkpoint: "{source.repo}".')
    return _fetch_checkpoint(*_list(source, options), options.progress)


def resolve_gguf(hub_id: str, options: HubOptions = _DEFAULTS) -> GGUFFiles:
    """Download one quantization of a GGUF repository, and its projector.

    Args:
        hub_id: "organisation/name:Q4_K_M", or the name of a file after the colon. Without a tag the only
            model of the repository, else its Q4_K_M, is taken.
        options: where to ask and where to store.

    Returns:
        Model and projector; of several projectors the BF16 one, then F16, F32, Q8_0.

    Raises:
        HubError: the repository, revision or quantization is unknown, closed, unreachable, ambiguous or in
            parts.
        OutputError: the disk has no room.
    """
    source = _parse(hub_id, '"organisation/name:QUANTIZATION"')
    repo, listing = _list(source, options)
    return _fetch_gguf(repo, listing, source.tag, options.progress)


def find_files(
    model: str | Path, projector: str | Path | None, options: HubOptions = _DEFAULTS
) -> tuple[Path, str | Path | None]:
    """Local files; what is on the hub is downloaded, its projector with it.

    Args:
        model: path or hub id.
        projector: path, None for none, or "auto", which takes that of the repository.
        options: where to ask and where to store.

    Returns:
        The model's path, and the projector's or what was given.

    Raises:
        GGUFError: the model is a path, and nothing is there.
        HubError: the model is neither a path nor an id, or as for `resolve_gguf`.
        OutputError: the disk has no room.
    """
    found = locate(model)
    if not isinstance(found, HubId):
        return found, projector
    files = resolve_gguf(str(model), options)
    if projector == "auto" and files.projector is not None:
        projector = files.projector
    return files.model, projector


def _parse(text: str, expected: str) -> HubId:
    match = HUB_ID.fullmatch(text)
    if match is None:
        raise HubError(f"{text!r} is no hub id. Expected {expected}.")
    return HubId(match["repo"], match["tag"])


def _list(source: HubId, options: HubOptions) -> tuple[Repo, Listing]:
    repo = open_repo(source.repo, options)
    return repo, list_files(repo)


def _fetch_checkpoint(repo: Repo, listing: Listing, progress: DownloadProgress | None) -> Path:
    files = listing.files
    if "config.json" not in files:
        _refuse_checkpoint(repo, list(files))
    names = sorted(name for name in files if CONFIG_FILES.fullmatch(name))
    if INDEX in files and WHOLE not in files:
        root = fetch(repo, listing.commit, [files[INDEX]])
        names += [INDEX, *_shards(repo, root / INDEX)]
    else:
        names += pick_weights(list(files)) or _refuse_checkpoint(repo, list(files))
    missing = [name for name in names if name not in files]
    if missing:
        raise HubError(
            f"{repo.id} is incomplete: {INDEX} names {missing[0]}, which is not there ({len(missing)} "
            "missing in all). Try another revision, or download it again with a network."
        )
    return fetch(repo, listing.commit, [files[name] for name in names], progress)


def _fetch_gguf(
    repo: Repo, listing: Listing, tag: str | None, progress: DownloadProgress | None
) -> GGUFFiles:
    names = sorted(listing.files)
    model = pick_model(repo.id, names, tag)
    projector = pick_projector(names, beside=model)
    wanted = [listing.files[name] for name in (model, projector) if name is not None]
    root = fetch(repo, listing.commit, wanted, progress)
    return GGUFFiles(root / model, root / projector if projector else None)


def pick_model(repo_id: str, names: list[str], tag: str | None) -> str:
    """Choose the model file that a tag means.

    Args:
        repo_id: for the messages.
        names: every file of the repository.
        tag: a quantization (case does not matter), a file name, or None.

    Returns:
        One of `names`.

    Raises:
        HubError: nothing or more than one fits, or it comes in parts; the message lists what there is.
    """
    models = [n for n in names if n.lower().endswith(".gguf") and not read_name(n).is_projector]
    if not models:
        hint = f" It is a checkpoint: gemma4-gguf convert {repo_id} -o DIR" if "config.json" in names else ""
        raise HubError(f"{repo_id} holds no GGUF model.{hint}")
    quants = {name: read_name(name).quant for name in models}
    known = sorted({quant or name for name, quant in quants.items()})
    if tag is None:
        found = models if len(models) == 1 else [n for n in models if quants[n] == DEFAULT_QUANT]
    else:
        found = [n for n in models if tag.upper() == quants[n] or tag in (n, Path(n).name)]
    if not found:
        asked = f"no {tag}" if tag else f"several models and no {DEFAULT_QUANT}"
        raise HubError(f'{repo_id} has {asked}. Say which as "{repo_id}:TAG", of: {", ".join(known)}.')
    if read_name(found[0]).is_part:
        raise HubError(
            f"{found[0]} of {repo_id} is one of {len(found)} parts, which this library does not read. "
            f"Join them with llama.cpp's llama-gguf-split --merge, or take another of: {', '.join(known)}."
        )
    if len(found) > 1:
        raise HubError(
            f"{repo_id} has {len(found)} files for {tag or DEFAULT_QUANT}: {', '.join(found)}. "
            f'Say which by its file name: "{repo_id}:{Path(found[0]).name}".'
        )
    return found[0]


def pick_projector(names: list[str], *, beside: str) -> str | None:
    """Chooses the projector for a model: of its own folder first, then by type.

    Args:
        names: every file of the repository.
        beside: name of the model file.

    Returns:
        One of `names`; None without a projector.
    """
    folder = Path(beside).parent
    found = [n for n in names if n.lower().endswith(".gguf") and read_name(n).is_projector]
    found.sort(key=lambda n: (Path(n).parent != folder, read_name(n).projector_rank, n))
    return found[0] if found else None


def pick_weights(names: list[str]) -> list[str]:
    """The safetensors files of a checkpoint without an index.

    Args:
        names: every file of the repository.

    Returns:
        model.safetensors alone, else all but adapters, sorted.
    """
    if WHOLE in names:
        return [WHOLE]
    return sorted(
        n for n in names if n.endswith(".safetensors") and "/" not in n and not n.startswith("adapter")
    )


def _shards(repo: Repo, index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise HubError(f"{INDEX} of {repo.id} is no index of weights. Try another revision.") from error


def _refuse_checkpoint(repo: Repo, names: list[str]) -> NoReturn:
    """Say what the repository is instead."""
    endings = {name.rpartition(".")[2] for name in names}
    if "gguf" in endings:
        way_out = f"It holds GGUF files, which need no conversion: gemma4-gguf chat {repo.id}"
    elif "adapter_config.json" in names:
        way_out = "It is an adapter: merge it into its base model (peft's merge_and_unload) and convert that."
    elif "bin" in endings:
        way_out = "Its weights are .bin files: transformers' save_pretrained writes them as safetensors."
    else:
        way_out = "Expected config.json and *.safetensors."
    raise HubError(f"{repo.id} is no checkpoint to convert. {way_out}")
