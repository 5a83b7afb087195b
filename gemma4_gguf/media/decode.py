"""Media decoding: the kinds of source there are, and PyAV with its faults translated.

Files are opened here and handed over as streams, so that FFmpeg never reads a name as one of its protocols
(http:, concat:, …) and any path that Python can open works.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from gemma4_gguf.errors import MediaError


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
    if not isinstance(source, (str, Path)):
        raise MediaError(f"A {what} cannot be {type(source).__name__}; pass a path or the content of a file.")
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            raise MediaError(f"{path} is a directory; expected a {what} file.")
        if path.stat().st_size == 0:
            raise MediaError(f"{path} is empty. Save or download the {what} again.")
        stream = path.open("rb")
    except FileNotFoundError as error:
        raise MediaError(f"{path} does not exist; expected a {what} file.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"{str(path)[:200]} cannot be read as a {what}: {reason}.") from error
    with stream:
        yield stream


def name_of(source: object, what: str) -> str:
    """How messages call a source.

    Args:
        source: of any kind.
        what: such as "picture".

    Returns:
        Its path, or "The picture".
    """
    return str(source) if isinstance(source, (str, Path)) else f"The {what}"


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
        try:
            container = av.open(stream, **_tag_options(av.__version__))
        except (av.error.FFmpegError, ValueError) as error:
            raise MediaError(
                f"{name} is no {what} that FFmpeg knows: {_reason(error)}. Use WAV, MP3, FLAC, OGG, M4A, "
                "MP4, WebM or MKV."
            ) from error
        with container:
            try:
                yield container
            except av.error.FFmpegError as error:
                raise MediaError(
                    f"{name} is damaged: {_reason(error)}. Save or download the {what} again."
                ) from error


def _tag_options(version: str) -> dict[str, str]:
    """What `av.open` needs so that a text tag in another encoding than UTF-8 does not stop the sound.

    From 19 on PyAV keeps such bytes by itself, and has no argument for it.
    """
    return {} if int(version.split(".")[0]) >= 19 else {"metadata_errors": "replace"}


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
