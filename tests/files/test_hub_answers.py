"""What a hub may answer that is none, and what people may call a repository, a revision or a path."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import COMMIT, Hub, serve

from gemma4_gguf.errors import CheckpointError, GGUFError, HubError
from gemma4_gguf.files.hub import locate, resolve_checkpoint
from gemma4_gguf.options import HubOptions

WEIGHTS = bytes(5000)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with serve(Hub({"org/single": {"config.json": b"{}", "model.safetensors": WEIGHTS}})) as server:
        yield server


def fetch_single(hub: Hub, cache: Path, **options: object) -> Path:
    return resolve_checkpoint("org/single", HubOptions(endpoint=hub.endpoint, cache_dir=cache, **options))


def listing(**values: object) -> bytes:
    files = [
        {"rfilename": name, "size": 2, "blobId": "a" * 40} for name in ("config.json", "model.safetensors")
    ]
    return json.dumps({"id": "org/single", "sha": COMMIT, "siblings": files} | values).encode()


@pytest.mark.parametrize(
    "answer",
    [
        b"<html><body>Log in to the network</body></html>",
        b"",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        listing(siblings=5),
        listing(siblings=[5]),
        listing(sha=None),
        listing(sha="../../../elsewhere"),
        listing(sha=7),
    ],
)
def test_an_answer_that_is_no_listing_is_named(hub: Hub, tmp_path: Path, answer: bytes) -> None:
    hub.listing = answer
    with pytest.raises(HubError, match=r"with something that is no listing of a hub"):
        fetch_single(hub, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../config.json", "/config.json", "a//b", "a\\..\\b", "c:x", "a\nb", 5, "."]
)
def test_names_that_lead_out_of_the_cache_are_not_there(hub: Hub, tmp_path: Path, name: object) -> None:
    files = [{"rfilename": one, "size": 2, "blobId": "a" * 40} for one in (name, "model.safetensors")]
    hub.listing = listing(siblings=files)
    with pytest.raises(HubError, match="is no checkpoint to convert"):
        fetch_single(hub, tmp_path)


def test_hashes_that_lead_out_of_the_cache_are_not_there(hub: Hub, tmp_path: Path) -> None:
    hub.listing = listing(siblings=[{"rfilename": "config.json", "size": 2, "blobId": "../../../x"}])
    with pytest.raises(HubError, match="is no checkpoint to convert"):
        fetch_single(hub, tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_a_renamed_repository_is_found_under_its_old_name(hub: Hub, tmp_path: Path) -> None:
    hub.renamed = {"org/old": "org/single"}
    options = HubOptions(endpoint=hub.endpoint, cache_dir=tmp_path)
    assert (resolve_checkpoint("org/old", options) / "model.safetensors").read_bytes() == WEIGHTS
    hub.renamed = {"org/old": "org/gone"}
    with pytest.raises(HubError, match="does not show a model of that name"):
        resolve_checkpoint("org/old", options)


@pytest.mark.parametrize("revision", ["../x", "a b", "refs/pr/1", "é", "x" * 300, "\0"])
def test_odd_revisions_are_unknown(hub: Hub, tmp_path: Path, revision: str) -> None:
    with pytest.raises(HubError, match="has no revision"):
        fetch_single(hub, tmp_path, revision=revision)


@pytest.mark.parametrize("token", ["a\nb", "é", "a b", "x" * 2000])
def test_a_token_that_can_be_none_is_refused_and_not_shown(hub: Hub, tmp_path: Path, token: str) -> None:
    with pytest.raises(HubError, match="The token holds characters") as caught:
        fetch_single(hub, tmp_path, token=token)
    assert token not in str(caught.value)
    assert fetch_single(hub, tmp_path, token=" ").name == COMMIT, "none"


@pytest.mark.parametrize(
    "endpoint", ["nonsense", "http://", "ftp://x.y", "http://[::1", "https://a b", "//x"]
)
def test_an_address_that_is_no_hubs_is_named(tmp_path: Path, endpoint: str) -> None:
    with pytest.raises(HubError, match=r"is no address of a hub\. HF_ENDPOINT"):
        resolve_checkpoint("org/single", HubOptions(endpoint=endpoint, cache_dir=tmp_path))


@pytest.mark.parametrize("repo", ["org/a..b", "org/a--b", "org/" + "x" * 200, "org/a."])
def test_ids_that_the_hub_has_none_of_are_named(hub: Hub, tmp_path: Path, repo: str) -> None:
    with pytest.raises(HubError, match=r"is no (name of a repository|hub id)"):
        resolve_checkpoint(repo, HubOptions(endpoint=hub.endpoint, cache_dir=tmp_path))


@pytest.mark.parametrize("index", [b"<html>", b"[]", b'{"weight_map": [[]]}', b"\xff\xfe", b"[" * 100_000])
def test_an_index_that_is_none_is_named(hub: Hub, tmp_path: Path, index: bytes) -> None:
    hub.repos = {"org/single": {"config.json": b"{}", "model.safetensors.index.json": index}}
    with pytest.raises(HubError, match="is no index of weights"):
        fetch_single(hub, tmp_path)


# Paths


@pytest.mark.parametrize("source", ["nothing", "org/", "org/na me", "org name", "x" * 300, "a\0b", "-org/x"])
def test_what_is_neither_names_both_readings(source: str) -> None:
    with pytest.raises(HubError, match=r"as a path it does not exist, and as a hub id"):
        locate(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/nope/x.gguf", r"^/nope/x\.gguf does not exist: / has no nope\.$"),
        ("{}/sub/deep/x", r"does not exist: .* has no sub\.$"),
        ("{}/z.gguf", r"does not exist\. The directory has a\.gguf, b\.gguf, c\.gguf, …\."),
        ("{}/link", r"is a link that leads nowhere\. It points to nowhere"),
        ("{}/loop", r"is a link that leads nowhere"),
        ("{}/a.gguf/x", r"does not exist|is no path"),
        ("./org/name", "does not exist"),
        ("../org/name", "does not exist"),
        ("~no-such-user/x", "does not exist"),
        ("a/b/c", "does not exist: .* has no a"),
        ("org/Model.GGUF", "does not exist"),
        ("c:\\models\\x.gguf", "does not exist"),
        ("/" + "x" * 300, "is no path: File name too long"),
        ("/nul\0l", "is no path: .*embedded null"),
    ],
)
def test_a_path_with_nothing_there_says_what_is_missing(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "abcd":
        (tmp_path / f"{name}.gguf").touch()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for error in (GGUFError, CheckpointError):
        with pytest.raises(error, match=message):
            locate(source.format(tmp_path), missing=error)
    with pytest.raises(GGUFError):
        locate(Path("org/name"))
