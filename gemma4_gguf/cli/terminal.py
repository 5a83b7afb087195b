"""Standard streams of a command: no character and no closed pipe ends it with a traceback.

What a file, a hub or a model wrote is shown with its control characters spelled out, so that it cannot move
the cursor, set the clipboard or pass for a line of this program. Colours of our own go through `styled`.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from gemma4_gguf.errors import OutputError

# What terminals act upon: C0 but tab and line feed, DEL, C1; and characters that reorder or break a line.
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
_CONTROL = re.compile(f"[{_CONTROLS}]")
_CONTROL_OR_BREAK = re.compile(f"[{_CONTROLS}\t\n]")
_RAW_NAMES = "gemma4_gguf.raw_names"


def visible(text: str, *, one_line: bool = False) -> str:
    """Foreign text as a terminal may be shown it.

    Args:
        text: from a file, the hub, a model or the command line.
        one_line: spell out tabs and line feeds, too.

    Returns:
        The same with each control character as an escape such as `\\x1b`; a carriage return that only belongs
        to the end of a line is left out.
    """
    pattern = _CONTROL_OR_BREAK if one_line else _CONTROL
    return pattern.sub(lambda found: found[0].encode("unicode_escape").decode(), text.replace("\r\n", "\n"))


def json_text(text: str, encoding: str | None) -> str:
    """A JSON text in characters that its reader gets whole: others as JSON's own escapes.

    Args:
        text: JSON.
        encoding: of the stream it goes to.

    Returns:
        JSON of the same value.
    """

    def escaped(found: re.Match[str]) -> str:
        units = found[0].encode("utf-16-be", "surrogatepass")
        return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))

    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        text = re.sub(r"[^\x00-\x7f]", escaped, text)
    return _CONTROL.sub(escaped, text)


class StandardStream:
    """stdout or stderr.

    Args:
        stream: that it writes to.
        escaped: write foreign text only as `visible` gives it.
        must_arrive: a failure is an error; otherwise it is passed over, as there is nobody to tell.

    Attributes:
        styled: the same for text that is escaped already and carries the escape sequences of this program.
    """

    def __init__(self, stream: Any, *, escaped: bool, must_arrive: bool) -> None:
        self._stream, self._escaped, self._must_arrive = stream, escaped, must_arrive
        self.styled: Any = (
            self if not escaped else StandardStream(stream, escaped=False, must_arrive=must_arrive)
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes a text."""
        with self._failures():
            self._stream.write(visible(text) if self._escaped else text)
        return len(text)

    def flush(self) -> None:
        """Hands on what was written."""
        with self._failures():
            self._stream.flush()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            if self._must_arrive:
                raise
        except (OSError, ValueError) as error:  # ValueError: the stream was closed
            if self._must_arrive:
                why = getattr(error, "strerror", None) or error
                raise OutputError(f"Standard output cannot be written: {why}.") from error


def styled(stream: Any) -> Any:
    """The stream for text that carries escape sequences of this program.

    Args:
        stream: sys.stdout or sys.stderr, whatever stands there at the moment.

    Returns:
        Itself, where it is no `StandardStream`.
    """
    return getattr(stream, "styled", stream)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Lets sys.stdout and sys.stderr be as this module says, while a command runs.

    Yields:
        Nothing.
    """
    before = sys.stdout, sys.stderr
    errors = [_encode_everything(stream) for stream in before]
    sys.stdout = StandardStream(before[0], escaped=before[0].isatty(), must_arrive=True)
    sys.stderr = StandardStream(before[1], escaped=True, must_arrive=False)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream, handler in zip(before, errors, strict=True):
            with suppress(OSError, ValueError):
                if handler is not None:
                    stream.reconfigure(errors=handler)  # type: ignore[union-attr]


def open_missing() -> None:
    """Opens what the process was started without (`>&-`), before a file takes the number of the stream.

    Reading and writing there fails; writing to stderr goes nowhere.
    """
    for fd, mode, name in ((0, os.O_WRONLY, "stdin"), (1, os.O_RDONLY, "stdout"), (2, os.O_WRONLY, "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, "w" if fd else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def finish_stdout() -> None:
    """Writes what is left for stdout; what cannot be goes nowhere, lest the interpreter complains of it."""
    try:
        sys.stdout.flush()
        return
    except (OSError, OutputError):
        pass
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _encode_everything(stream: Any) -> str | None:
    """Sets how characters that the encoding lacks are written; returns what was set before."""
    before: str | None = getattr(stream, "errors", None)
    if before is None or not hasattr(stream, "reconfigure"):
        return None
    codecs.register_error(_RAW_NAMES, _raw_names)
    with suppress(OSError, ValueError):
        stream.reconfigure(errors="backslashreplace" if stream.isatty() else _RAW_NAMES)
    return before


def _raw_names(error: UnicodeError) -> tuple[str | bytes, int]:
    """In a pipe, bytes of a file name that are no text stay what they are; other characters are escaped."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    if all("\udc80" <= c <= "\udcff" for c in part) and "a".encode(error.encoding) == b"a":
        return part.encode("ascii", "surrogateescape"), error.end
    return codecs.backslashreplace_errors(error)
