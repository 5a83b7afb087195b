"""Hub ids to local files: which files of a repository conversion or a session reads.

Fetching them is the task of `gemma4_gguf.files.download`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from gemma4_gguf.errors import HubError
from gemma4_gguf.files.download import DownloadProgress, Repo, fetch, list_files, open_repo

DEFAULT_QUANT = "Q4_K_M"
PROJECTOR_TYPES = ("BF16", "F16", "F32", "Q8_0")  # best first: BF16 is what the audio tower wants
HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*?)(?::(?P<tag>[\w./-]+))?")
QUANT_IN_NAME = re.compile(
    r"(?:^|[-_.])((?:UD-)?(?:I?Q[1-8]_\w+|TQ[12]_0|MXFP4\w*|NVFP4|BF16|F16|F32))\.gguf$", re.I
)
SPLIT_IN_NAME = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.I)

CONFIG_FILES = re.compile(
    r"(config|generation_config|processor_config|preprocessor_config|video_preprocessor_config|"
    r"added_tokens|special_tokens_map|chat_template)\.json|chat_template.*\.jinja|tokenizer.*\.(json|model)"
)
INDEX = "model.safetensors.index.json"


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


def locate(source: str | Path) -> Path | HubId:
    """Tell a local path from a hub id: what exists on disk wins, then "organisation/name" is an id.

    Args:
        source: a path, or "organisation/name" with an optional ":tag".

    Returns:
        An existing path, or the parsed id.

    Raises:
        HubError: it is neither.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    match = HUB_ID.fullmatch(str(source))
    if match is None or isinstance(source, Path) or match["repo"].endswith((".gguf", ".safetensors")):
        raise HubError(
            f"{source}: as a path it does not exist, and as a hub id it is malformed. "
            'Expected an existing file or directory, or "organisation/name" such as "google/gemma-4-E2B-it".'
        )
    return HubId(match["repo"], match["tag"])


def resolve(
    source: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: Path | None = None,
    endpoint: str | None = None,
    progress: DownloadProgress | None = None,
) -> dict[str, Path]:
    """Download whatever a repository holds: a checkpoint, or with a tag or without safetensors GGUF files.

    Args:
        source: "organisation/name" with an optional ":tag".
        revision: branch, tag or commit; None takes the main branch.
        token: access token; None takes HF_TOKEN or the stored login.
        cache_dir: None takes the cache that HF_HOME or HF_HUB_CACHE names.
        endpoint: base URL of the hub; None takes HF_ENDPOINT or the public one.
        progress: called as (file, bytes there, bytes in all).

    Returns:
        Paths by kind: "checkpoint", or "model" and, if there is one, "projector".

    Raises:
        HubError: as for `resolve_checkpoint` and `resolve_gguf`.
        OutputError: the disk has no room.
    """
    match = HUB_ID.fullmatch(source)
    if match is None:
        raise HubError(
            f'{source!r} is no hub id. Expected "organisation/name" or "organisation/name:Q4_K_M".'
        )
    repo = open_repo(match["repo"], revision=revision, token=token, cache_dir=cache_dir, endpoint=endpoint)
    names = list_files(repo).files
    where: dict[str, Any] = {
        "revision": revision,
        "token": token,
        "cache_dir": cache_dir,
        "endpoint": endpoint,
        "progress": progress,
    }
    has_gguf = any(name.endswith(".gguf") for name in names)
    has_weights = any(name.endswith(".safetensors") for name in names)
    if match["tag"] or (has_gguf and not has_weights):
        files = resolve_gguf(source, **where)
        return {"model": files.model, **({"projector": files.projector} if files.projector else {})}
    return {"checkpoint": resolve_checkpoint(source, **where)}


def resolve_checkpoint(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: Path | None = None,
    endpoint: str | None = None,
    progress: DownloadProgress | None = None,
) -> Path:
    """Download what conversion reads of a checkpoint: configuration, tokenizer, template, safetensors.

    Files that are there already are kept, an interrupted one goes on where it stopped; without a network a
    complete earlier download is used.

    Args:
        repo_id: "organisation/name".
        revision: branch, tag or commit; None takes the main branch.
        token: access token; None takes HF_TOKEN or the stored login.
        cache_dir: None takes the cache that HF_HOME or HF_HUB_CACHE names.
        endpoint: base URL of the hub; None takes HF_ENDPOINT or the public one.
        progress: called as (file, bytes there, bytes in all).

    Returns:
        The directory with the files.

    Raises:
        HubError: the repository or revision is unknown, closed, unreachable, or holds no checkpoint.
        OutputError: the disk has no room.
    """
    if not HUB_ID.fullmatch(repo_id) or ":" in repo_id:
        raise HubError(f'{repo_id!r} is no hub id of a checkpoint. Expected "organisation/name".')
    repo = open_repo(repo_id, revision=revision, token=token, cache_dir=cache_dir, endpoint=endpoint)
    listing = list_files(repo)
    files = listing.files
    if "config.json" not in files:
        _refuse_checkpoint(repo, list(files))
    names = sorted(name for name in files if CONFIG_FILES.fullmatch(name))
    if INDEX in files:
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


def resolve_gguf(
    hub_id: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: Path | None = None,
    endpoint: str | None = None,
    progress: DownloadProgress | None = None,
) -> GGUFFiles:
    """Download one quantization of a GGUF repository, and its projector.

    Args:
        hub_id: "organisation/name:Q4_K_M", or the name of a file after the colon. Without a tag the only
            model of the repository, else its Q4_K_M, is taken.
        revision: branch, tag or commit; None takes the main branch.
        token: access token; None takes HF_TOKEN or the stored login.
        cache_dir: None takes the cache that HF_HOME or HF_HUB_CACHE names.
        endpoint: base URL of the hub; None takes HF_ENDPOINT or the public one.
        progress: called as (file, bytes there, bytes in all).

    Returns:
        Model and projector; of several projectors the BF16 one, then F16, F32, Q8_0.

    Raises:
        HubError: the repository, revision or quantization is unknown, closed, unreachable, ambiguous or in
            parts.
        OutputError: the disk has no room.
    """
    match = HUB_ID.fullmatch(hub_id)
    if match is None:
        raise HubError(f'{hub_id!r} is no hub id. Expected "organisation/name:QUANTIZATION".')
    repo = open_repo(match["repo"], revision=revision, token=token, cache_dir=cache_dir, endpoint=endpoint)
    listing = list_files(repo)
    names = sorted(listing.files)
    model = pick_model(repo.id, names, match["tag"])
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
    models = [n for n in names if n.lower().endswith(".gguf") and not is_projector(n)]
    if not models:
        hint = f" It is a checkpoint: gemma4-gguf convert {repo_id} -o DIR" if "config.json" in names else ""
        raise HubError(f"{repo_id} holds no GGUF model.{hint}")
    quants = {name: quant_of(name) for name in models}
    known = sorted({quant or name for name, quant in quants.items()})
    if tag is None:
        found = models if len(models) == 1 else [n for n in models if quants[n] == DEFAULT_QUANT]
    else:
        found = [n for n in models if tag.upper() == quants[n] or tag in (n, Path(n).name)]
    if not found:
        asked = f"no {tag}" if tag else f"several models and no {DEFAULT_QUANT}"
        raise HubError(f'{repo_id} has {asked}. Say which as "{repo_id}:TAG", of: {", ".join(known)}.')
    if SPLIT_IN_NAME.search(found[0]):
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
    """Choose the projector for a model: of its own folder first, then by type; None without one."""
    folder = Path(beside).parent
    found = [n for n in names if n.lower().endswith(".gguf") and is_projector(n)]
    rank = {name: i for i, name in enumerate(PROJECTOR_TYPES)}
    found.sort(key=lambda n: (Path(n).parent != folder, rank.get(quant_of(n) or "", len(rank)), n))
    return found[0] if found else None


def is_projector(name: str) -> bool:
    """Whether a GGUF file is a projector by the naming rule all llama.cpp apps share."""
    return "mmproj" in Path(name).name.lower()


def quant_of(name: str) -> str | None:
    """The quantization a GGUF file name ends in, in capitals; None if it tells none."""
    match = QUANT_IN_NAME.search(SPLIT_IN_NAME.sub(".gguf", Path(name).name))
    return match[1].upper() if match else None


def pick_weights(names: list[str]) -> list[str]:
    """The safetensors files of a checkpoint without an index: model.safetensors, else all but adapters."""
    if "model.safetensors" in names:
        return ["model.safetensors"]
    return sorted(
        n for n in names if n.endswith(".safetensors") and "/" not in n and not n.startswith("adapter")
    )


def _shards(repo: Repo, index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
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


def find_files(model: str | Path, projector: str | Path | None) -> tuple[Path, str | Path | None]:
    """Local files; what is on the hub is downloaded, its projector with it."""
    found = locate(model)
    if not isinstance(found, HubId):
        return found, projector
    files = resolve_gguf(str(model))
    if projector == "auto" and files.projector is not None:
        projector = files.projector
    return files.model, projector
