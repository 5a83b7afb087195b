"""hub.py and download.py against a hub on 127.0.0.1: what is fetched, refused, and goes on after a break."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import COMMIT, Hub, serve

from gemma4_gguf import pull
from gemma4_gguf.convert import convert_checkpoint
from gemma4_gguf.errors import CheckpointError, HubError, OptionError, OutputError
from gemma4_gguf.files import download
from gemma4_gguf.files.hub import (
    GGUFFiles,
    HubId,
    find_files,
    locate,
    pick_model,
    pick_projector,
    resolve,
    resolve_checkpoint,
    resolve_gguf,
)
from gemma4_gguf.options import HubOptions

SMALL = {
    "config.json": b"{}",
    "generation_config.json": b"{}",
    "tokenizer_config.json": b"{}",
    "processor_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "tokenizer.json": b'{"model": {}}' * 200,
    "README.md": b"# card",
    "additional_chat_templates/rag.jinja": b"{{ documents }}",
}
UNWANTED = {
    "pytorch_model.bin": b"pickle" * 900,
    "onnx/model.onnx": b"onnx" * 900,
    "model-Q4_K_M.gguf": b"GGUF" * 900,
    "original/consolidated.safetensors": b"twice" * 900,
}
WEIGHTS = bytes(range(256)) * 20_000  # 5 MB: several pieces
SINGLE = {**SMALL, **UNWANTED, "model.safetensors": WEIGHTS}
INDEX = json.dumps(
    {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
)
SHARDED = {
    **SMALL,
    "model.safetensors.index.json": INDEX.encode(),
    "model-00001-of-00002.safetensors": WEIGHTS,
    "model-00002-of-00002.safetensors": WEIGHTS[::-1],
    "consolidated.safetensors": b"twice" * 900,
}
GGUF = {
    "README.md": b"# card",
    "nano-Q4_K_M.gguf": b"Q4_K_M" * 300,
    "nano-Q8_0.gguf": b"Q8_0" * 300,
    "nano-UD-Q4_K_XL.gguf": b"UD" * 600,
    "BF16/nano-BF16-00001-of-00002.gguf": b"one" * 600,
    "BF16/nano-BF16-00002-of-00002.gguf": b"two" * 600,
    "mmproj-F16.gguf": b"F16" * 600,
    "mmproj-BF16.gguf": b"BF16" * 600,
}
REPOS = {"org/single": SINGLE, "org/sharded": SHARDED, "org/nano-GGUF": GGUF}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)  # for child processes
    with serve(Hub(dict(REPOS))) as server:
        yield server


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def fetch_single(hub: Hub, cache: Path, **options: object) -> Path:
    return resolve_checkpoint("org/single", HubOptions(endpoint=hub.endpoint, cache_dir=cache, **options))


def test_checkpoint_brings_what_conversion_reads_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    folder = fetch_single(hub, tmp_path)
    assert names_in(folder) == {*SMALL, "model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert folder.name == COMMIT


def test_sharded_checkpoint_takes_the_shards_of_its_index(hub: Hub, tmp_path: Path) -> None:
    folder = resolve_checkpoint("org/sharded", HubOptions(endpoint=hub.endpoint, cache_dir=tmp_path))
    assert names_in(folder) == {*SHARDED} - {"consolidated.safetensors"}
    assert (folder / "model-00002-of-00002.safetensors").read_bytes() == WEIGHTS[::-1]


def test_second_call_sends_no_weights(hub: Hub, tmp_path: Path) -> None:
    first = fetch_single(hub, tmp_path)
    sent = hub.sent_bytes
    assert fetch_single(hub, tmp_path) == first
    assert hub.sent_bytes == sent


def test_a_download_of_huggingface_hub_is_used(hub: Hub, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download("org/single", "model.safetensors", endpoint=hub.endpoint, cache_dir=tmp_path)
    sent = hub.sent_bytes
    fetch_single(hub, tmp_path)
    assert hub.sent_bytes - sent < len(WEIGHTS)


def test_progress_rises_to_the_sum_of_sizes(hub: Hub, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    fetch_single(hub, tmp_path, progress=lambda *step: seen.append(step))
    total = sum(map(len, SMALL.values())) + len(WEIGHTS)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1][1:] == (total, total)
    assert {name for name, _, _ in seen} == {*SMALL, "model.safetensors"}


def test_broken_connection_goes_on_in_the_same_call(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after, hub.cuts, hub.large_bytes = 2_000_000, 2, 1_000_000
    folder = fetch_single(hub, tmp_path)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    starts = [h.get("range") for h in hub.asked("/cdn/")]
    assert starts[0] is None and all(start for start in starts[1:]) and len(starts) == 3


def size_of(path: Path) -> int:
    """0 for a file that has just been renamed."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def test_killed_download_goes_on_in_the_next_process(hub: Hub, tmp_path: Path) -> None:
    hub.pause_after, hub.large_bytes = 3_000_000, 1_000_000
    code = (
        "import sys; import gemma4_gguf;"
        "gemma4_gguf.pull('org/single', endpoint=sys.argv[1], cache_dir=sys.argv[2])"
    )
    child = subprocess.Popen([sys.executable, "-c", code, hub.endpoint, str(tmp_path)])
    try:
        assert hub.paused.wait(60)
        blobs = tmp_path / "models--org--single" / "blobs"
        deadline = time.monotonic() + 30
        while sum(map(size_of, blobs.glob("*.incomplete"))) < 2_000_000:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    hub.go_on.set()
    hub.sent_bytes = 0
    folder = fetch_single(hub, tmp_path)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert 0 < hub.sent_bytes <= len(WEIGHTS) - 2_000_000
    assert not list(blobs.glob("*.incomplete"))


def test_ctrl_c_keeps_what_came(hub: Hub, tmp_path: Path) -> None:
    def interrupt(name: str, done: int, _total: int) -> None:
        if name == "model.safetensors" and done > 2_500_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_single(hub, tmp_path, progress=interrupt)
    partial = list((tmp_path / "models--org--single" / "blobs").glob("*.gemma4.incomplete"))
    assert [path.stat().st_size >= 2_000_000 for path in partial] == [True]
    assert (fetch_single(hub, tmp_path) / "model.safetensors").read_bytes() == WEIGHTS


def test_server_without_ranges_sends_it_whole_again(hub: Hub, tmp_path: Path) -> None:
    hub.ranges, hub.cut_after, hub.cuts, hub.large_bytes = False, 2_000_000, 1, 1_000_000
    assert (fetch_single(hub, tmp_path) / "model.safetensors").read_bytes() == WEIGHTS


def test_damaged_bytes_are_refused_and_deleted(hub: Hub, tmp_path: Path) -> None:
    hub.damage, hub.large_bytes = True, 1_000_000
    with pytest.raises(HubError, match="damaged"):
        fetch_single(hub, tmp_path)
    assert not list(tmp_path.rglob("*.incomplete"))
    hub.damage = False
    assert (fetch_single(hub, tmp_path) / "model.safetensors").read_bytes() == WEIGHTS


def test_token_goes_to_the_hub_and_not_to_the_cdn(hub: Hub, tmp_path: Path) -> None:
    hub.gated = ("org/single",)
    fetch_single(hub, tmp_path, token="secret")
    assert all(h.get("authorization") == "Bearer secret" for h in hub.asked("/resolve/"))
    assert hub.asked("/cdn/") and not any("authorization" in h for h in hub.asked("/cdn/"))


def test_gated_repository_says_where_to_accept(hub: Hub, tmp_path: Path) -> None:
    hub.gated = ("org/single",)
    with pytest.raises(HubError, match=rf"gated.*{hub.endpoint}/org/single.*hf auth login"):
        fetch_single(hub, tmp_path, token="wrong")


def test_unknown_repository_names_both_readings(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"org/nothing is no local path, and .* does not show a model"):
        resolve_checkpoint("org/nothing", HubOptions(endpoint=hub.endpoint, cache_dir=tmp_path))


def test_unknown_revision_is_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"org/single has no revision 'v9'"):
        fetch_single(hub, tmp_path, revision="v9")
    assert fetch_single(hub, tmp_path, revision="v1").name == COMMIT


def test_without_network_a_whole_download_serves(hub: Hub, tmp_path: Path) -> None:
    folder = fetch_single(hub, tmp_path)
    assert (
        resolve_checkpoint("org/single", HubOptions(endpoint="http://127.0.0.1:9", cache_dir=tmp_path))
        == folder
    )
    with pytest.raises(HubError, match="does not answer"):
        resolve_checkpoint("org/sharded", HubOptions(endpoint="http://127.0.0.1:9", cache_dir=tmp_path))


def test_offline_mode_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        resolve_checkpoint("org/single", HubOptions(cache_dir=tmp_path))


def test_hub_in_trouble_is_named(hub: Hub, tmp_path: Path) -> None:
    hub.down = 503
    with pytest.raises(HubError, match="HTTP 503"):
        fetch_single(hub, tmp_path)


def test_full_disk_stops_before_the_first_byte(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match=r"needs 0\.0 GB more"):
        fetch_single(hub, tmp_path)
    assert hub.sent_bytes == 0


def test_cache_that_cannot_be_written_is_named(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(OutputError, match="HF_HUB_CACHE"):
        fetch_single(hub, tmp_path / "file")


def test_a_disk_that_fills_up_on_the_way_keeps_what_came(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(repo: download.Repo, commit: str, file: download.RemoteFile) -> Iterator[int]:
        repo.partial(file).write_bytes(b"came")
        yield 4
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(download, "receive", full)
        with pytest.raises(OutputError, match=r"No space left.*Make room.*HF_HUB_CACHE"):
            fetch_single(hub, tmp_path)
    assert [path.read_bytes() for path in tmp_path.rglob("*.gemma4.incomplete")]


def test_a_cache_that_cannot_be_read_is_named(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exists = Path.exists

    def closed(path: Path, **options: bool) -> bool:
        if "snapshots" in path.parts:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return exists(path, **options)

    monkeypatch.setattr(Path, "exists", closed)
    with pytest.raises(OutputError, match=r"Permission denied.*HF_HUB_CACHE"):
        fetch_single(hub, tmp_path)


@pytest.mark.parametrize(
    ("files", "way_out"),
    [
        ({"README.md": b""}, "Expected config.json"),
        ({"config.json": b"{}", "a.gguf": b""}, "gemma4-gguf chat org/x"),
        ({"config.json": b"{}", "pytorch_model.bin": b""}, "save_pretrained"),
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b""}, "merge_and_unload"),
        ({"config.json": b"{}", "model.safetensors.index.json": b"[]"}, "no index"),
        (
            {
                "config.json": b"{}",
                "model.safetensors.index.json": b'{"weight_map": {"a": "gone.safetensors"}}',
            },
            "names gone.safetensors",
        ),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_the_way_out(
    hub: Hub, tmp_path: Path, files: dict[str, bytes], way_out: str
) -> None:
    hub.repos["org/x"] = files
    with pytest.raises(HubError, match=way_out):
        resolve_checkpoint("org/x", HubOptions(endpoint=hub.endpoint, cache_dir=tmp_path))


@pytest.mark.parametrize(
    ("tag", "model"),
    [
        ("", "nano-Q4_K_M.gguf"),
        (":q8_0", "nano-Q8_0.gguf"),
        (":nano-UD-Q4_K_XL.gguf", "nano-UD-Q4_K_XL.gguf"),
    ],
)
def test_gguf_brings_the_quantization_and_the_best_projector(
    hub: Hub, tmp_path: Path, tag: str, model: str
) -> None:
    files = resolve_gguf(f"org/nano-GGUF{tag}", HubOptions(endpoint=hub.endpoint, cache_dir=tmp_path))
    assert files.model.read_bytes() == GGUF[model]
    assert files.projector is not None and files.projector.read_bytes() == GGUF["mmproj-BF16.gguf"]
    assert names_in(files.model.parent) == {model, "mmproj-BF16.gguf"}


# pull: one name for whatever a repository holds


def test_pull_returns_the_directory_of_a_checkpoint(hub: Hub, tmp_path: Path) -> None:
    seen: list[int] = []
    folder = pull(
        "org/single",
        revision="v1",
        cache_dir=str(tmp_path),
        endpoint=hub.endpoint,
        progress=lambda _, done, total: seen.append(total - done),
    )
    assert names_in(folder) == {*SMALL, "model.safetensors"} and seen[-1] == 0


@pytest.mark.parametrize(("tag", "model"), [("", "nano-Q4_K_M.gguf"), (":Q8_0", "nano-Q8_0.gguf")])
def test_pull_returns_the_model_file_with_its_projector_beside_it(
    hub: Hub, tmp_path: Path, tag: str, model: str
) -> None:
    path = pull(f"org/nano-GGUF{tag}", cache_dir=tmp_path, endpoint=hub.endpoint)
    assert path.name == model and names_in(path.parent) == {model, "mmproj-BF16.gguf"}


def test_a_tag_asks_for_a_gguf_file_beside_safetensors(hub: Hub, tmp_path: Path) -> None:
    options = HubOptions(endpoint=hub.endpoint, cache_dir=tmp_path)
    found = resolve("org/single:Q4_K_M", options)
    assert isinstance(found, GGUFFiles) and found.model.name == "model-Q4_K_M.gguf"
    with pytest.raises(HubError, match=r'names a GGUF file\. Expected a checkpoint: "org/single"'):
        resolve_checkpoint("org/single:Q4_K_M", options)


def test_one_pull_asks_for_one_listing(hub: Hub, tmp_path: Path) -> None:
    resolve("org/nano-GGUF", HubOptions(endpoint=hub.endpoint, cache_dir=tmp_path))
    weights_at = next(i for i, (_, path, _) in enumerate(hub.requests) if "/resolve/" in path)
    assert weights_at == 1


@pytest.mark.parametrize("hub_id", ["nothing", "a/b/c", "./org/name", "org/name:", ""])
def test_pull_of_no_hub_id_says_what_one_is(hub_id: str) -> None:
    with pytest.raises(HubError, match=r'is no hub id\. Expected "organisation/name" or'):
        pull(hub_id)


def test_pull_knows_its_options() -> None:
    with pytest.raises(OptionError, match=r"no option 'branch'; known are revision, token, cache_dir"):
        pull("org/single", branch="main")


def test_a_token_does_not_show() -> None:
    assert "secret" not in repr(HubOptions(token="secret"))


def test_a_pulled_checkpoint_converts_under_its_id(
    hub: Hub, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    hub.repos["org/my-model"] = {p.name: p.read_bytes() for p in checkpoint("e2b_text").iterdir()}
    folder = pull("org/my-model", cache_dir=tmp_path, endpoint=hub.endpoint)
    made = convert_checkpoint(folder, tmp_path / "out", "F16", None, name="org/my-model")
    assert made.model.name == "my-model-F16.gguf"


def test_the_converter_takes_no_hub_id_and_says_what_to_pass(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r'gemma4_gguf\.pull\("org/single"\) and name="org/single"'):
        convert_checkpoint("org/single", tmp_path)
    assert not hub.requests


def test_files_of_a_session_are_local_or_pulled(hub: Hub, tmp_path: Path) -> None:
    options = HubOptions(endpoint=hub.endpoint, cache_dir=tmp_path)
    model, projector = find_files("org/nano-GGUF:Q8_0", "auto", options)
    assert model.name == "nano-Q8_0.gguf" and Path(str(projector)).name == "mmproj-BF16.gguf"
    assert find_files("org/nano-GGUF:Q8_0", None, options) == (model, None)
    assert find_files(str(model), "auto") == (model, "auto")


def test_missing_quantization_lists_what_there_is() -> None:
    with pytest.raises(HubError, match=r"no Q5_K_M\. Say which .*BF16, Q4_K_M, Q8_0, UD-Q4_K_XL"):
        pick_model("org/x", sorted(GGUF), "Q5_K_M")
    with pytest.raises(HubError, match="several models and no Q4_K_M"):
        pick_model("org/x", ["a-Q8_0.gguf", "a-Q6_K.gguf"], None)


def test_ambiguous_quantization_lists_the_files() -> None:
    with pytest.raises(HubError, match=r"2 files for Q4_K_M: a-Q4_K_M.gguf, b-Q4_K_M.gguf"):
        pick_model("org/x", ["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"], None)


def test_split_files_are_refused() -> None:
    with pytest.raises(HubError, match=r"one of 2 parts.*llama-gguf-split --merge"):
        pick_model("org/x", sorted(GGUF), "BF16")


def test_repository_without_gguf_says_how_to_convert() -> None:
    with pytest.raises(HubError, match="gemma4-gguf convert org/x"):
        pick_model("org/x", ["config.json", "model.safetensors"], None)


def test_projector_of_the_same_folder_comes_first() -> None:
    names = ["e2b/mmproj-F16.gguf", "mmproj-BF16.gguf", "e2b/model-Q4_K_M.gguf"]
    assert pick_projector(names, beside="e2b/model-Q4_K_M.gguf") == "e2b/mmproj-F16.gguf"
    assert pick_projector(names, beside="model.gguf") == "mmproj-BF16.gguf"
    assert pick_projector(["model.gguf"], beside="model.gguf") is None


def test_an_existing_path_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("org/name") == HubId("org/name")
    (tmp_path / "org/name").mkdir(parents=True)
    assert locate("org/name") == Path("org/name")
    assert locate("org/other:Q4_K_M") == HubId("org/other", "Q4_K_M")
