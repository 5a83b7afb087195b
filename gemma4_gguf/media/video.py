"""Video frames: spread over a clip, each with the time it is shown (`media.sampling` says which).

Each then takes the way of any picture, at 70 soft tokens.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gemma4_gguf.errors import MediaError
from gemma4_gguf.media.animation import read_animation
from gemma4_gguf.media.decode import (
    MAX_FRAME_PIXELS,
    decodable_packets,
    first_decodable,
    is_attached,
    is_picture,
    name_of,
    open_container,
)
from gemma4_gguf.media.image import TOKEN_PX, PreparedImage, check_budget, prepare_image
from gemma4_gguf.media.sampling import sample_times
from gemma4_gguf.types import DEFAULT_FRAME_TOKENS, DEFAULT_FRAMES, ImageTokens

if TYPE_CHECKING:
    from PIL import Image as PILImage

MAX_FRAMES = 1024

Chosen = Sequence[tuple[int, float]]  # number and time of each picture that is wanted
Keep = Callable[["PILImage.Image"], PreparedImage]


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a clip.

    Args:
        picture: prepared, turned as its camera says.
        index: its number in the clip, from 0.
        time_s: when it is shown, seconds after the first.
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
    """Picks frames of a clip or an animation.

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
    if not isinstance(frames, Integral) or not 1 <= frames <= MAX_FRAMES:
        raise MediaError(f"frames={frames!r}; expected 1 to {MAX_FRAMES}.")
    if fps is not None and not (isinstance(fps, Real) and 0 < fps <= 1000):
        raise MediaError(f"fps={fps!r}; expected a number above 0, or None.")

    def choose(times: Sequence[float], end_s: float, rate: float = 0.0) -> Chosen:
        return sample_times(times, end_s, rate, fps=fps, frames=frames)

    def keep(picture: PILImage.Image) -> PreparedImage:
        return prepare_image(picture, image_tokens, token_px=token_px)

    if is_picture(source, "video"):
        return [Frame(kept, i, time_s) for i, time_s, kept in read_animation(source, choose, keep)]
    name = name_of(source, "video")
    with open_container(source, "video") as container:
        clip = Clip(container, name)
        chosen = choose(clip.times, clip.end_s, clip.rate)
        found = clip.by_time(chosen, keep)
    if found is None:  # no time for every picture, or a container that seeks past it
        with open_container(source, "video") as container:
            found = clip.in_order(container, chosen, keep)
    if not found:
        raise MediaError(f"{name} is damaged: no picture of it can be decoded. Save or download it again.")
    return found


class _Packet(NamedTuple):
    """What a container says of one encoded picture, in units of its stream."""

    pts: int | None
    dts: int | None
    duration: int
    is_key: bool

    @property
    def stamp(self) -> int | None:
        # Containers like AVI only say when pictures are decoded, which is as even.
        return self.dts if self.pts is None else self.pts


class Clip:
    """The pictures of a clip: when they are shown, and those that are wanted.

    Args:
        container: opened, at its start.
        name: for messages.

    Raises:
        MediaError: it has no pictures, they cannot be counted or decoded, or they are huge.
    """

    def __init__(self, container: Any, name: str) -> None:
        self._container, self._name = container, name
        self._stream = _video_stream(container, name)
        packets = _packets(container, self._stream)
        self.rate = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        stamps = sorted(packet.stamp for packet in packets if packet.stamp is not None)
        if not packets or (len(stamps) < len(packets) and not self.rate):
            raise MediaError(f"{name} holds no pictures that can be counted. Save it again as MP4.")
        unit = float(self._stream.time_base or 0)
        if len(stamps) == len(packets) and unit:
            self.times = [(stamp - stamps[0]) * unit for stamp in stamps]
        else:
            self.times = [number / self.rate for number in range(len(packets))]
        last = max(packets, key=lambda packet: packet.stamp or 0)
        self.end_s = self.times[-1] + (last.duration * unit or _usual_step(self.times, self.rate))
        # The way to a picture by its time; without it they can only be counted. AVI keeps the order of
        # decoding, and FFmpeg's guess at the times is wrong where pictures are shown in another one.
        guessed = container.format.name == "avi" and self._stream.codec_context.has_b_frames
        timed = not guessed and len({packet.pts for packet in packets} - {None}) == len(packets)
        self._stamps = stamps if timed else []
        self._keys = sorted(packet.pts for packet in packets if packet.is_key and packet.pts is not None)

    def by_time(self, chosen: Chosen, keep: Keep) -> list[Frame] | None:
        """Jumps to the last place before each picture where decoding can start, unless already past that.

        Args:
            chosen: number and time of each picture, rising.
            keep: prepares one.

        Returns:
            The pictures; None when the clip does not lead to one of them this way.
        """
        import av

        if not self._stamps:
            return None
        found: list[Frame] = []
        decoded: Iterator[Any] = iter(())
        reached: int | None = None
        for number, time_s in chosen:
            wanted = self._stamps[number]
            start = (
                self._keys[max(0, bisect_right(self._keys, wanted) - 1)] if self._keys else self._stamps[0]
            )
            try:
                if reached is None or start > reached:
                    self._container.seek(start, stream=self._stream)
                    decoded = self._container.decode(self._stream)
                frame = next((f for f in decoded if f.pts is not None and f.pts >= wanted), None)
            except (av.error.FFmpegError, OSError, ValueError):
                return None
            if frame is None or frame.pts != wanted:
                return None
            reached = wanted
            found.append(Frame(keep(self._turned(frame)), number, time_s))
        return found

    def in_order(self, container: Any, chosen: Chosen, keep: Keep) -> list[Frame]:
        """Decodes from the start, over what is damaged, as far as it goes.

        Args:
            container: opened again, at its start.
            chosen: number and time of each picture, rising.
            keep: prepares one.

        Returns:
            The pictures that came; for one that is damaged the next.
        """
        found: list[Frame] = []
        wanted = [number for number, _ in chosen]
        times = dict(chosen)
        n_done = 0
        for count, frame in enumerate(_decoded(container, _video_stream(container, self._name))):
            number = bisect_left(self._stamps, frame.pts) if self._stamps and frame.pts is not None else count
            n_passed = bisect_right(wanted, number)
            if n_passed > n_done:
                time_s = times.get(number, self.times[min(number, len(self.times) - 1)])
                found.append(Frame(keep(self._turned(frame)), number, time_s))
                n_done = n_passed
            if n_done == len(wanted):
                break
        return found

    def _turned(self, frame: Any) -> PILImage.Image:
        _check_frame(frame.width, frame.height, self._name)
        image: PILImage.Image = frame.to_image()
        # In degrees, the way PIL counts them too.
        return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def _video_stream(container: Any, name: str) -> Any:
    streams = [stream for stream in container.streams.video if not is_attached(stream)]
    if not streams:
        kinds = ", ".join(
            sorted({stream.type for stream in container.streams if stream not in container.streams.video})
        )
        raise MediaError(
            f"{name} has no pictures, only {kinds or 'nothing'}. Pass a video, or take Audio for a sound."
        )
    stream = first_decodable(streams, name)
    _check_frame(stream.width, stream.height, name)
    stream.thread_type = "AUTO"
    return stream


def _check_frame(width: int, height: int, name: str) -> None:
    if width * height > MAX_FRAME_PIXELS:
        raise MediaError(
            f"{name} is too large: its pictures are {width} by {height} pixels, at most {MAX_FRAME_PIXELS:,} "
            "are decoded. Scale it down first."
        )


def _packets(container: Any, stream: Any) -> list[_Packet]:
    """What can be known of all pictures without decoding; as far as the file goes, if it breaks off."""
    return [
        _Packet(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe)
        for packet in decodable_packets(container, stream)
        if packet.size and not packet.is_discard
    ]


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """All pictures that can be decoded."""
    import av

    for packet in decodable_packets(container, stream):
        try:
            yield from packet.decode()
        except (av.error.InvalidDataError, ValueError):  # ValueError: of a codec that it turns into midway
            continue


def _usual_step(times: Sequence[float], rate: float) -> float:
    """How long a picture is shown, seconds: the middle of all, or what the clip says."""
    steps = sorted(after - before for before, after in pairwise(times))
    return steps[len(steps) // 2] if steps else 1 / rate if rate else 1.0
