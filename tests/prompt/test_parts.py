"""Parts and sources in every shape that people bring: read, or refused with the way out."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage
from pydantic import BaseModel

from gemma4_gguf.errors import MessageError
from gemma4_gguf.prompt.messages import check_messages, user_message
from gemma4_gguf.types import Audio, Image, Media, Video


def png() -> bytes:
    stream = io.BytesIO()
    PILImage.new("RGB", (9, 7), "red").save(stream, "PNG")
    return stream.getvalue()


PNG = png()
B64 = base64.b64encode(PNG).decode()
RAW = bytes(range(250)) + b"\xfb\xff"  # its base64 has both characters that addresses spell otherwise
RAW64 = base64.b64encode(RAW).decode()
PICTURE = PILImage.new("RGB", (4, 4))


def part_of(part: Any) -> Any:
    (message,) = check_messages([{"role": "user", "content": [part]}])
    (read,) = message["content"]
    return read


class Block(BaseModel):
    type: str
    text: str


SHAPES: list[tuple[Any, Media]] = [
    ({"type": "image", "url": "x.png"}, Image(Path("x.png"))),
    ({"type": "image", "path": "x.png"}, Image(Path("x.png"))),
    ({"type": "image", "image": "x.png"}, Image(Path("x.png"))),
    ({"type": "image", "image": Path("x.png")}, Image(Path("x.png"))),
    ({"type": "image", "image": PICTURE}, Image(PICTURE)),
    ({"type": "image_pil", "image_pil": PICTURE}, Image(PICTURE)),
    ({"type": "image", "image": PNG}, Image(PNG)),
    ({"type": "image", "base64": B64}, Image(PNG)),
    ({"type": "image", "data": B64, "mimeType": "image/png"}, Image(PNG)),
    ({"type": "image", "image": f"data:image/png;base64,{B64}"}, Image(PNG)),
    ({"type": "image", "image": "file:///a/b%20c.png"}, Image(Path("/a/b c.png"))),
    ({"type": "image", "image": Image("x.png", 70)}, Image("x.png", 70)),
    ({"type": "image", "url": "x.png", "image_tokens": 70}, Image(Path("x.png"), 70)),
    ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": B64}}, Image(PNG)),
    ({"type": "image", "source": {"type": "url", "url": "x.png"}}, Image(Path("x.png"))),
    (
        {"type": "image_url", "image_url": {"url": "x.png", "detail": "original"}},
        Image(Path("x.png"), "auto"),
    ),
    ({"type": "image_url", "image_url": PNG}, Image(PNG)),
    ({"type": "input_image", "image_url": "x.png", "detail": "low"}, Image(Path("x.png"), 70)),
    ({"inlineData": {"mimeType": "image/png", "data": B64}}, Image(PNG)),
    ({"inline_data": {"mime_type": "image/png", "data": PNG}}, Image(PNG)),
    ({"fileData": {"mimeType": "video/mp4", "fileUri": "file:///x.mp4"}}, Video(Path("/x.mp4"))),
    (
        {"type": "file", "file": {"filename": "a.png", "file_data": f"data:image/png;base64,{B64}"}},
        Image(PNG),
    ),
    ({"type": "input_file", "file_data": f"data:audio/wav;base64,{RAW64}"}, Audio(RAW)),
    ({"type": "input_file", "filename": "a", "file_data": B64}, Image(PNG)),
    ({"type": "resource", "resource": {"uri": "a:b", "mimeType": "image/png", "blob": B64}}, Image(PNG)),
    ({"image_url": {"url": "x.png"}}, Image(Path("x.png"))),
    ({"type": "image_url", "image_url": f"data:image/png;base64, {B64}"}, Image(PNG)),
    ({"type": "audio_url", "audio_url": {"url": "x.wav"}}, Audio(Path("x.wav"))),
    ({"type": "audio_url", "audio_url": "x.wav"}, Audio(Path("x.wav"))),
    ({"type": "audio", "url": "x.wav"}, Audio(Path("x.wav"))),
    ({"type": "audio", "data": RAW64, "mimeType": "audio/wav"}, Audio(RAW)),
    ({"type": "input_audio", "input_audio": {"data": RAW64, "format": "wav"}}, Audio(RAW)),
    ({"type": "input_audio", "input_audio": f"data:audio/wav;base64,{RAW64}"}, Audio(RAW)),
    ({"type": "video", "url": "x.mp4", "fps": 2}, Video(Path("x.mp4"), fps=2)),
    ({"type": "video", "video": "x.mp4", "frames": 8}, Video(Path("x.mp4"), frames=8)),
    ({"type": "video_url", "video_url": "x.mp4"}, Video(Path("x.mp4"))),
]


@pytest.mark.parametrize(("part", "medium"), SHAPES, ids=lambda value: str(value)[:60])
def test_media_in_every_shape(part: Any, medium: Media) -> None:
    kind = type(medium).__name__.lower()
    read = part_of(part)
    assert read == {"type": kind, kind: medium}
    assert part_of(read) == read


def test_samples_keep_their_rate() -> None:
    samples = np.zeros(8, np.float32)
    for key in ("sample_rate_hz", "sampling_rate", "sample_rate"):
        sound = part_of({"type": "audio", "audio": samples, key: 8000})["audio"]
        assert sound.source is samples and sound.sample_rate_hz == 8000


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "a"},
        {"type": "input_text", "text": "a"},
        {"type": "output_text", "text": "a", "annotations": []},
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": {"value": "a", "annotations": []}},
        {"type": "refusal", "refusal": "a"},
        {"type": "resource", "resource": {"uri": "a:b", "mimeType": "text/plain", "text": "a"}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a"}},
        {"type": "file", "file": {"file_data": "data:text/plain;base64,YQ=="}},
        {"text": "a"},
        Block(type="text", text="a"),
        "a",
    ],
    ids=str,
)
def test_text_in_every_shape(part: Any) -> None:
    assert part_of(part) == {"type": "text", "text": "a"}


WRAPPED = "\n".join(RAW64[i : i + 76] for i in range(0, len(RAW64), 76))


@pytest.mark.parametrize(
    "data",
    [
        RAW64,
        WRAPPED,
        WRAPPED.replace("\n", "\r\n") + "\r\n",
        RAW64.rstrip("="),
        base64.urlsafe_b64encode(RAW).decode(),
        base64.urlsafe_b64encode(RAW).decode().rstrip("="),
        RAW64.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
        f"  {RAW64}\t",
    ],
    ids=["plain", "lines", "crlf", "unpadded", "url-safe", "both", "percent", "spaces"],
)
@pytest.mark.parametrize(
    "header",
    [
        "data:audio/wav;base64,",
        "DATA:audio/wav;BASE64,",
        "data:;base64,",
        "data:audio/wav;codecs=1; base64,",
        "Data:audio/wav;charset=x;base64,",
    ],
)
def test_base64_in_every_spelling(data: str, header: str) -> None:
    assert part_of({"type": "audio", "data": data})["audio"].source == RAW
    assert part_of({"type": "audio_url", "audio_url": header + data})["audio"].source == RAW


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": B64}},
        {"type": "image", "image": B64},
        {"type": "image", "url": B64 * 500},
        {"type": "image", "url": f"image/png;base64,{B64}"},
        {"type": "image", "data": f"{B64[:-1]}§"},
        {"type": "image", "data": "A" * 41},
        {"type": "input_audio", "input_audio": {"data": "ä" + RAW64}},
        {"type": "video_url", "video_url": RAW64 * 90},
        {"type": "image", "source": {"type": "base64", "data": "%%%" + B64}},
    ],
    ids=lambda part: str(part)[:40],
)
def test_what_is_no_base64_or_bare_is_refused_without_its_data(part: Any) -> None:
    with pytest.raises(MessageError, match="base64") as raised:
        part_of(part)
    assert (
        len(str(raised.value)) < 300
        and B64[8:40] not in str(raised.value)
        and RAW64[:40] not in str(raised.value)
    )


@pytest.mark.parametrize(
    ("part", "match"),
    [
        ({"type": "image"}, "image is None"),
        ({"type": "image", "url": "x.png", "data": B64}, "url and data; expected one"),
        ({"type": "image", "url": "x.png", "min_pixels": 9}, "'min_pixels', which is not read"),
        ({"type": "image", "source": {"type": "file", "file_id": "f1"}}, "file_id"),
        ({"type": "input_image", "file_id": "f1"}, "file_id"),
        ({"type": "image_url", "image_url": {"url": "x.png", "detail": ["low"]}}, r"detail is \['low'\]"),
        ({"type": "image", "url": "gs://bucket/x.png"}, "not fetched"),
        ({"type": "image", "url": "S3://bucket/x.png"}, "not fetched"),
        ({"type": "image", "url": "file://elsewhere/x.png"}, "on elsewhere"),
        ({"type": "image", "url": "file://[x/y.png"}, "no valid file"),
        ({"type": "image", "url": "data:image/png;base64,"}, "empty"),
        ({"type": "image", "url": "data:,"}, "no data"),
        ({"type": "image", "url": "data:image/svg+xml,\ud800"}, "surrogate"),
        ({"type": "image", "image": Audio(b"x")}, "expected Image"),
        (
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,YQ=="}},
            "application/pdf.*pages",
        ),
        (
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "YQ=="},
            },
            "pdf",
        ),
        ({"type": "redacted_thinking", "data": "x"}, "redacted_thinking"),
        ({"type": "image_embeds", "image_embeds": "x"}, "image_embeds"),
        ({"type": "text", "text": "a", "image": "x.png"}, "'image', which is not read"),
        ({"type": "file", "file": {"file_data": "data:text/plain,a"}, "caption": "b"}, "'caption'"),
        ({"type": "document", "source": {"type": "text", "data": "a"}, "context": "b"}, "'context'"),
        ({"type": "resource", "resource": {"uri": "a:b", "text": "a", "more": "b"}}, "'more'"),
        ({"type": ["text"], "text": "a"}, r"type \['text'\]"),
        ({}, "of type None"),
        ({"executableCode": {"code": "1"}}, "of type None"),
        ({"type": "thinking", "thinking": "a"}, "only the assistant thinks"),
        ({"type": "tool_use", "id": "1", "name": "f", "input": {}}, "only the assistant calls"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_refusals_say_what_is_wrong(part: Any, match: str) -> None:
    with pytest.raises(MessageError, match=match):
        part_of(part)


@pytest.mark.parametrize(
    "spelling",
    [
        *("sign.png", "./sign.png", "FOLDER/sign.png", "SIGN.PNG", "download", "~/sign.png", "my sign.png"),
        *(" sign.png\n", "'sign.png'", '"FOLDER/sign.png" ', "my\\ sign.png"),
        *("file://FOLDER/sign.png", "FILE:FOLDER/sign.png", "file://FOLDER/my%20sign.png"),
    ],
)
def test_a_text_that_names_a_picture_is_refused_with_the_way_out(
    spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("sign.png", "SIGN.PNG", "download", "my sign.png"):
        (tmp_path / name).write_bytes(PNG)
    text = spelling.replace("FOLDER", str(tmp_path))
    with pytest.raises(MessageError, match=r"name of a picture\. Give Path\('"):
        user_message([text, "What does it say?"])
    explicit = {"role": "user", "content": [{"type": "text", "text": text}]}
    assert check_messages([explicit]) == [explicit]
    assert check_messages([{"role": "user", "content": text}])[0]["content"] == text


@pytest.mark.parametrize(
    "text",
    [
        "missing.png",
        "notes.txt",
        "folder.png",
        "a\0.png",
        "x" * 5000,
        "",
        "~nobody/x.png",
        "sign.png?",
        "'sign.png",
        "''",
        "file://far/sign.png",
    ],
)
def test_other_texts_stay_texts(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / "sign.png").write_bytes(PNG)
    (tmp_path / "folder.png").mkdir()
    assert user_message([text])["content"] == [{"type": "text", "text": text}]


@pytest.mark.parametrize("value", [b"x", bytearray(b"x"), memoryview(b"x")])
def test_bytes_are_refused_with_the_way_out(value: Any) -> None:
    with pytest.raises(MessageError, match=r"Image\(…\), Audio\(…\) or Video\(…\)"):
        user_message(["look", value])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert user_message([str(tmp_path / "pipe")])["content"][0]["type"] == "text"
    with pytest.raises(MessageError, match="cannot be read"):
        user_message([tmp_path / "pipe"])
