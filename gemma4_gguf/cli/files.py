"""Output files: pictures that the commands write, and texts that grow."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gemma4_gguf.cli.output import PLAIN_EVERY_S, hint, screen, waiting_for
from gemma4_gguf.errors import OutputError

if TYPE_CHECKING:
    from PIL import Image as PILImage


def picture_format(path: Path) -> str:
    """The format that the suffix of a file names.

    Args:
        path: a file name.

    Returns:
        Pillow's name, such as "PNG".

    Raises:
        OutputError: Pillow writes no such format in colour, or there is no such directory.
    """
    from PIL import Image

    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise OutputError(f"{path} has no suffix of a picture. Call it .png or .jpg.")
    try:
        Image.new("RGB", (32, 32)).save(io.BytesIO(), kind)
    except (
        OSError,
        ValueError,
        LookupError,
        AttributeError,
    ) as error:  # of two colours, or another library's
        raise OutputError(
            f"{path} would be {kind}, which holds no such picture. Call it .png or .jpg."
        ) from error
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent} is no directory, so {path.name} cannot be written there.")
    return kind


def save_picture(picture: PILImage.Image, path: Path) -> None:
    """Write a picture in the format of its suffix.

    Args:
        picture: of any mode that the format holds.
        path: written to; what is there is replaced.

    Raises:
        OutputError: Pillow writes no such format, or the place cannot be written.
    """
    content = io.BytesIO()
    try:
        picture.save(content, picture_format(path))
    except OSError as error:
        raise _not_written(path, error) from error
    with _whole(path) as part:
        part.write_bytes(content.getvalue())


@contextmanager
def growing_text(path: Path | None) -> Iterator[Callable[[str], None]]:
    """A text that is written as it comes, to stdout or into a file.

    The file gets its name at the end; what is done when something interrupts stays in a file beside it.

    Args:
        path: None for stdout.

    Yields:
        What takes the next part of the text.

    Raises:
        OutputError: the place cannot be written.
    """
    if path is None:
        yield _write_out
        return
    with _whole(path, keep_part=True) as part, part.open("w", encoding="utf-8", newline="\n") as stream:

        def write(text: str) -> None:
            stream.write(text)
            stream.flush()

        yield write


@contextmanager
def _whole(path: Path, *, keep_part: bool = False) -> Iterator[Path]:
    """A name to write to, which becomes that of the file when all is there.

    What is no regular file, such as a pipe or /dev/stdout, is written to itself; of a link, its target.
    """
    try:
        final = path.resolve()
        if final.exists() and not final.is_file():
            yield final
            return
        part = final.with_name(f"{final.name}.part")
        try:
            yield part
            part.replace(final)
        except BaseException:
            if keep_part and part.exists() and part.stat().st_size:
                hint("", f"What was done is in {part}.")
            else:
                part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> OutputError:
    return OutputError(f"Cannot write {path}: {error.strerror or error}.")


def _write_out(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@contextmanager
def time_progress(title: str, total_s: float, *, quiet: bool = False) -> Iterator[Callable[[float], None]]:
    """How far into a sound the work is, on stderr: in place on a terminal, else a line now and then.

    Args:
        title: what is under way.
        total_s: length of the sound, seconds; 0 if unknown.
        quiet: show nothing.

    Yields:
        What to call with the seconds done.
    """
    whole = f" of {_minutes(total_s)}" if total_s else ""
    console = screen(stderr=True)
    if quiet or (console.is_terminal and sys.stdout.isatty()):  # there the text itself grows
        yield lambda done_s: None
    elif console.is_terminal:
        with waiting_for(title) as show:
            yield lambda done_s: show(f"{title}: {_minutes(done_s)}{whole}")
    else:
        last = time.monotonic()

        def line(done_s: float) -> None:
            nonlocal last
            if time.monotonic() - last >= PLAIN_EVERY_S:
                last = time.monotonic()
                sys.stderr.write(f"{title}: {_minutes(done_s)}{whole}\n")

        yield line


def _minutes(seconds: float) -> str:
    """Minutes and seconds: 1:07."""
    minutes, s = divmod(int(seconds), 60)
    return f"{minutes}:{s:02d}"
