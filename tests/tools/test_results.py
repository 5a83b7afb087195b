"""What functions return, as the model reads it."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import io
import json
import uuid
from array import array
from collections import OrderedDict, UserDict, deque, namedtuple
from pathlib import PurePosixPath
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture
from pydantic import BaseModel, ConfigDict, Field, RootModel, field_serializer

from gemma4_gguf.errors import ToolError
from gemma4_gguf.tools.results import as_result
from gemma4_gguf.types import Audio, Image, Video

RED = Picture.new("RGB", (4, 4), "red")
Pair = namedtuple("Pair", "a b")


class Level(enum.Enum):
    LOW = 1
    HIGH = "high"


class Word(str, enum.Enum):
    YES = "yes"


@dataclasses.dataclass
class Point:
    x: int
    at: datetime.date


class Row(BaseModel):
    name: str
    when: datetime.datetime
    secret: str = Field("s", exclude=True)
    many: list[Point] = []

    @field_serializer("name")
    def _loud(self, name: str) -> str:
        return name.upper()


class Shot(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    caption: str
    picture: Picture.Image


NOON = datetime.datetime(2026, 7, 1, 12, 0, tzinfo=datetime.timezone.utc)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (2.5, 2.5),
        (float("nan"), None),
        ([float("inf"), -float("inf")], ["Infinity", "-Infinity"]),
        (np.int64(3), 3),
        (np.uint8(3), 3),
        (np.float32(0.5), 0.5),
        (np.float64("nan"), None),
        (np.bool_(True), True),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (np.array(7), 7),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([0.5, np.nan]), [0.5, None]),
        ({"mean": np.float32(1.5), "rows": [np.int16(1)]}, {"mean": 1.5, "rows": [1]}),
        (np.datetime64("2026-07-01"), "2026-07-01"),
        (np.zeros(2, dtype=[("a", "i4"), ("b", "f4")]), [[0, 0.0], [0, 0.0]]),
        (array("d", [1.0, 2.0]), [1.0, 2.0]),
        (NOON, "2026-07-01T12:00:00Z"),
        (NOON.date(), "2026-07-01"),
        (NOON.time(), "12:00:00"),
        (datetime.timedelta(seconds=5), "PT5S"),
        (decimal.Decimal("1.10"), "1.10"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (PurePosixPath("a/b"), "a/b"),
        (Level.LOW, 1),
        ([Level.HIGH, Word.YES], ["high", "yes"]),
        ({Level.HIGH: 1, 2: 3, None: 4}, {"high": 1, "2": 3, "null": 4}),
        ({NOON.date(): 1}, {"2026-07-01": 1}),
        ({3, 1, 20}, [1, 3, 20]),
        (frozenset("ba"), ["a", "b"]),
        ({"a", 1}, [1, "a"]),
        ((1, "a"), [1, "a"]),
        (Pair(1, 2), {"a": 1, "b": 2}),
        (range(3), [0, 1, 2]),
        (deque([1]), [1]),
        ({"a": 1}.keys(), ["a"]),
        ({"b": 1, "a": 2}.values(), [1, 2]),
        ({"a": 1}.items(), [["a", 1]]),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (UserDict(a=1), {"a": 1}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        ({"a": b"text"}, {"a": "text"}),
        (bytearray(b"text"), "text"),
        (Point(1, NOON.date()), {"x": 1, "at": "2026-07-01"}),
        ([Point(1, NOON.date())], [{"x": 1, "at": "2026-07-01"}]),
        (
            Row(name="a", when=NOON, many=[Point(1, NOON.date())]),
            {"name": "A", "when": "2026-07-01T12:00:00Z", "many": [{"x": 1, "at": "2026-07-01"}]},
        ),
        (
            {"rows": [Row(name="a", when=NOON)]},
            {"rows": [{"name": "A", "when": "2026-07-01T12:00:00Z", "many": []}]},
        ),
        (RootModel[list[int]]([1, 2]), [1, 2]),
        ({"type": "text", "text": "x", "id": 1}, {"type": "text", "text": "x", "id": 1}),
        ([{"type": "image", "data": [1, 2]}], [{"type": "image", "data": [1, 2]}]),
        ({"content": []}, {"content": []}),
        (
            {"content": [{"type": "text", "text": "x"}], "page": 2},
            {"content": [{"type": "text", "text": "x"}], "page": 2},
        ),
        ([], []),
    ],
)
def test_values_become_json(value: Any, expected: Any) -> None:
    content = as_result(value, "f").content
    assert isinstance(content, str)

    def refuse(word: str) -> Any:
        raise ValueError(word)

    found = json.loads(content, parse_constant=refuse)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ""),
        ("as it is", "as it is"),
        ('{"a": 1}', '{"a": 1}'),
        ("caf\udce9", "caf�"),
        (b"caf\xc3\xa9", '"café"'),
    ],
)
def test_text_stays_text(value: Any, expected: str) -> None:
    assert as_result(value, "f").content == expected


IMAGE, SOUND, CLIP = Image(b"x", 70), Audio(b"y"), Video(b"z")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (IMAGE, [IMAGE]),
        (SOUND, [SOUND]),
        (CLIP, [CLIP]),
        (RED, [Image(RED)]),
        ([RED], [Image(RED)]),
        (("seen", RED, 3, {"a": 1}), ["seen", Image(RED), "3", '{"a": 1}']),
        ({"caption": "c", "shot": RED}, ['{"caption": "c", "shot": "image 1"}', Image(RED)]),
        ({"a": [IMAGE, {"b": SOUND}]}, ['{"a": ["image 1", {"b": "audio 2"}]}', IMAGE, SOUND]),
        (Shot(caption="c", picture=RED), ['{"caption": "c", "picture": "image 1"}', Image(RED)]),
        (
            {"shots": [Shot(caption="c", picture=RED)]},
            ['{"shots": [{"caption": "c", "picture": "image 1"}]}', Image(RED)],
        ),
        ([[RED], "x"], ['[["image 1"], "x"]', Image(RED)]),
    ],
)
def test_media_stay_media(value: Any, expected: list[Any]) -> None:
    assert as_result(value, "f").content == expected


def png() -> str:
    file = io.BytesIO()
    RED.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


PNG = Image(base64.b64decode(png()))
DATA = f"data:image/png;base64,{png()}"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": DATA}},
        {"type": "image_url", "image_url": DATA},
        {"type": "input_image", "image_url": DATA},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png()}},
        {"type": "image", "image": Image(base64.b64decode(png()))},
        {"inlineData": {"mimeType": "image/png", "data": png()}},
    ],
)
def test_parts_of_messages_are_shown(part: dict[str, Any]) -> None:
    for value in (part, [part], [{"type": "text", "text": "seen"}, part], ["seen", part]):
        content = as_result(value, "f").content
        assert content == (["seen"] if isinstance(value, list) and len(value) > 1 else []) + [PNG]


@pytest.mark.parametrize(
    "value",
    [
        [{"type": "file", "path": "a.png"}, {"type": "directory", "path": "b"}],
        [{"type": "image", "url": "https://example.com/a.png"}],
        [{"type": "image", "data": "not base64!"}],
        {"type": "image", "data": 3},
        {"type": "text", "text": "x", "score": 0.5},
    ],
)
def test_what_only_looks_like_a_part_is_data(value: Any) -> None:
    assert json.loads(as_result(value, "f").content) == value


class TextContent(BaseModel):
    type: str = "text"
    text: str
    annotations: dict[str, Any] | None = None


class CallToolResult(BaseModel):
    meta: dict[str, Any] | None = Field(default=None, alias="_meta")
    content: list[TextContent]
    structuredContent: dict[str, Any] | None = None
    isError: bool = False


PART = {"type": "image", "data": png(), "mimeType": "image/png"}


@pytest.mark.parametrize(
    ("value", "content", "failed"),
    [
        ({"content": [{"type": "text", "text": "x"}], "isError": False}, "x", False),
        ({"content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]}, "x\ny", False),
        ({"content": [{"type": "text", "text": "no"}], "isError": True}, "no", True),
        ({"content": [], "structuredContent": {"a": 1}, "isError": False}, '{"a": 1}', False),
        ({"content": [{"type": "text", "text": '{"a":1}'}], "structuredContent": {"a": 1}}, '{"a":1}', False),
        ({"content": [{"type": "text", "text": "x"}], "structuredContent": {"result": "x"}}, "x", False),
        ({"content": [{"type": "text", "text": "5"}], "structuredContent": {"result": 5}}, "5", False),
        (
            {
                "content": [{"type": "text", "text": t} for t in "ab"],
                "structuredContent": {"result": ["a", "b"]},
            },
            "a\nb",
            False,
        ),
        (
            {"content": [{"type": "text", "text": "1 row."}], "structuredContent": {"rows": [1]}},
            '1 row.\n{"rows": [1]}',
            False,
        ),
        (
            {"content": [{"type": "text", "text": "1 row."}, PART], "structuredContent": {"rows": [1]}},
            ["1 row.", '{"rows": [1]}', PNG],
            False,
        ),
        ({"content": [{"type": "text", "text": "x"}, PART]}, ["x", PNG], False),
        ({"content": [PART], "structuredContent": {"a": 1}}, ['{"a": 1}', PNG], False),
        ([{"type": "text", "text": "x"}], "x", False),
        ({"type": "text", "text": "x", "annotations": None}, "x", False),
        ([PART], [PNG], False),
        ([{"type": "audio", "data": "eQ==", "mimeType": "audio/wav"}], [Audio(b"y")], False),
        (
            {"content": [{"type": "resource", "resource": {"uri": "file:///a", "text": "t"}}]},
            "file:///a\nt",
            False,
        ),
        (
            [{"type": "resource", "resource": {"uri": "file:///a", "mimeType": "image/png", "blob": png()}}],
            [PNG],
            False,
        ),
        ([{"type": "resource_link", "uri": "u", "name": "n"}], '{"uri": "u", "name": "n"}', False),
        (CallToolResult(content=[TextContent(text="x")], isError=True), "x", True),
        ([TextContent(text="x")], "x", False),
        (
            SimpleNamespace(content=[TextContent(text="x")], structured_content=None, is_error=False),
            "x",
            False,
        ),
    ],
)
def test_content_of_mcp_servers(value: Any, content: Any, failed: bool) -> None:
    result = as_result(value, "f")
    assert (result.content, result.failed) == (content, failed)


class Opaque:
    def __init__(self) -> None:
        self.x = 1


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Opaque(), "a Opaque"),
        ({"a": [Opaque()]}, "a Opaque"),
        (object, "a type"),
        (print, "a builtin"),
        (json, "a module"),
        (ValueError("x"), "a ValueError"),
        (b"\xff\xfe", "bytes that are no text"),
        ({"a": b"\x89PNG\xff"}, "bytes that are no text"),
        ((x for x in "ab"), "a generator.*Return a list"),
        (map(str, [1]), "a map.*Return a list"),
        (iter([1]), "Return a list"),
        (io.StringIO("x"), "Return a list"),
        ({1: 1, "1": 2}, "two keys"),
        ([10**5000], "thousands of digits"),
        ({"a": CIRCLE}, "holds itself"),
        (["x", RED, {"a": RED}], "flat list"),
        ([{"type": "image", "data": "!", "mimeType": "image/png"}], "no base64"),
        (
            [{"type": "resource", "resource": {"uri": "u", "mimeType": "application/pdf", "blob": "eQ=="}}],
            "neither text",
        ),
    ],
)
def test_what_the_model_cannot_be_told_is_raised(value: Any, said: str) -> None:
    with pytest.raises(ToolError, match=rf"look returned.*{said}"):
        as_result(value, "look")
