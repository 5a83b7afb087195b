"""Value types: what goes into and comes out of a model. Pure data: no identity, no engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image as PILImage

IMAGE_TOKEN_BUDGETS = (70, 140, 280, 560, 1120)
DEFAULT_IMAGE_TOKENS = 280
DEFAULT_FRAME_TOKENS = 70
DEFAULT_FRAMES = 32
ImageTokens = int | Literal["auto"]  # a budget, or the smallest that does not shrink the picture

FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]


@dataclass(frozen=True)
class Image:
    """A picture; of an animation the first frame.

    Args:
        source: a path, encoded bytes (PNG, JPEG, HEIC, WebP, …), a PIL image, or an array of numbers as
            `read_image` takes it.
        image_tokens: soft-token budget of this picture (70, 140, 280, 560 or 1120), or "auto": the smallest
            that does not shrink it; None takes the call's.
    """

    source: str | Path | bytes | PILImage.Image | np.ndarray
    image_tokens: ImageTokens | None = None


@dataclass(frozen=True)
class Audio:
    """A sound.

    Args:
        source: a path, encoded bytes of any common container, or float32 mono samples in [-1, 1].
        sample_rate_hz: rate of an array; ignored for files, which carry theirs.
    """

    source: str | Path | bytes | np.ndarray
    sample_rate_hz: int = 16_000


@dataclass(frozen=True)
class Video:
    """A clip or an animation: frames with the time of each, then its sound.

    Args:
        source: a path or encoded bytes.
        fps: frames taken per second; None spreads `frames` evenly.
        frames: frames at most, 1 to 1024.
        sound: hand the sound track over too, if the model has ears: 25 tokens a second.
        image_tokens: soft-token budget of each frame, or "auto"; the model was trained with 70.
    """

    source: str | Path | bytes
    fps: float | None = None
    frames: int = DEFAULT_FRAMES
    sound: bool = True
    image_tokens: ImageTokens = DEFAULT_FRAME_TOKENS


Part = str | Path | Image | Audio | Video
Media = Image | Audio | Video


@dataclass(frozen=True)
class Modality:
    """One kind of media: everything that tells it from the others.

    Args:
        kind: its name in messages and markers: "image", "audio" or "video".
        type: the value that holds it.
        noun: what a person calls it.
        suffixes: of its files, in lower case; what a file holds counts for more (`media.kinds`).
        fields: what the value holds beside its source.
        question: what `describe` asks of it.
    """

    kind: str
    type: type[Media]
    noun: str
    suffixes: tuple[str, ...]
    fields: tuple[str, ...]
    question: str


# fmt: off
MODALITIES: dict[str, Modality] = {
    modality.kind: modality
    for modality in (
        Modality(
            "image", Image, "picture",
            (
                ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".gif", ".bmp", ".dib",
                ".tif", ".tiff", ".heic", ".heif", ".hif", ".heics", ".heifs", ".avif", ".avifs", ".avci",
                ".ico", ".cur", ".icns", ".tga", ".icb", ".vda", ".vst", ".jp2", ".j2k", ".j2c", ".jpc",
                ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".pcx", ".dcx", ".dds", ".psd",
                ".qoi", ".sgi", ".rgb", ".rgba", ".bw", ".ras", ".xbm", ".xpm", ".fit", ".fits", ".fli",
                ".flc", ".pcd", ".blp", ".ftc", ".ftu", ".gbr", ".iim", ".im", ".msp", ".pxr",
            ),
            ("image_tokens",),
            "Describe this picture in detail.",
        ),
        Modality(
            "audio", Audio, "sound",
            (
                ".wav", ".wave", ".bwf", ".rf64", ".w64", ".mp3", ".mp2", ".mpga", ".flac", ".ogg", ".oga",
                ".opus", ".spx", ".m4a", ".m4b", ".aac", ".wma", ".aiff", ".aif", ".aifc", ".au", ".snd",
                ".caf", ".amr", ".awb", ".ac3", ".eac3", ".dts", ".ape", ".wv", ".tta", ".tak", ".mpc",
                ".shn", ".dsf", ".gsm", ".sph", ".voc", ".weba", ".mka", ".ra", ".oma", ".qcp", ".xwma",
            ),
            ("sample_rate_hz",),
            "Describe what can be heard.",
        ),
        Modality(
            "video", Video, "clip",
            (
                ".mp4", ".mkv", ".mk3d", ".mov", ".qt", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".m2v",
                ".mpe", ".wmv", ".asf", ".ts", ".mts", ".m2ts", ".vob", ".flv", ".f4v", ".3gp", ".3g2",
                ".ogv", ".ogm", ".mxf", ".gxf", ".dv", ".rm", ".rmvb", ".mjpeg", ".mjpg", ".h264", ".264",
                ".h265", ".265", ".hevc", ".ivf", ".obu", ".y4m", ".nut", ".wtv", ".divx", ".insv",
            ),
            ("fps", "frames", "sound", "image_tokens"),
            "Describe what happens in this clip from beginning to end, and when.",
        ),
    )
}
# fmt: on


def modality_of(value: object) -> Modality | None:
    """The modality of a medium.

    Args:
        value: of any type.

    Returns:
        None for what is no Image, Audio or Video.
    """
    return next((modality for modality in MODALITIES.values() if isinstance(value, modality.type)), None)


ToolLike = Mapping[str, Any] | BaseModel | type[BaseModel] | Callable[..., Any]
"""A tool: a Python function; a Pydantic type; a dict as OpenAI, Anthropic, MCP, Ollama or Gemini have it, or
an object of Pydantic that holds the same."""


@dataclass(frozen=True)
class Pattern:
    """A regular expression for `schema=`; the whole reply matches it.

    Args:
        regex: in the dialect of JSON Schema (ECMA 262), as far as it is regular: no references, no
            look-behind, no word boundaries. A compiled pattern of Python's `re` does as well as this.
    """

    regex: str


@dataclass(frozen=True)
class Segment:
    """What was said in one piece of a longer sound.

    Args:
        start_s: where the piece begins, seconds.
        end_s: where it ends, seconds.
        text: the words, on one line.
    """

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class ToolCall:
    """One call the model asks for: which tool, with which arguments."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Usage:
    """Token counts of one reply.

    Args:
        prompt_tokens: tokens of the prompt, soft tokens of media included.
        reused_tokens: prompt tokens whose state was already there.
        completion_tokens: tokens drawn, thought included.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Reply:
    """A whole reply.

    Args:
        text: what the user reads.
        thinking: the thought before it, None without one.
        tool_calls: calls in the order written.
        finish_reason: "stop", "length", "tool_calls" or "cancelled".
        parsed: the typed value, when a schema was given.
        warnings: what had to be mended or could not be read, in sentences.
    """

    text: str = ""
    thinking: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason = "stop"
    usage: Usage = field(default_factory=Usage)
    parsed: Any = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chunk:
    """One step of a streamed reply.

    `kind` says which field counts: "thinking" and "text" carry `text`, "tool_call" carries `tool_call`,
    "end" carries the finished `reply`.
    """

    kind: Literal["thinking", "text", "tool_call", "end"]
    text: str = ""
    tool_call: ToolCall | None = None
    reply: Reply | None = None


def holds(value: Any) -> bool:
    """Whether a value says anything.

    Args:
        value: of any type.

    Returns:
        False for None, False and what is empty.
    """
    return not (
        value is None
        or value is False
        or (isinstance(value, (str, bytes, list, tuple, Mapping)) and not value)
    )
