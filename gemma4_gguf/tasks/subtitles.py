"""Transcript formats: segments of speech as plain text, SubRip, WebVTT, JSON.

SubRip has no standard; the form here is what players agree on. WebVTT: https://www.w3.org/TR/webvtt1/.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict

from gemma4_gguf.errors import OptionError
from gemma4_gguf.tasks.languages import is_wide
from gemma4_gguf.types import Segment

LINE_WIDTH = 42  # characters, what subtitles commonly keep to


def format_txt(segments: Iterable[Segment]) -> Iterator[str]:
    """One line a segment.

    Args:
        segments: in order.

    Yields:
        Lines.
    """
    for segment in segments:
        yield f"{segment.text}\n"


def format_srt(segments: Iterable[Segment]) -> Iterator[str]:
    """SubRip: numbered, times with a comma.

    Args:
        segments: in order.

    Yields:
        Cues.
    """
    for number, segment in enumerate(segments, 1):
        times = f"{_timecode(segment.start_s, ',')} --> {_timecode(segment.end_s, ',')}"
        yield f"{number}\n{times}\n{_lines(segment.text)}\n\n"


def format_vtt(segments: Iterable[Segment]) -> Iterator[str]:
    """WebVTT: a header, times with a point, reserved characters escaped.

    Args:
        segments: in order.

    Yields:
        The header, then cues.
    """
    yield "WEBVTT\n\n"
    for segment in segments:
        times = f"{_timecode(segment.start_s, '.')} --> {_timecode(segment.end_s, '.')}"
        text = segment.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        yield f"{times}\n{_lines(text)}\n\n"


def format_json(segments: Iterable[Segment]) -> Iterator[str]:
    """A list of {"start_s", "end_s", "text"}, a segment a line; whole only at its end.

    Args:
        segments: in order.

    Yields:
        Parts of the list.
    """
    before = "[\n  "
    for segment in segments:
        row = asdict(segment) | {"start_s": round(segment.start_s, 3), "end_s": round(segment.end_s, 3)}
        yield before + json.dumps(row, ensure_ascii=False)
        before = ",\n  "
    yield "[]\n" if before == "[\n  " else "\n]\n"


FORMATS: dict[str, Callable[[Iterable[Segment]], Iterator[str]]] = {
    "txt": format_txt,
    "srt": format_srt,
    "vtt": format_vtt,
    "json": format_json,
}


def format_segments(segments: Iterable[Segment], kind: str) -> Iterator[str]:
    """Text of a file, piece by piece as the segments come.

    Args:
        segments: from `Session.transcribe_segments`.
        kind: txt, srt, vtt or json.

    Returns:
        Strings; joined they are the file.

    Raises:
        OptionError: there is no such kind.
    """
    if kind not in FORMATS:
        raise OptionError(f"{kind!r} is no format of a transcript; expected one of {', '.join(FORMATS)}.")
    return FORMATS[kind](segments)


def _timecode(seconds: float, point: str) -> str:
    """Hours, minutes, seconds, thousandths: 01:02:03,456."""
    rest, ms = divmod(round(seconds * 1000), 1000)
    rest, s = divmod(rest, 60)
    hours, minutes = divmod(rest, 60)
    return f"{hours:02d}:{minutes:02d}:{s:02d}{point}{ms:03d}"


def _lines(text: str) -> str:
    """Lines of a cue; none is empty, since an empty line ends it."""
    wide = any(map(is_wide, text))
    width = LINE_WIDTH // 2 if wide else LINE_WIDTH
    return "\n".join(textwrap.wrap(text, width, break_long_words=wide, break_on_hyphens=False)) or "-"
