"""Hub downloads: files of a repository → the shared Hugging Face cache, resumable.

huggingface-hub lists, authenticates and links. The bytes are fetched here, since it starts an interrupted
file anew (its pull request 4228), and a shard of Gemma 4 has up to 10 GB.
Cache layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from gemma4_gguf.errors import HubError, OutputError
from gemma4_gguf.options import DownloadProgress, HubOptions

CHUNK_BYTES = 1 << 20
N_WORKERS = 4
N_TRIES = 5  # in a row without one new byte
TIMEOUT_S = 30.0
PATIENCE_S = 1.0  # that threads get to stop, once one of them has failed or somebody pressed Ctrl-C
_ENDPOINT = re.compile(r"https?://([^\s/@]+@)?([\w.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/[!-~]*)?")
_TOKEN = re.compile(r"[!-~]{1,1000}")


@dataclass(frozen=True)
class RemoteFile:
    """One file of a listing. `etag` is the SHA-256 of a large file, the git blob id of a small one."""

    name: str
    size_bytes: int
    etag: str


@dataclass(frozen=True)
class Listing:
    """A repository at one commit."""

    commit: str
    files: dict[str, RemoteFile]


@dataclass(frozen=True)
class Repo:
    """A repository, where to ask for it and where its files land.

    Args:
        id: "organisation/name".
        revision: branch, tag or commit; None is the main branch.
        token: access token; None takes HF_TOKEN or the stored login.
        endpoint: base URL of the hub.
        cache_dir: directory of all repositories.
    """

    id: str
    revision: str | None
    token: str | None
    endpoint: str
    cache_dir: Path

    @property
    def folder(self) -> Path:
        """Its directory in the cache."""
        return self.cache_dir / ("models--" + self.id.replace("/", "--"))

    @property
    def blobs(self) -> Path:
        """Directory of the contents, named by etag."""
        return self.folder / "blobs"

    def snapshot(self, commit: str) -> Path:
        """Directory that shows the files of a commit under their names.

        Args:
            commit: its hash.

        Returns:
            A path, which need not be there.
        """
        return self.folder / "snapshots" / commit

    def partial(self, file: RemoteFile) -> Path:
        """Where a file grows until it is whole.

        Args:
            file: of the listing.

        Returns:
            A path, which need not be there.
        """
        return self.blobs / f"{file.etag}.gemma4.incomplete"


class UnreachableError(HubError):
    """The hub does not answer."""


def open_repo(repo_id: str, options: HubOptions) -> Repo:
    """Fills in what the environment decides: the cache (HF_HOME, HF_HUB_CACHE) and the hub (HF_ENDPOINT).

    Args:
        repo_id: "organisation/name".
        options: what was given.

    Returns:
        The repository; nothing is asked yet.

    Raises:
        HubError: the id, the address of the hub or the token cannot be one.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HubError(f"{repo_id:.200} is no name of a repository: {error}") from error
    cache = Path(os.path.expanduser(options.cache_dir or constants.HF_HUB_CACHE))  # noqa: PTH111
    endpoint = (options.endpoint or constants.ENDPOINT).rstrip("/")
    if not _ENDPOINT.fullmatch(endpoint):
        raise HubError(f"{endpoint!r} is no address of a hub. HF_ENDPOINT sets it: https://huggingface.co")
    token = (options.token or "").strip() or None
    if token is not None and not _TOKEN.fullmatch(token):
        raise HubError("The token holds characters that no token has. Copy it again; it begins with hf_.")
    return Repo(repo_id, options.revision, token, endpoint, cache)


def list_files(repo: Repo) -> Listing:
    """Ask for the commit and files of a repository; without a network, those of an earlier download.

    Args:
        repo: to list.

    Returns:
        The commit and its files by name.

    Raises:
        HubError: the repository or revision is unknown or closed, the answer is no listing, or the hub cannot
            be reached and nothing of it is in the cache.
    """
    from huggingface_hub import HfApi

    try:
        with _translated(repo):
            api = HfApi(endpoint=repo.endpoint, token=repo.token)
            info = api.model_info(repo.id, revision=repo.revision, files_metadata=True, timeout=TIMEOUT_S)
    except UnreachableError:
        cached = _list_cached(repo)
        if cached is None:
            raise
        return cached
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _no_listing(repo) from error
    if not _is_hash(info.sha):
        raise _no_listing(repo)
    files = {}
    for item in info.siblings or []:
        etag = item.lfs.sha256 if item.lfs else item.blob_id
        # Names and hashes become paths of the cache.
        if type(item.size) is int and item.size >= 0 and _is_hash(etag) and _is_inside(item.rfilename):
            files[item.rfilename] = RemoteFile(item.rfilename, item.size, str(etag))
    return Listing(str(info.sha), files)


def fetch(repo: Repo, commit: str, files: list[RemoteFile], progress: DownloadProgress | None = None) -> Path:
    """Bring files into the cache; one that was interrupted goes on where it stopped.

    Args:
        repo: where they are.
        commit: of which commit.
        files: which.
        progress: called as (file, bytes there, bytes in all).

    Returns:
        The directory that shows them under their names.

    Raises:
        HubError: the hub refuses, does not answer, or sends damaged bytes.
        OutputError: no room, or no permission to write.
    """
    root = repo.snapshot(commit)
    total = sum(f.size_bytes for f in files)
    with _written(repo.cache_dir):
        todo = [f for f in files if not (root / f.name).exists() and not (repo.blobs / f.etag).exists()]
        tally = _Tally(total, total - sum(f.size_bytes for f in todo), progress)
        if todo:
            repo.blobs.mkdir(parents=True, exist_ok=True)
            _check_space(repo, sum(f.size_bytes - _size(repo.partial(f)) for f in todo))
            _download_all(repo, commit, todo, tally)
        if any(not (root / f.name).exists() for f in files):
            _link(repo, [f.name for f in files])
    return root


def _is_hash(text: object) -> bool:
    return isinstance(text, str) and re.fullmatch(r"[0-9A-Za-z]{4,128}", text) is not None


def _is_inside(name: object) -> bool:
    """Whether a name stays below the directory that it is put in."""
    if not isinstance(name, str) or not name.isprintable() or "\\" in name or ":" in name:
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


def _no_listing(repo: Repo) -> HubError:
    return HubError(
        f"{repo.endpoint} answers for {repo.id} with something that is no listing of a hub, such as the page "
        "of a proxy or of a login. Open the address in a browser; HF_ENDPOINT sets it."
    )


class _Tally:
    """Bytes there so far, over all files and threads."""

    def __init__(self, total: int, done: int, report: DownloadProgress | None) -> None:
        self._total, self._done, self._report = total, done, report
        self._lock = threading.Lock()

    def add(self, name: str, n_bytes: int) -> None:
        with self._lock:
            self._done += n_bytes
            if self._report is not None:
                self._report(name, self._done, self._total)


def _list_cached(repo: Repo) -> Listing | None:
    revision = repo.revision or "main"
    ref = repo.folder / "refs" / revision
    commit = ref.read_text().strip() if ref.is_file() else revision
    root = repo.snapshot(commit)
    names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    files = {name: RemoteFile(name, (root / name).stat().st_size, "") for name in names}
    return Listing(commit, files) if files else None


def _download_all(repo: Repo, commit: str, files: list[RemoteFile], tally: _Tally) -> None:
    stop = threading.Event()
    pool = ThreadPoolExecutor(N_WORKERS)
    jobs = [pool.submit(_download, repo, commit, file, tally, stop) for file in files]
    try:
        for job in jobs:
            job.result()
    finally:  # after Ctrl-C, too: the threads stop at their next piece, which a stalled one may never get
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        wait(jobs, timeout=PATIENCE_S)


def _download(repo: Repo, commit: str, file: RemoteFile, tally: _Tally, stop: threading.Event) -> None:
    from huggingface_hub.utils import WeakFileLock

    lock = repo.cache_dir / ".locks" / repo.folder.name / f"{file.etag}.lock"  # huggingface-hub's own
    lock.parent.mkdir(parents=True, exist_ok=True)
    blob, partial = repo.blobs / file.etag, repo.partial(file)
    with WeakFileLock(lock):
        if blob.exists():
            tally.add(file.name, file.size_bytes)
            return
        if _size(partial) > file.size_bytes:
            partial.unlink()
        _complete(repo, commit, file, tally, stop)
        if stop.is_set():
            return
        if not _is_whole(partial, file):
            partial.unlink()
            raise HubError(
                f"{file.name} of {repo.id} arrived damaged: its size or checksum differs from "
                "the hub's listing. What came is deleted. Run it again."
            )
        partial.replace(blob)


def _complete(repo: Repo, commit: str, file: RemoteFile, tally: _Tally, stop: threading.Event) -> None:
    """Receive until the partial file is whole, again and again while the connection breaks but bytes come."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    partial, tries = repo.partial(file), 0
    tally.add(file.name, have := _size(partial))
    while have < file.size_bytes or not partial.exists():
        try:
            for size in receive(repo, commit, file):
                tally.add(file.name, size - have)
                have, tries = size, 0
                if stop.is_set():
                    return
        except (HTTPError, ConnectionError) as error:
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
            tries += 1
            if tries >= N_TRIES or (400 <= status < 500 and status not in (408, 429)):
                with _translated(repo):
                    raise
            if stop.wait(min(0.1 * 3**tries, 10.0)):
                return


def receive(repo: Repo, commit: str, file: RemoteFile) -> Iterator[int]:
    """Append to the partial file from where it ends; yields its size after each piece."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    partial = repo.partial(file)
    have = _size(partial)
    headers = {**build_hf_headers(token=repo.token), "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    url = hf_hub_url(repo.id, file.name, revision=commit, endpoint=repo.endpoint)
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S) as response:
        hf_raise_for_status(response)
        resumed = response.status_code == 206  # 200 although a range was asked for: it comes whole again
        size = have if resumed else 0
        with partial.open("ab" if resumed else "wb") as out:
            for piece in response.iter_bytes(CHUNK_BYTES):
                out.write(piece)
                size += len(piece)
                yield size


def _is_whole(path: Path, file: RemoteFile) -> bool:
    if path.stat().st_size != file.size_bytes:
        return False
    if len(file.etag) == 64:
        digest = hashlib.sha256()
    else:  # git's name of a blob
        digest = hashlib.sha1(b"blob %d\0" % file.size_bytes, usedforsecurity=False)
    with path.open("rb") as f:
        while piece := f.read(CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest() == file.etag


def _link(repo: Repo, names: list[str]) -> None:
    """Let huggingface-hub show the blobs under their names and note the ref."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import tqdm

    class Silent(tqdm):  # type: ignore[misc]
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    with _translated(repo):
        snapshot_download(
            repo.id,
            revision=repo.revision,
            token=repo.token,
            endpoint=repo.endpoint,
            cache_dir=repo.cache_dir,
            allow_patterns=[escape(name) for name in names],
            tqdm_class=Silent,
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_space(repo: Repo, needed: int) -> None:
    free = shutil.disk_usage(repo.blobs).free
    if needed > free:
        raise OutputError(
            f"{repo.id} needs {needed / 1e9:.1f} GB more in {repo.cache_dir}, where {free / 1e9:.1f} GB "
            "are free. Make room, or name another cache with HF_HUB_CACHE."
        )


@contextmanager
def _written(place: Path) -> Iterator[None]:
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except OSError as error:
        if isinstance(error, HTTPError | ConnectionError):
            raise
        raise OutputError(
            f"Cannot write the download to {place}: {error.strerror or error}. "
            "Make room or allow writing, or name another cache with HF_HUB_CACHE."
        ) from error


@contextmanager
def _translated(repo: Repo) -> Iterator[None]:
    """Errors of the hub and of the network as HubError."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(
            f"{repo.id} is gated. Accept its terms at {repo.endpoint}/{repo.id}, then log in with "
            "`hf auth login`, set HF_TOKEN or pass a token that may read it."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(
            f"{repo.id} has no revision {repo.revision!r}. Expected a branch, tag or commit; without one the "
            "main branch is taken."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{repo.id} is no local path, and {repo.endpoint} does not show a model of that name. Check the "
            "spelling; if it is private, set HF_TOKEN or pass a token that may read it."
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise HubError(
                f"{repo.endpoint} does not accept the token. Renew it with `hf auth login`."
            ) from error
        if status < 500:
            why = str(error).partition("\n")[0]
            raise HubError(f"{repo.endpoint} refuses {repo.id} (HTTP {status}): {why}") from error
        raise UnreachableError(f"{repo.endpoint} is in trouble (HTTP {status}). Try again later.") from error
    except errors.OfflineModeIsEnabled as error:
        raise UnreachableError(
            f"{repo.id} is no local path, not whole in the cache {repo.cache_dir}, and HF_HUB_OFFLINE "
            "forbids to download it. Unset that, or give the path of a local directory."
        ) from error
    except (errors.HTTPError, ConnectionError, errors.LocalEntryNotFoundError) as error:
        raise UnreachableError(
            f"{repo.id} is no local path and {repo.endpoint} does not answer ({type(error).__name__}). "
            "Check the network and HF_ENDPOINT; what is downloaded so far is kept."
        ) from error
