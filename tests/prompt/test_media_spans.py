"""Clips in prompts: the ids that transformers' processor writes, the sound after; decoded once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import clip
from PIL import Image as PILImage
from reference import cases

import gemma4_gguf.prompt.media_spans as spans_module
from gemma4_gguf import Image, Session, Video
from gemma4_gguf.engine.kv_cache import Item, MediaSpan
from gemma4_gguf.errors import ContextFullError, MediaError, MessageError
from gemma4_gguf.media.audio import cut_at_pauses, load_sound_track
from gemma4_gguf.media.video import sample_frames

Converted = Callable[..., dict[str, Path]]


@pytest.fixture(scope="module")
def hearing(converted: Converted) -> Iterator[Session]:
    """A member with eyes and ears."""
    files = converted(cases.VIDEO_MEMBER)
    with Session(files["model"], projector=files["projector"], n_ctx=4096, n_threads=2) as opened:
        yield opened


def prompt_of(session: Session, *parts: Any) -> tuple[Item, ...]:
    return session.prompt([{"role": "user", "content": list(parts)}]).items


def spans_of(items: tuple[Item, ...]) -> list[MediaSpan]:
    return [item for item in items if isinstance(item, MediaSpan)]


@pytest.mark.parametrize("number", range(len(cases.VIDEO_PROMPTS)))
def test_ids_are_those_of_transformers(number: int, references: Path, hearing: Session) -> None:
    row = json.loads((references / "videos.json").read_text("utf-8"))[number]
    case, (before, after) = cases.VIDEO_PROMPTS[number], cases.VIDEO_TEXTS
    content = clip(case.total, case.rate, size=case.size)
    frames = sample_frames(content, case.fps, case.frames)
    assert [frame.index for frame in frames] == row["indices"]
    assert [frame.time_s for frame in frames] == pytest.approx(row["timestamps"])
    video = {"type": "video", "video": Video(content, case.fps, case.frames)}
    items = prompt_of(hearing, before, video, after)
    assert [-item.n_tokens if isinstance(item, MediaSpan) else item for item in items] == row["ids"]


def test_frames_are_the_pictures_of_the_clip(hearing: Session) -> None:
    content = clip(8, 4)
    found = spans_of(prompt_of(hearing, {"type": "video", "video": content}))
    pictures = [frame.picture.pixels for frame in sample_frames(content)]
    expected = [hearing.embed(Image(PILImage.fromarray(pixels), image_tokens=70)) for pixels in pictures[:2]]
    for span, embeddings in zip(found[:2], expected, strict=True):
        np.testing.assert_array_equal(span.load(), embeddings)
    assert len(found) == 8 and len({span.key for span in found}) == 8


def test_the_sound_follows_the_frames(hearing: Session) -> None:
    content = clip(10, 10, sound=True)
    items = prompt_of(hearing, {"type": "video", "video": Video(content, frames=3)}, "what?")
    kinds = [span.key.partition(" ")[0] for span in spans_of(items)]
    assert kinds == ["image", "image", "image", "audio"]
    special = hearing.facts.special_tokens
    at = next(i for i, item in enumerate(items) if isinstance(item, MediaSpan) and item.key[:5] == "audio")
    marks = [items[at - 2], items[at - 1], items[at + 1]]
    assert marks == [special["<image|>"], special["<|audio>"], special["<audio|>"]]
    mute = prompt_of(hearing, {"type": "video", "video": Video(content, frames=3, sound=False)}, "what?")
    assert len(spans_of(mute)) == 3
    assert items[: at - 1] == mute[: at - 1], "frames are the same with and without sound"


def test_a_long_track_is_cut_at_pauses(hearing: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    track = np.random.default_rng(1).normal(0, 0.1, 16_000 * 70).astype(np.float32)
    monkeypatch.setattr(spans_module, "load_sound_track", lambda source: track)
    found = spans_of(prompt_of(hearing, {"type": "video", "video": Video(clip(2, 2))}))
    sounds = [span.n_tokens for span in found if span.key.startswith("audio")]
    seconds = [len(piece.samples) / 16_000 for piece in cut_at_pauses(track)]
    assert len(sounds) == len(seconds) == 3 and max(seconds) <= 30
    assert np.abs(np.array(sounds) - np.array(seconds) * 25).max() <= 1


def test_a_member_without_ears_sees_the_clip(converted: Converted) -> None:
    content = clip(4, 4, sound=True)
    track = load_sound_track(content)
    assert track is not None and len(track) >= 16_000, "there is a second of sound to leave out"
    files = converted("26b")
    with Session(files["model"], projector=files["projector"], n_ctx=512, n_threads=2) as large:
        message = {"role": "user", "content": [{"type": "video", "video": content}, "what?"]}
        prompt = large.prompt([message])
        assert [span.bidirectional for span in spans_of(prompt.items)] == [True] * 4
        assert np.isfinite(large.logits(prompt)[-1]).all()
        assert large.ask(Video(content), "what?", max_tokens=3).usage.prompt_tokens > 4 * 60


def test_budget_of_frames(hearing: Session) -> None:
    content = clip(2, 2, size=(640, 360))
    counts = {
        budget: [span.n_tokens for span in spans_of(prompt_of(hearing, video))]
        for budget in (70, 280, "auto")
        for video in [{"type": "video", "video": Video(content, image_tokens=budget)}]
    }
    assert counts == {70: [66, 66], 280: [264, 264], "auto": [120, 120]}
    with pytest.raises(MediaError, match="70, 140"):
        prompt_of(hearing, {"type": "video", "video": Video(content, image_tokens=71)})


def test_a_clip_is_decoded_once_for_many_turns(
    hearing: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip(4, 4))
    decoded = []
    real = spans_module.sample_frames
    monkeypatch.setattr(spans_module, "sample_frames", lambda *a, **k: decoded.append(a) or real(*a, **k))
    chat = hearing.chat()
    chat.send(path, "what?", max_tokens=2)
    reply = chat.send("and then?", max_tokens=2)
    assert len(decoded) == 1 and reply.usage.reused_tokens > 4 * 60
    path.write_bytes(clip(6, 4))
    assert len(spans_of(prompt_of(hearing, {"type": "video", "video": path}))) == 6
    decoded.clear()
    most = spans_module.MAX_CACHED_CLIPS
    for number in (*range(most + 1), *range(1, most + 1), 0):  # the first is gone, the others are there
        prompt_of(hearing, {"type": "video", "video": Video(path, frames=number + 1)})
    assert len(decoded) == most + 2


def test_clips_in_tool_results_and_between_pictures(hearing: Session) -> None:
    tool = {"type": "function", "function": {"name": "record", "description": "Records", "parameters": {}}}
    call = {"id": "a", "type": "function", "function": {"name": "record", "arguments": {}}}
    content = clip(2, 2)
    picture = np.asarray(sample_frames(content)[0].picture.pixels)
    image = {"type": "image", "image": Image(PILImage.fromarray(picture), image_tokens=140)}
    messages = [
        {"role": "user", "content": [image, "record"]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "video", "video": content}]},
    ]
    items = hearing.prompt(messages, tools=[tool]).items
    counts = [span.n_tokens for span in spans_of(items)]
    assert len(counts) == 3 and counts[1] == counts[2] < counts[0]


def test_what_is_wrong_with_a_clip(hearing: Session, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no video that can be read"):
        hearing.ask(Video(b"words, not a clip" * 50), "what?")
    with pytest.raises(MediaError, match="frames=0"):
        hearing.ask(Video(clip(2, 2), frames=0), "what?")
    with pytest.raises(ContextFullError, match=r"sound=False"):
        hearing.describe(Video(clip(80, 10), frames=80))
    with pytest.raises(MessageError, match="no single span"):
        hearing.embed(Video(clip(2, 2)))  # type: ignore[arg-type]
