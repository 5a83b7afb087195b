"""Saved conversations: back without decoding, whole or refused."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media_samples import picture, sweep
from nano_samples import GREEDY, scene
from PIL import Image as PILImage

from gemma4_gguf import Audio, Chat, Image, Session, Video
from gemma4_gguf.chat_file import Blobs, pack_messages, read_chat_file, unpack_messages
from gemma4_gguf.engine.context import Context
from gemma4_gguf.engine.kv_cache import Item, SequenceState
from gemma4_gguf.engine.sampler import Sampler
from gemma4_gguf.errors import EngineError, MediaError, OutputError, SavedChatError
from gemma4_gguf.prompt.messages import check_messages

EXACT: dict[str, Any] = {
    "device": "cpu",
    "n_ctx": 1024,
    "n_threads": 2,
    "kv_type": "f32",
    "flash_attention": False,
}
SHORT = GREEDY | {"max_tokens": 12}


def add_two(a: int, b: int) -> int:
    """Adds."""
    return a + b


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions that each prompt had to decode."""
    found: list[int] = []
    prefill = Context.prefill

    def watched(self: Context, state: SequenceState, items: list[Item], others: Any = ()) -> int:
        reused = prefill(self, state, items, others)
        found.append(state.n_past - reused)
        return reused

    monkeypatch.setattr(Context, "prefill", watched)
    return found


@pytest.fixture(scope="module")
def saved(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "talk.chat"
    with Session(nano, **EXACT) as session:
        chat = session.chat(system="Be brief.")
        chat.send(scene(0), "detect", **SHORT)
        chat.send("detect", **SHORT)
        chat.save(path)
    return path


@pytest.mark.parametrize(
    ("member", "thinking"),
    [
        ("e2b", True),
        ("e4b", True),
        ("12b", True),
        ("26b", True),
        ("31b", True),
        ("e2b", False),
        ("31b", False),
    ],
)
def test_a_loaded_chat_goes_on_without_decoding(
    member: str,
    thinking: bool,
    converted: Callable[..., dict[str, Path]],
    tmp_path: Path,
    decoded: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Longer than the window, with a thought that the next prompt lacks, a picture, maybe a sound."""
    files = converted(member)
    logits: list[np.ndarray] = []
    with Session(files["model"], projector=files["projector"], **EXACT) as session:
        chat = session.chat(system="A system prompt of some length. " * 3, thinking=thinking)
        media: list[Any] = [Image(picture(96, 144), 70)]
        media += [Audio(sweep(600))] if session.has_audio else []
        chat.send(*media, "What is it? " * 5, max_tokens=40, seed=1, temperature=3.0)
        chat.save(tmp_path / "talk")
        for number in range(2):
            again = session.load_chat(tmp_path / "talk") if number == 0 else chat
            if number == 1:
                session.ask("something else")
            assert again.messages[0] == chat.messages[0] and again.thinking == thinking
            with monkeypatch.context() as patch:
                patch.setattr(
                    Sampler, "draw", lambda *_: logits.append(session.engine.context.logits().copy()) or 1
                )
                usage = again.send("And now?", max_tokens=1).usage
            if number == 0:
                assert usage.reused_tokens > 100 and decoded[-1] < 110, "the drawn text and the new one"
                assert usage.reused_tokens + decoded[-1] == usage.prompt_tokens
    assert np.abs(logits[0] - logits[1]).max() < 0.02


def test_another_process_answers_the_same(nano: Path, saved: Path, decoded: list[int]) -> None:
    with Session(nano, **EXACT) as session:
        chat = session.load_chat(saved)
        assert [message["role"] for message in chat.messages] == [
            "system",
            "user",
            "assistant",
            "user",
            "assistant",
        ]
        loaded = chat.send("detect", **SHORT)
        assert decoded == [loaded.usage.prompt_tokens - loaded.usage.reused_tokens] and decoded[0] < 30
        fresh = session.load_chat(saved, state=False)
        session.ask("something else", max_tokens=1)
        other = fresh.send("detect", **SHORT)
        assert other.text == loaded.text and other.usage.prompt_tokens == loaded.usage.prompt_tokens


def test_everything_said_comes_back(session: Session, tmp_path: Path) -> None:
    (tmp_path / "scene.png").write_bytes(Path(scene(1).source).read_bytes())  # type: ignore[arg-type]
    chat = session.chat(tools=[add_two], thinking=True, on_full="drop_oldest")
    chat.messages = [
        {"role": "user", "content": [{"type": "image", "image": tmp_path / "scene.png"}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "tool_calls": [{"id": "c1", "function": {"name": "add_two", "arguments": {"a": 1, "b": 2}}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
    ]
    chat.dropped = [{"role": "user", "content": "dropped"}]
    chat.save(tmp_path / "talk")
    (tmp_path / "scene.png").unlink()
    again = session.load_chat(tmp_path / "talk")
    content = again.messages[0]["content"][0]["image"]
    assert content.source == Path(scene(1).source).read_bytes()  # type: ignore[arg-type]
    assert again.messages[1]["tool_calls"][0]["function"]["arguments"] == {"a": 1, "b": 2}
    assert again.messages[1]["reasoning_content"] == "hm" and again.messages[2]["content"] == "3"
    assert (again.thinking, again.on_full, again.dropped) == (True, "drop_oldest", chat.dropped)
    assert [tool.declaration for tool in again.tools] == [tool.declaration for tool in chat.tools]
    assert again.tools[0].name == "add_two" and again.tools[0].run is None
    assert session.load_chat(tmp_path / "talk", tools=[add_two]).tools[0].run is add_two
    with pytest.raises(MediaError, match=r"scene\.png"):
        chat.save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_media_of_every_form_are_kept() -> None:
    array, sound = picture(50, 60), sweep(100)
    media: list[Any] = [
        Image(array, "auto"),
        Image(PILImage.fromarray(array[::-1]).convert("CMYK"), 70),
        Audio(sound, sample_rate_hz=8000),
        Audio(b"encoded"),
        Video(b"clip", fps=2.0, frames=4, sound=False),
    ]
    parts = [{"type": type(m).__name__.lower(), type(m).__name__.lower(): m} for m in media]
    blobs = Blobs()
    packed = json.loads(json.dumps(pack_messages([{"role": "user", "content": parts * 2}], blobs)))
    assert len(blobs.pieces) == 5, "what comes twice is kept once"
    found = [
        p[p["type"]] for p in unpack_messages(packed, [memoryview(b) for b in blobs.pieces])[0]["content"]
    ]
    with_png = [PILImage.open(io.BytesIO(image.source)) for image in found[:2]]
    assert np.array_equal(np.asarray(with_png[0]), array) and with_png[1].mode == "RGB"
    assert np.array_equal(found[2].source, sound) and found[2].sample_rate_hz == 8000
    assert found[3] == media[3] and found[4] == media[4] and found[0].image_tokens == "auto"


def test_an_empty_chat_and_one_that_was_overtaken(session: Session, tmp_path: Path) -> None:
    session.chat().save(tmp_path / "empty")
    assert session.load_chat(tmp_path / "empty").messages == []
    chat, other = session.chat(), session.chat()
    chat.send("one", max_tokens=2)
    other.send("two", max_tokens=2)
    chat.save(tmp_path / "overtaken")
    assert session.load_chat(tmp_path / "overtaken").send("go on", max_tokens=1).usage.completion_tokens == 1


def test_a_chat_in_mid_reply_is_not_saved(session: Session, tmp_path: Path) -> None:
    chat = session.chat()
    chat.send("one", max_tokens=2)
    stream = chat.stream("two", max_tokens=8)
    next(stream)
    with pytest.raises(EngineError, match="mid-reply"):
        chat.save(tmp_path / "talk")
    stream.close()
    chat.save(tmp_path / "talk")
    assert isinstance(session.load_chat(tmp_path / "talk"), Chat)


# Refused


def test_damaged_files_are_refused(session: Session, saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    rng = np.random.default_rng(0)
    bad = tmp_path / "bad"
    damaged = [content[:n] for n in (0, 5, 19, 20, 60, len(content) // 2, len(content) - 1)]
    damaged += [content + b"x", b"GGUF" + content[4:]]
    for at in rng.integers(0, len(content), 40):
        damaged.append(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    for data in damaged:
        bad.write_bytes(data)
        with pytest.raises(SavedChatError, match="bad"):
            session.load_chat(bad)
    with pytest.raises(SavedChatError, match="none"):
        session.load_chat(tmp_path / "none")
    with pytest.raises(SavedChatError):
        session.load_chat(tmp_path)


def rewritten(saved: Path, target: Path, change: Callable[[dict[str, Any], list[bytes]], None]) -> Path:
    """A file with another header or other blobs and a right checksum."""
    content = saved.read_bytes()
    n = int.from_bytes(content[12:20], "little")
    header, blobs, at = json.loads(content[20 : 20 + n]), [], 20 + n
    for size in header["blobs"]:
        blobs.append(content[at : at + size])
        at += size
    change(header, blobs)
    text = json.dumps(header).encode()
    body = content[:12] + len(text).to_bytes(8, "little") + text + b"".join(blobs)
    target.write_bytes(body + hashlib.sha256(body).digest())
    return target


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda h, b: h["made_by"].update(fingerprint="x", model="Other"), "Other.*state=False"),
        (lambda h, b: h["made_by"].update(projector="x"), "projector.*state=False"),
        (lambda h, b: h["made_by"].update(llama_cpp="9.9"), "9.9.*state=False"),
        (lambda h, b: h["made_by"].update(kv_type="q8_0"), "q8_0.*state=False"),
        (lambda h, b: h.pop("messages"), "messages"),
        (lambda h, b: h.update(blobs=[]), "header says"),
        (lambda h, b: h["state"].update(data=99), "whole"),
        (lambda h, b: h["state"].update(spans=[]), "whole"),
        (lambda h, b: h["messages"][0].update(role="nobody"), "nobody"),
        (lambda h, b: shorten(h, b), "llama.cpp"),
    ],
)
def test_what_does_not_fit_is_refused(
    change: Callable[[dict[str, Any], list[bytes]], None],
    match: str,
    session: Session,
    nano: Path,
    saved: Path,
    tmp_path: Path,
) -> None:
    path = rewritten(saved, tmp_path / "changed", change)
    with Session(nano, **EXACT) as exact:
        with pytest.raises(SavedChatError, match=match):
            exact.load_chat(path)
        assert exact.ask("still here?", max_tokens=1).usage.completion_tokens == 1


def shorten(header: dict[str, Any], blobs: list[bytes]) -> None:
    number = header["state"]["data"]
    blobs[number] = blobs[number][:-100]
    header["blobs"][number] -= 100


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of all values in a JSON value, itself left out."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*path, key)
        yield from leaves(value[key], (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


WRONG = (None, True, 0, -1, 10**30, 0.5, "x", "", "\ud800", [], [None], {}, {"x": 1}, float("nan"))


def test_every_value_of_a_file_is_checked(saved: Path, tmp_path: Path) -> None:
    """A file with a right checksum is refused, or says what can be, with any of its values changed."""

    def small(header: dict[str, Any], blobs: list[bytes]) -> None:
        number = header["state"]["data"]
        blobs[number], header["blobs"][number] = bytes(8), 8

    path = rewritten(saved, tmp_path / "small", small)
    n = int.from_bytes(path.read_bytes()[12:20], "little")
    whole = json.loads(path.read_bytes()[20 : 20 + n])
    refused = []
    for place, wrong in itertools.product(leaves(whole), WRONG):

        def put(header: dict[str, Any], _: list[bytes], *, place: Any = place, wrong: Any = wrong) -> None:
            at(header, place[:-1])[place[-1]] = wrong

        changed = rewritten(path, tmp_path / "changed", put)
        try:
            found = read_chat_file(changed)
        except SavedChatError as error:
            assert str(changed) in str(error) and len(str(error)) < 800
            refused.append((place, wrong))
        else:
            assert all(isinstance(value, str | None) for value in vars(found.origin).values())
            assert found.thinking in (True, False) and found.on_full in ("error", "drop_oldest")
            assert not found.messages or check_messages(found.messages) == found.messages
    expected = {place for place in leaves(whole) if place[0] not in ("messages", "dropped", "tools")}
    assert expected <= {place for place, wrong in refused if wrong == {"x": 1}}


def test_a_file_that_cannot_be_read(session: Session, tmp_path: Path) -> None:
    for name in ("a\0b", "\ud800", "~nobody/x", "x" * 5000):
        with pytest.raises(SavedChatError, match="cannot be read"):
            session.load_chat(name)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(SavedChatError, match="no file"):
            session.load_chat(tmp_path / "pipe")


def test_a_chat_outlives_its_model_file(nano: Path, tmp_path: Path) -> None:
    model = tmp_path / nano.name
    shutil.copy(nano, model)
    with Session(model, projector=None, **EXACT) as session:
        chat = session.chat()
        chat.send("one", **SHORT)
        chat.save(tmp_path / "before")
        try:
            model.unlink()
        except OSError:
            pytest.skip("this system keeps a file that is open")
        chat.save(tmp_path / "after")
        with pytest.raises(SavedChatError, match=r"no longer there.*state=False"):
            session.load_chat(tmp_path / "before")
        assert session.load_chat(tmp_path / "after").messages == chat.messages
        assert session.load_chat(tmp_path / "before", state=False).messages == chat.messages


def test_another_version_model_or_cache_is_refused(
    nano: Path, saved: Path, tmp_path: Path, converted: Callable[..., dict[str, Path]]
) -> None:
    content = bytearray(saved.read_bytes())
    content[8] = 99
    (tmp_path / "later").write_bytes(content)
    with Session(converted("e2b")["model"], **EXACT) as other:
        with pytest.raises(SavedChatError, match="version 99"):
            other.load_chat(tmp_path / "later")
        with pytest.raises(SavedChatError, match="another model file"):
            other.load_chat(saved)
        assert len(other.load_chat(saved, state=False).messages) == 5
    with Session(nano, **EXACT | {"n_ctx": 64}) as small, pytest.raises(SavedChatError, match="n_ctx"):
        small.load_chat(saved)
    with (
        Session(nano, **EXACT | {"flash_attention": True}) as other,
        pytest.raises(SavedChatError, match="flash_attention"),
    ):
        other.load_chat(saved)


def test_a_failed_save_leaves_the_old_file(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "talk"
    chat = session.chat()
    chat.send("one", max_tokens=2)
    chat.save(path)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gemma4_gguf.files.atomic_write.PendingFile.write_at", full)
    with pytest.raises(OutputError, match="full"):
        chat.save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["talk"]
    with pytest.raises(OutputError):
        chat.save(tmp_path / "no" / "such" / "folder")
