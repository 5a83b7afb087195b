"""What callers hand in, checked and brought into one form."""

from __future__ import annotations

import base64
import copy
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

from gemma4_gguf.errors import MessageError
from gemma4_gguf.prompt.messages import check_messages, media_parts, user_message
from gemma4_gguf.types import Audio, Image, Video

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt "
CALL = {"id": "call_7", "type": "function", "function": {"name": "f", "arguments": '{"x": [1, null]}'}}


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def part_of(*parts: Any) -> Any:
    (message,) = check_messages(user(*parts))
    (part,) = message["content"]
    return part


def test_a_whole_conversation() -> None:
    given = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": "x.png"}],
        },
        {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_7", "content": "3"},
        {"role": "assistant", "content": "Three.", "refusal": None},
    ]
    before = copy.deepcopy(given)
    checked = check_messages(given)
    assert given == before
    assert checked[0] == given[0]
    assert checked[1]["content"][1] == {"type": "image", "image": Image(Path("x.png"))}
    assert checked[2]["tool_calls"][0]["function"]["arguments"] == {"x": [1, None]}
    assert checked[2]["tool_calls"][0]["id"] == "call_7" and checked[2]["reasoning_content"] == "Hm."
    assert checked[3] == given[3]
    assert checked[4] == {"role": "assistant", "content": "Three."}
    assert check_messages(checked) == checked, "checking twice changes nothing"
    assert media_parts(checked) == [Image(Path("x.png"))]


@pytest.mark.parametrize(
    ("url", "source"),
    [
        ("pictures/a b.png", Path("pictures/a b.png")),
        ("file:///tmp/a%20b.png", Path("/tmp/a b.png")),
        (f"data:image/png;base64,{base64.b64encode(PNG).decode()}", PNG),
        ("data:image/svg+xml,%3Csvg%2F%3E", b"<svg/>"),
        ("C:/pictures/x.png", Path("C:/pictures/x.png")),
    ],
)
def test_image_addresses(url: str, source: Path | bytes) -> None:
    assert part_of({"type": "image_url", "image_url": {"url": url}})["image"] == Image(source)
    assert part_of({"type": "image_url", "image_url": url})["image"] == Image(source)


@pytest.mark.parametrize(("detail", "budget"), [("low", 70), ("high", 1120), ("auto", None), (None, None)])
def test_detail_is_a_budget(detail: str | None, budget: int | None) -> None:
    part = {"type": "image_url", "image_url": {"url": "x.png", "detail": detail}}
    assert part_of(part)["image"].image_tokens == budget


def test_sounds_and_clips() -> None:
    data = base64.b64encode(WAV).decode()
    sound = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    assert part_of(sound) == {"type": "audio", "audio": Audio(WAV)}
    sound["input_audio"] = {"data": f"data:audio/wav;base64,{data}"}
    assert part_of(sound) == {"type": "audio", "audio": Audio(WAV)}
    assert part_of({"type": "video_url", "video_url": {"url": "x.mp4"}})["video"] == Video(Path("x.mp4"))


@pytest.mark.parametrize(
    ("messages", "match"),
    [
        ("hello", "expected a list"),
        ({"role": "user"}, "expected a list"),
        ([], "no messages"),
        (["hello"], r"messages\[0\] is a str"),
        (
            [{"role": "user", "content": "a"}, {"role": "robot", "content": "b"}],
            r"messages\[1\].*'robot'.*assistant",
        ),
        ([{"content": "a"}], r"messages\[0\] has the role None"),
        ([{"role": "user"}], r"messages\[0\] of the user has no content"),
        ([{"role": "user", "content": 5}], r"messages\[0\]\.content is a int"),
        (user({"type": "smell"}), r"messages\[0\]\.content\[0\].*'smell'.*image_url"),
        (user("a", "b\ud800"), r"messages\[0\]\.content\[1\]\.text: '\\ud800' after 'b'"),
        ([{"role": "assistant", "reasoning": "\udfff"}], r"messages\[0\]\.reasoning_content: '\\udfff'"),
        (user("a", {"txt": "b"}), r"content\[1\] is of type None"),
        (user({"type": "text", "text": None}), r"content\[0\]\.text is a NoneType"),
        (user({"type": "image_url"}), "image_url is None"),
        (user({"type": "image_url", "image_url": {"url": ""}}), r"image_url\.url is ''"),
        (user({"type": "image_url", "image_url": "https://x.org/a.png"}), "not fetched.*Download"),
        (user({"type": "image_url", "image_url": "HTTP://x.org/a.png"}), "not fetched"),
        (user({"type": "image_url", "image_url": {"url": "x.png", "detail": "huge"}}), "'huge'"),
        (user({"type": "image_url", "image_url": "data:image/png;base64,§§"}), "no valid base64"),
        (user({"type": "image_url", "image_url": "data:image/png;base64"}), "no comma"),
        (user({"type": "input_audio", "input_audio": {"format": "wav"}}), "input_audio"),
        (user({"type": "input_audio", "input_audio": {"data": "!", "format": "wav"}}), "base64"),
        (user({"type": "image", "image": 5}), "expected Image"),
        (user(5), r"content\[0\] is a int"),
        ([{"role": "user", "content": "a", "tool_calls": [CALL]}], "only the assistant"),
        ([{"role": "assistant", "tool_calls": [{"function": {}}]}], r"messages\[0\]\.tool_calls\[0\]"),
        ([{"role": "assistant", "tool_calls": "f()"}], "expected a list"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{x"}}]}],
            "arguments is no JSON",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}],
            "JSON object",
        ),
        ([{"role": "tool", "content": "a", "tool_call_id": 7.5}], "tool_call_id is a float"),
    ],
)
def test_refusals_name_the_place(messages: Any, match: str) -> None:
    with pytest.raises(MessageError, match=match):
        check_messages(messages)


def test_loose_parts(tmp_path: Path) -> None:
    pil = PILImage.new("RGB", (4, 4))
    sound, clip = Audio(b"x"), Video("y.mp4")
    message = user_message(
        ["Look", pil, Image("z.png", 70), sound, clip, Path("a.JPG"), Path("b.flac"), Path("c.mkv")]
    )
    kinds = [part["type"] for part in message["content"]]
    assert kinds == ["text", "image", "image", "audio", "video", "image", "audio", "video"]
    assert message["content"][1]["image"].source is pil
    assert media_parts([message])[1:4] == [Image("z.png", 70), sound, clip]


@pytest.mark.parametrize(
    ("head", "kind"),
    [(PNG, Image), (b"\xff\xd8\xff\xe0", Image), (WAV, Audio), (b"OggS", Audio), (b"0000ftyp", Video)],
)
def test_files_without_a_telling_name(head: bytes, kind: type, tmp_path: Path) -> None:
    path = tmp_path / "download"
    path.write_bytes(head + bytes(32))
    (part,) = user_message([path])["content"]
    assert part == {"type": kind.__name__.lower(), kind.__name__.lower(): kind(path)}


def test_parts_that_are_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("only words")
    cases: list[tuple[list[Any], str]] = [
        ([], "nothing to say"),
        ([tmp_path / "notes.txt"], "no picture, sound or video"),
        ([tmp_path / "missing"], "cannot be read"),
        ([b"bytes"], r"bytes.*Image\("),
        ([None], "NoneType"),
    ]
    for parts, match in cases:
        with pytest.raises(MessageError, match=match):
            user_message(parts)
