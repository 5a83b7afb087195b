"""Checkpoints that are no checkpoints: values of any type, special files, files that change, odd names."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gemma4_gguf.convert import Progress, convert_checkpoint, quantize_file
from gemma4_gguf.convert.checkpoint import INDEX, open_checkpoint
from gemma4_gguf.convert.metadata import file_name
from gemma4_gguf.convert.plan import plan_model, plan_projector
from gemma4_gguf.convert.safetensors import read_header
from gemma4_gguf.errors import CheckpointError, GGUFError, OutputError

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX files")


@pytest.fixture
def directory(checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A private copy of the tiny e2b, to be spoilt."""
    return Path(shutil.copytree(checkpoint("e2b"), tmp_path / "tiny-e2b"))


def plans(directory: Path) -> None:
    source = open_checkpoint(directory)
    plan_model(source)
    plan_projector(source)


# Values

VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1.5,
    10**400,
    2**31,
    float("nan"),
    float("inf"),
    1e-300,
    "",
    "7",
    "\ud800",
    [],
    [[]],
    [1, "a"],
    {},
    {"a": {"b": []}},
]
FILES = ("config.json", "generation_config.json", "processor_config.json", "tokenizer_config.json")


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Places in a JSON value: every key, and the first item of every list."""
    first = enumerate(value[:1]) if isinstance(value, list) else ()
    for key, one in value.items() if isinstance(value, dict) else first:
        yield (*path, key)
        yield from leaves(one, (*path, key))


@pytest.mark.parametrize("file", FILES)
def test_no_value_of_a_json_file_escapes_its_type(directory: Path, file: str) -> None:
    """Every value of a file in turn, replaced by one of another kind: converted or a typed error."""
    path = directory / file
    content = json.loads(path.read_text())
    for number, place in list(enumerate(leaves(content)))[::2]:  # the campaign takes all
        changed = json.loads(json.dumps(content))
        at = changed
        for key in place[:-1]:
            at = at[key]
        at[place[-1]] = VALUES[number % len(VALUES)]
        path.write_text(json.dumps(changed))
        try:
            plans(directory)
        except CheckpointError as error:
            assert len(str(error)) < 1500


TOKENIZER_PLACES = ("model", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder")


@pytest.mark.parametrize("shift", [0, 5, 11])
def test_no_value_of_a_tokenizer_escapes_its_type(directory: Path, shift: int) -> None:
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    places = [*((key,) for key in TOKENIZER_PLACES)]
    places += [("model", key) for key in content["model"]]
    places += [("added_tokens", 0), ("added_tokens", 0, "content"), ("added_tokens", 0, "id")]
    places += [("model", "vocab", "a"), ("model", "merges", 0), ("normalizer", "pattern")]
    for number, place in enumerate(places):
        changed = json.loads(json.dumps(content))
        at: Any = changed
        for key in place[:-1]:
            at = at[key]
        at[place[-1]] = VALUES[(number + shift) % len(VALUES)]
        path.write_text(json.dumps(changed))
        try:
            plan_model(open_checkpoint(directory))
        except CheckpointError as error:
            assert len(str(error)) < 1500


@pytest.mark.parametrize(
    "card",
    [
        "license: [a, b]",
        "license: {a: b}",
        "base_model: 5",
        "base_model: [5, null, {name: 5}, [x]]",
        "tags: {a: b}",
        "tags: [a, [b], 5, 2024-01-01]",
        "language: no\nname: 2024-13-45",
        "name: !!python/object:os.system {}",
        "name: [" * 5000,
        "a: &a [x]\nb: &b [*a, *a]\nc: &c [*b, *b]\ntags: [*c, *c]",
        "5: 6\nname: 1e999\nversion: .nan",
        'name: "\\0 \\ud800"',
        "base_model: https://huggingface.co/a/b\ndatasets: http://x",
        "name: " + "x" * 300_000,
        ": [",
        "- a list",
    ],
)
def test_a_model_card_of_any_kind_is_read_or_left_out(directory: Path, card: str) -> None:
    (directory / "README.md").write_text(f"---\n{card}\n---\n# Card\n")
    assert convert_checkpoint(directory, directory / "out", "Q8_0", None).model.stat().st_size < 5e6


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 200_000,
        b'{"a":' * 50_000,
        b"",
        b"\xff\xfe",
        b"\x80abc",
        b'{"hidden_size": ' + b"9" * 5000 + b"}",
        b"null",
        b'"text"',
        b"{} {}",
        b"\x00" * 64,
    ],
)
@pytest.mark.parametrize("file", [*FILES, "tokenizer.json", INDEX])
def test_text_that_is_no_json_object_is_refused(directory: Path, file: str, text: bytes) -> None:
    (directory / file).write_bytes(text)
    with pytest.raises(CheckpointError, match=f"{file} (is not valid JSON|holds a JSON)"):
        plans(directory)


# Special files and bounds


def pipe(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket has a short bound
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


KINDS: dict[str, Callable[[Path], Any]] = {
    "a directory": Path.mkdir,
    "a pipe": pipe,
    "a socket": unix_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@posix
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "file",
    [*FILES, "tokenizer.json", "model.safetensors", INDEX, "chat_template.jinja", "chat_template.json"],
)
def test_only_regular_files_are_read(directory: Path, file: str, kind: str) -> None:
    (directory / file).unlink(missing_ok=True)
    KINDS[kind](directory / file)
    with pytest.raises(CheckpointError, match=f"{file} is {kind}; expected a file"):
        plans(directory)


@posix
@pytest.mark.parametrize("kind", KINDS)
def test_a_card_that_is_no_file_is_left_out(directory: Path, kind: str) -> None:
    KINDS[kind](directory / "README.md")
    fields = plan_model(open_checkpoint(directory)).fields
    assert not any(field.key == "general.license" for field in fields)


@pytest.mark.parametrize("file", [*FILES, "tokenizer.json", "chat_template.jinja", INDEX])
def test_no_file_is_read_beyond_a_bound(directory: Path, file: str) -> None:
    with (directory / file).open("ab") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(CheckpointError, match=f"{file} has more than"):
        plans(directory)


def test_headers_have_a_bound_and_many_names_take_no_time(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    entry = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    names = [f'"n{i}":{entry}' for i in range(20_000)]
    for pieces, found in ((names, 20_000), ([*names, names[-1]], "names n19999 twice")):
        text = ("{" + ",".join(pieces) + "}").encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        if isinstance(found, int):
            assert len(read_header(path)) == found
        else:
            with pytest.raises(CheckpointError, match=found):
                read_header(path)
    with path.open("wb") as file:
        file.write((1 << 39).to_bytes(8, "little"))
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match="claims"):
        read_header(path)


def test_an_index_of_many_files_takes_no_time(directory: Path) -> None:
    index = {"weight_map": {f"t{i}": f"model-{i}.safetensors" for i in range(5000)}}
    (directory / "model.safetensors").rename(directory / "model-0.safetensors")
    (directory / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="4999 of 5000 shards"):
        open_checkpoint(directory)


# Files that change


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def grown(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b" ")


def rewritten(path: Path) -> None:
    before = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


CHANGES = [replaced, grown, rewritten, Path.unlink]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_file_that_changes_ends_the_conversion_without_a_trace(
    directory: Path, tmp_path: Path, file: str, change: Callable[[Path], Any]
) -> None:
    changed: list[str] = []

    def progress(step: Progress) -> None:
        if not changed:
            changed.append(file)
            change(directory / file)

    with pytest.raises(CheckpointError, match=rf"{file}"):
        convert_checkpoint(directory, tmp_path / "a" / "b", "Q8_0", progress=progress, threads=1)
    assert changed and not (tmp_path / "a").exists()


def test_a_shard_that_changes_is_seen_too(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    copied = Path(shutil.copytree(checkpoint("31b", shards=3), tmp_path / "model"))
    shard = copied / "model-00003-of-00003.safetensors"
    with pytest.raises(CheckpointError, match="changed while it was read"):
        convert_checkpoint(copied, tmp_path / "out", "F32", progress=lambda _: grown(shard))


def test_a_gguf_file_that_changes_ends_the_quantization(
    converted: Callable[..., dict[str, Path]], tmp_path: Path
) -> None:
    source = tmp_path / "tiny.gguf"
    source.write_bytes(converted("e2b")["model"].read_bytes())
    with pytest.raises(GGUFError, match="changed while it was read"):
        quantize_file(source, tmp_path / "q.gguf", "Q8_0", progress=lambda _: os.utime(source, (1, 1)))
    assert not (tmp_path / "q.gguf").exists()


# Names


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("google/gemma-4-E2B-it", "gemma-4-E2B-it"),
        ("a/b/c", "c"),
        ("org/", "org"),
        ("my model", "my-model"),
        ("gémma\u2028x", "g-mma-x"),
        ("--force", "force"),
        ("..", "gemma-4"),
        ("\x1b[31mred\x07", "31mred"),
        ("con", "con"),
        ("CON.x", "CON-x"),
        ("lpt1.tuned.v2", "lpt1-tuned.v2"),
        ("c:\\models\\x", "c--models-x"),
        ("x" * 400, "x" * 200),
        ("\ud800\udcff", "gemma-4"),
        (".hidden", "hidden"),
    ],
)
def test_any_name_gives_a_file_name(directory: Path, name: str, file: str) -> None:
    source = open_checkpoint(directory, name=name)
    assert file_name(source) == file and source.name.isprintable()
    assert plan_model(source).name == file


def test_where_a_name_comes_from(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--some-org--gemma-4-mine" / "snapshots" / ("0123456789" * 4)
    snapshot.parent.mkdir(parents=True)
    directory.rename(snapshot)
    (tmp_path / "my-link").symlink_to(snapshot, target_is_directory=True)
    assert open_checkpoint(snapshot).name == "some-org/gemma-4-mine"
    assert open_checkpoint(tmp_path / "my-link").name == "my-link"
    assert open_checkpoint(tmp_path / "my-link", name="x").name == "x"
    monkeypatch.chdir(snapshot)
    assert open_checkpoint(Path()).name == open_checkpoint(Path("../") / snapshot.name).name
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint(Path("my-link/")).name == open_checkpoint(Path("./my-link/.")).name == "my-link"
    with pytest.raises(CheckpointError, match=r"directory of the hub's cache\. Give a snapshot"):
        open_checkpoint(snapshot.parents[1])


@posix
@pytest.mark.skipif(sys.platform == "darwin", reason="its file system takes UTF-8 alone")
def test_a_directory_whose_name_is_no_utf8(directory: Path, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/mod\xe8le"
    os.rename(directory, odd)
    made = convert_checkpoint(os.fsdecode(odd), tmp_path / "out", "Q8_0", None)
    assert made.model.name == "mod-le-Q8_0.gguf"
    out = os.fsdecode(os.fsencode(tmp_path) + b"/o\xfft")
    assert convert_checkpoint(os.fsdecode(odd), out, "Q8_0", None).model.is_file()


# Places


def device(path: Path) -> None:
    path.symlink_to("/dev/null")


@posix
@pytest.mark.parametrize("make", [Path.mkdir, pipe, unix_socket, device])
@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_file_is_not_replaced(
    directory: Path, tmp_path: Path, make: Callable[[Path], Any], force: bool
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    make(out / "tiny-e2b-Q8_0.gguf")
    before = os.lstat(out / "tiny-e2b-Q8_0.gguf")
    with pytest.raises(OutputError, match=r"is a (directory|device)"):
        convert_checkpoint(directory, out, "Q8_0", None, force=force)
    assert os.path.samestat(before, os.lstat(out / "tiny-e2b-Q8_0.gguf"))
    assert os.listdir(out) == ["tiny-e2b-Q8_0.gguf"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("file", "file is no directory"),
        ("file/under/it", "file is no directory"),
        ("/dev/null", "/dev/null is no directory"),
        ("dangling", "is a link that leads nowhere"),
        ("x" * 300, "too long a name"),
        ("nul\0l", "null (byte|character)"),
        ("~no-such-user/x", None),
    ],
)
def test_places_that_cannot_be_written(
    directory: Path, tmp_path: Path, place: str, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    if message is None:
        assert convert_checkpoint(directory, place, "Q8_0", None).model.is_file()
        return
    with pytest.raises(OutputError, match=message):
        convert_checkpoint(directory, place, "Q8_0", None)
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file", "tiny-e2b"]


@pytest.mark.parametrize("place", ["x" * 300, "nul\0l", "~no-such-user", "model.safetensors", "loop"])
def test_sources_that_are_no_directory(directory: Path, place: str) -> None:
    (directory / "loop").symlink_to("loop")
    with pytest.raises(CheckpointError, match="is not a directory"):
        open_checkpoint(directory / place if "~" not in place else Path(place))


def test_a_quantization_into_a_place_with_a_long_name(
    converted: Callable[..., dict[str, Path]], tmp_path: Path
) -> None:
    for name in ("x" * 300, "nul\0l"):
        with pytest.raises(OutputError):
            quantize_file(converted("e2b")["model"], tmp_path / name, "Q8_0")


TWO_AT_ONCE = """
import sys, warnings
from gemma4_gguf.convert import convert_checkpoint
from gemma4_gguf.errors import OutputError
warnings.simplefilter("ignore")
try:
    convert_checkpoint(sys.argv[1], sys.argv[2], "Q8_0", None, threads=1)
except OutputError as error:
    print("refused:", error)
"""


def test_two_conversions_into_one_place_leave_one_whole_file(directory: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", TWO_AT_ONCE, str(directory), str(tmp_path / "out")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [one.communicate(timeout=60)[0] for one in running]
    assert [one.returncode for one in running] == [0, 0]
    assert sum("refused" in text for text in said) == 1, said
    assert os.listdir(tmp_path / "out") == ["tiny-e2b-Q8_0.gguf"]
    alone = convert_checkpoint(directory, tmp_path / "alone", "Q8_0", None).model
    assert (tmp_path / "out" / "tiny-e2b-Q8_0.gguf").read_bytes() == alone.read_bytes()
