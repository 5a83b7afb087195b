"""Media decoding: the kinds of source there are, and PyAV with its faults translated.

Files are opened here and handed over as streams, so that FFmpeg never reads a name as one of its protocols
(http:, concat:, …) and any path that Python can open works. What a file says cannot lead anywhere else
either: only containers that hold all of their content are taken, and none of them may open another file.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gemma4_gguf.errors import MediaError
from gemma4_gguf.media.signatures import HEAD_BYTES, kind_of_bytes, what_else

MAX_FRAME_PIXELS = 7680 * 4320
MAX_FRAME_SAMPLES = 1 << 22

_LONGEST_NAME = 200  # in messages

# FFmpeg's demuxers of self-contained files that people have. Not among them: those that follow addresses and
# file names (hls, concat, sdp, rtsp, image2, dash, imf, vobsub), scripts (lavfi, sbg), text that is drawn or
# spoken as if it were media (tty, subtitles), and raw data that is told by its suffix alone.
_DEMUXERS = (
    "aac", "ac3", "ac4", "aiff", "amr", "amrnb", "amrwb", "ape", "asf", "ast", "au", "av1", "avi", "avr",
    "bonk", "caf", "codec2", "dhav", "dsf", "dss", "dts", "dtshd", "dv", "eac3", "evc", "flac", "flv", "gsm",
    "gxf", "h261", "h263", "h264", "hevc", "iamf", "iff", "ircam", "ivf", "kux", "lc3", "lxf", "loas", "m4v",
    "matroska", "mjpeg", "mlp", "mmf", "mov", "mp3", "mpc", "mpc8", "mpeg", "mpegts", "mpegvideo", "mxf",
    "nistsphere", "nsv", "nut", "obu", "ogg", "oma", "osq", "pva", "pvf", "qcp", "qoa", "rm", "rso", "sbc",
    "shn", "smjpeg", "sox", "swf", "tak", "truehd", "tta", "ty", "vc1", "voc", "vvc", "w64", "wav", "webm",
    "wsd", "wtv", "wv", "wve", "xwma", "yuv4mpegpipe",
)  # fmt: skip
_CONTAINER_OPTIONS = {
    "format_whitelist": ",".join(_DEMUXERS),
    "protocol_whitelist": "none",  # the name of no protocol: what is read comes through the stream
}


@contextlib.contextmanager
def open_source(source: str | Path | bytes, what: str) -> Iterator[BinaryIO]:
    """Opens a file, or wraps encoded bytes.

    Args:
        source: a path, or the content of a file.
        what: for messages, such as "picture".

    Yields:
        A stream at its start, which is closed at the end.

    Raises:
        MediaError: there is no such file, it cannot be read, or it is empty.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not len(source):
            raise MediaError(f"The {what} has no bytes. Pass a path or the content of a file.")
        yield io.BytesIO(source)
        return
    if not isinstance(source, (str, os.PathLike)):
        raise MediaError(f"A {what} cannot be {type(source).__name__}; pass a path or the content of a file.")
    name = name_of(source, what)
    try:
        path = Path(source).expanduser()
        facts = path.stat()
        if stat.S_ISDIR(facts.st_mode):
            raise MediaError(f"{name} is a directory; expected a {what} file.")
        if not stat.S_ISREG(facts.st_mode):  # a pipe may never end, and cannot be read twice
            raise MediaError(
                f"{name} is no regular file; save the {what} first, or pass its content as bytes."
            )
        if facts.st_size == 0:
            raise MediaError(f"{name} is empty. Save or download the {what} again.")
        stream = path.open("rb")
    except FileNotFoundError as error:
        raise MediaError(f"{name} does not exist; {_way_to(str(source), what)}.") from error
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"{name} cannot be read as a {what}: {reason}.") from error
    with stream:
        yield stream


def _way_to(address: str, what: str) -> str:
    scheme = address.partition(":")[0].lower()
    if scheme in ("http", "https", "ftp", "s3"):
        return f"addresses on the network are not fetched: download the {what} and pass its path"
    if scheme == "data":
        return "a data: address is taken apart by messages alone: pass its content as bytes"
    if scheme == "file":
        return "expected a path, not an address: leave out file:"
    return f"expected a {what} file"


def as_array(source: Any, what: str) -> np.ndarray:
    """The numbers of an array or a tensor.

    Args:
        source: with `__array__`, as those of NumPy, torch and jax have.
        what: for messages, such as "picture".

    Returns:
        An array of any shape and type.

    Raises:
        MediaError: it gives none, such as a tensor on another device.
    """
    try:
        return np.asarray(source)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise MediaError(f"The {what} is a {type(source).__name__} that gives no array: {error}.") from error


def is_picture(source: str | Path | bytes, what: str) -> bool:
    """Whether Pillow is to read a file: it may be an animation, but holds no sound.

    Args:
        source: a path, or the content of a file.
        what: for messages, such as "video".

    Returns:
        What its first bytes tell.

    Raises:
        MediaError: it cannot be read.
    """
    with open_source(source, what) as stream:
        return kind_of_bytes(stream.read(HEAD_BYTES)) == "image"


def name_of(source: object, what: str) -> str:
    """How messages call a source.

    Args:
        source: of any kind.
        what: such as "picture".

    Returns:
        Its path, or "The picture".
    """
    if not isinstance(source, (str, os.PathLike)):
        return f"The {what}"
    path = str(source)
    return path if len(path) <= _LONGEST_NAME else f"{path[:_LONGEST_NAME]}…"


@contextlib.contextmanager
def open_container(source: str | Path | bytes, what: str) -> Iterator[Any]:
    """Opens a sound or a video with PyAV.

    Args:
        source: a path, or the content of a file.
        what: for messages: "sound" or "video".

    Yields:
        An av.container.InputContainer. Faults of FFmpeg inside the block become MediaError.

    Raises:
        MediaError: the file cannot be read, or FFmpeg does not know or cannot follow it.
    """
    import av

    with open_source(source, what) as stream:
        name = name_of(source, what)
        head = stream.read(HEAD_BYTES)
        stream.seek(0)
        if kind_of_bytes(head) == "image":  # FFmpeg knows many, and shows one tile of a phone's
            raise MediaError(f"{name} is no {what}: {what_else(head, what)}.")
        try:
            container = av.open(stream, container_options=_CONTAINER_OPTIONS, **_tag_options(av.__version__))
        except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
            found = what_else(head, what)
            raise MediaError(
                f"{name} is no {what} that can be read: {found or _reason(error)}. Use WAV, MP3, FLAC, OGG, "
                "M4A, MP4, WebM or MKV."
            ) from error
        with container:
            try:
                yield container
            except (av.error.FFmpegError, OSError, MemoryError) as error:
                raise MediaError(
                    f"{name} is damaged: {_reason(error)}. Save or download the {what} again."
                ) from error


def first_decodable(streams: Any, name: str) -> Any:
    """The stream to take: the first of those marked as the default, else the first, that FFmpeg can decode.

    Args:
        streams: of one type, at least one.
        name: of the file, for messages.

    Returns:
        An av.stream.Stream, bounded in what one frame of it may take.

    Raises:
        MediaError: this build of FFmpeg has a decoder for none.
    """
    decodable = [stream for stream in streams if stream.codec_context is not None]
    if not decodable:
        raise MediaError(
            f"The {streams[0].type} of {name} is encoded in a way that this build of FFmpeg cannot decode. "
            "Save it again as MP4 or WAV; a clip is taken without its sound with sound=False."
        )
    chosen = next((s for s in decodable if s.disposition & _disposition().default), decodable[0])
    chosen.codec_context.options = {
        "max_pixels": str(MAX_FRAME_PIXELS),
        "max_samples": str(MAX_FRAME_SAMPLES),
    }
    return chosen


def decodable_packets(container: Any, stream: Any) -> Iterator[Any]:
    """Packets of a stream, the last one empty; of a file that breaks off, as many as there are.

    Args:
        container: opened with `open_container`.
        stream: one of its streams.

    Yields:
        av.packet.Packet.
    """
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.error.InvalidDataError, OSError):  # or it points out of itself
            return
        if packet is None:
            return
        yield packet


def is_attached(stream: Any) -> bool:
    """Whether a stream of a container is its cover: one picture that does not move.

    Args:
        stream: an av.stream.Stream.

    Returns:
        True for covers of records and thumbnails of films.
    """
    return bool(stream.disposition & _disposition().attached_pic)


def _disposition() -> Any:
    from av.stream import Disposition

    return Disposition


def _tag_options(version: str) -> dict[str, str]:
    """What `av.open` needs so that a text tag in another encoding than UTF-8 does not stop the sound.

    From 19 on PyAV keeps such bytes by itself, and has no argument for it.
    """
    return {} if int(version.split(".")[0]) >= 19 else {"metadata_errors": "replace"}


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
