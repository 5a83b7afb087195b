"""Kinds of files: picture, sound or clip, by what a file holds, whatever its name says.

First bytes tell most. A container that may hold either sound or pictures is looked into. What has no mark in
its first bytes is believed by the suffix of its name.
"""

from __future__ import annotations

from pathlib import Path

from gemma4_gguf.errors import MediaError
from gemma4_gguf.media.animation import is_animation
from gemma4_gguf.media.decode import is_attached, open_container
from gemma4_gguf.media.signatures import HEAD_BYTES, kind_of_bytes, what_else
from gemma4_gguf.types import MODALITIES


def kind_of_file(path: Path) -> str | None:
    """Tells whether a file is a picture, a sound or a clip.

    Args:
        path: of the file.

    Returns:
        "image", "audio" or "video" (an animation, too; but not a container with nothing but sound in it);
        None where neither content nor name tell. A file that cannot be read is believed by its name, so that
        whoever reads it says what is wrong.

    Raises:
        OSError: it cannot be read, and its name tells nothing.
    """
    by_name = next((m.kind for m in MODALITIES.values() if path.suffix.lower() in m.suffixes), None)
    try:
        if not path.is_file():
            raise FileNotFoundError(2, "there is no such file", str(path))
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except (OSError, ValueError):
        if by_name is None:
            raise
        return by_name
    found = kind_of_bytes(head)
    if found == "container":
        guess = "audio" if by_name == "audio" or head.startswith(b"OggS") else "video"
        return _kind_of_container(path) or guess
    if found == "image":
        return "video" if is_animation(path) else "image"
    return found or by_name


def what_else_of_file(path: Path) -> str | None:
    """What a file is that is no medium, and what to do.

    Args:
        path: of a file that can be read.

    Returns:
        A clause; None where nothing is known.
    """
    with path.open("rb") as stream:
        return what_else(stream.read(HEAD_BYTES), "medium")


def _kind_of_container(path: Path) -> str | None:
    try:
        with open_container(path, "video") as container:
            if any(not is_attached(stream) for stream in container.streams.video):
                return "video"
            return "audio" if container.streams.audio else None
    except MediaError:  # whoever reads it says what is wrong
        return None
