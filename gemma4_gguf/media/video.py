"""Video frames: evenly spread over a clip, with the time each was shown, as transformers picks them.

Frame k of n is picture number k * total // n of the clip, shown at that number over the frame rate (5.23,
video_utils.py, default_sample_indices_fn and VideoMetadata.timestamps). Each then takes the way of any
picture, at 70 soft tokens.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma4_gguf.errors import MediaError
from gemma4_gguf.media.decode import name_of, open_container
from gemma4_gguf.media.image import TOKEN_PX, PreparedImage, check_budget, prepare_image
from gemma4_gguf.types import DEFAULT_FRAME_TOKENS, DEFAULT_FRAMES, ImageTokens

MAX_FRAMES = 1024


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a clip.

    Args:
        picture: prepared, turned as its camera says.
        index: its number in the clip, from 0.
        time_s: when it is shown, seconds from the start.
    """

    picture: PreparedImage
    index: int
    time_s: float

    @property
    def timestamp(self) -> str:
        """Minutes and seconds, as the prompt shows them before the picture: "01:07"."""
        return f"{int(self.time_s // 60):02d}:{int(self.time_s % 60):02d}"


def sample_frames(
    source: str | Path | bytes,
    fps: float | None = None,
    frames: int = DEFAULT_FRAMES,
    *,
    image_tokens: ImageTokens = DEFAULT_FRAME_TOKENS,
    token_px: int = TOKEN_PX,
) -> list[Frame]:
    """Picks frames of a clip.

    Args:
        source: a path or the content of a file.
        fps: frames taken per second of the clip; None spreads `frames` evenly.
        frames: frames at most, 1 to 1024; a clip with fewer gives all of its own.
        image_tokens: budget of soft tokens of each frame, or "auto".
        token_px: side of the square behind one soft token, from the projector.

    Returns:
        Frames in the order shown, at least one.

    Raises:
        MediaError: no such file, no pictures in it, damaged, or a number is out of range.
    """
    check_budget(image_tokens)
    if not 1 <= frames <= MAX_FRAMES:
        raise MediaError(f"frames={frames}; expected 1 to {MAX_FRAMES}.")
    if fps is not None and not 0 < fps <= 1000:
        raise MediaError(f"fps={fps}; expected a number above 0, or None.")
    name = name_of(source, "video")
    with open_container(source, "video") as container:
        stream = _video_stream(container, name)
        shown, keys = _packet_times(container, stream)
        total = int(stream.frames) or len(shown)
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        if not total or not rate:
            raise MediaError(f"{name} holds no pictures that can be counted. Save it again as MP4.")
        indices = frame_indices(total, rate, fps=fps, frames=frames)

        def keep(frame: Any) -> PreparedImage:
            image = frame.to_image()
            if frame.rotation:  # degrees, the way PIL counts them too
                image = image.rotate(frame.rotation, expand=True)
            return prepare_image(image, image_tokens, token_px=token_px)

        found = None
        if len(shown) == total and len(set(shown)) == total:
            found = by_time(container, stream, [shown[i] for i in indices], keys, keep)
        if found is None:  # no time for every picture, or a container that seeks past it
            found = _by_count(container, stream, indices, keep)
    if not found:
        raise MediaError(f"{name} is damaged: no picture of it can be decoded. Save or download it again.")
    return [Frame(picture, i, i / rate) for picture, i in zip(found, indices, strict=False)]


def frame_indices(total: int, rate: float, *, fps: float | None, frames: int) -> list[int]:
    """Numbers of the pictures that are taken.

    Args:
        total: pictures in the clip, ≥ 1.
        rate: pictures per second of the clip.
        fps: pictures taken per second, or None.
        frames: pictures taken at most.

    Returns:
        Rising, from 0; at least one.
    """
    n = frames if fps is None else min(frames, max(1, int(total / rate * fps)))
    n = min(n, total)
    return [k * total // n for k in range(n)]


def _video_stream(container: Any, name: str) -> Any:
    # A cover picture is a stream of one frame, too.
    streams = [s for s in container.streams.video if "attached_pic" not in str(s.disposition)]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise MediaError(f"{name} has no pictures, only {kinds}. Pass a video, or take Audio for a sound.")
    streams[0].thread_type = "AUTO"
    return streams[0]


def _packet_times(container: Any, stream: Any) -> tuple[list[int], list[int]]:
    """Times of all pictures and of those decoding can start at, in the order shown, without decoding."""
    packets = [p for p in container.demux(stream) if p.pts is not None and p.size and not p.is_discard]
    shown = sorted(p.pts for p in packets)
    keys = sorted(p.pts for p in packets if p.is_keyframe)
    return shown, keys


def by_time(
    container: Any, stream: Any, times: list[int], keys: list[int], keep: Callable[[Any], PreparedImage]
) -> list[PreparedImage] | None:
    """Jumps to the last place before each picture where decoding can start, unless it is already past that.

    Returns:
        The pictures; None when the clip does not lead to one of them this way.
    """
    found: list[PreparedImage] = []
    decoded: Iterator[Any] = iter(())
    reached: int | None = None
    for wanted in times:
        start = keys[max(0, bisect_right(keys, wanted) - 1)] if keys else times[0]
        if reached is None or start > reached:
            container.seek(start, stream=stream)
            decoded = container.decode(stream)
        frame = next((f for f in decoded if f.pts is not None and f.pts >= wanted), None)
        if frame is None or frame.pts != wanted:
            return None
        reached = wanted
        found.append(keep(frame))
    return found


def _by_count(
    container: Any, stream: Any, indices: list[int], keep: Callable[[Any], PreparedImage]
) -> list[PreparedImage]:
    """Decodes from the start and counts, as transformers does; a clip that breaks off gives what came."""
    container.seek(0)
    wanted = set(indices)
    found: list[PreparedImage] = []
    for number, frame in enumerate(container.decode(stream)):
        if number in wanted:
            found.append(keep(frame))
        if number == indices[-1]:
            break
    return found
