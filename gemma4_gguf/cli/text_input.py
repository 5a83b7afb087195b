"""Text that comes in: arguments, standard input and files, decoded by what they hold or refused.

UTF-8 and, by its mark or its zero bytes, UTF-16 and UTF-32 are read whatever the locale says. Other bytes are
read as what the locale or PYTHONIOENCODING names, if that is another encoding, and are refused otherwise.
"""

from __future__ import annotations

import argparse
import codecs
import io
import locale
import os
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from gemma4_gguf.errors import OptionError

MAX_BYTES = 64 << 20  # no context holds that much text; what is longer may never end
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WITHOUT_MARK = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")


def argument(text: str) -> str:
    """The `type=` of an argument that is words, not the name of a file.

    Args:
        text: as Python decoded it: bytes that are not in the locale's encoding are lone surrogates.

    Returns:
        The words.

    Raises:
        argparse.ArgumentTypeError: the bytes are no text.
    """
    try:
        return typed(text, "this text")
    except OptionError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def typed(text: str, name: str) -> str:
    """Words as typed, whose bytes Python may have decoded by another encoding.

    Args:
        text: maybe with lone surrogates.
        name: of it, for the message.

    Returns:
        The words.

    Raises:
        OptionError: the bytes are no text.
    """
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        pass
    try:
        return decode(os.fsencode(text), name)
    except UnicodeEncodeError as error:  # surrogates that stand for no byte
        raise OptionError(f"{name} holds half of a character (a lone surrogate). Type it again.") from error


def decode(data: bytes, name: str, declared: str | None = None) -> str:
    """Bytes as text.

    Args:
        data: all of them.
        name: where they come from, for the message.
        declared: the encoding that the stream was opened with; None takes the locale's.

    Returns:
        The text, without a byte order mark; line ends are line feeds.

    Raises:
        OptionError: it is no text in any of these encodings.
    """
    for encoding in _encodings(data, declared or _declared()):
        try:
            text = data.decode(encoding)
        except (UnicodeError, LookupError):
            continue
        if "\0" not in text and (encoding not in _WITHOUT_MARK or _is_plain(text)):
            return text.replace("\r\n", "\n")
    raise OptionError(f"{name} is no text that can be read: {_fault(data)}")


def read_stdin() -> str:
    """All of standard input.

    Returns:
        The text.

    Raises:
        OptionError: it cannot be read, is no text, or does not end.
    """
    try:
        source = getattr(sys.stdin, "buffer", None)
        if source is None and sys.stdin is not None:  # replaced by somebody who has text already
            return sys.stdin.read()
        data = source.read(MAX_BYTES + 1) if source is not None else b""
    except (OSError, ValueError) as error:
        raise OptionError(f"Standard input cannot be read: {_reason(error)}.") from error
    if not data:
        raise OptionError("Standard input is empty; expected a text.")
    return decode(_bounded(data, "Standard input"), "Standard input", sys.stdin.encoding)


def read_file(path: Path) -> str:
    """A text file.

    Args:
        path: of a regular file or something to read from once, such as a pipe that a shell opened.

    Returns:
        The text.

    Raises:
        OptionError: it cannot be read, is no text, or does not end.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise OptionError(f"{path} cannot be read: {_reason(error)}.") from error
    return decode(_bounded(data, str(path)), str(path))


def stdin_lines() -> Iterator[str]:
    """Lines of standard input as they come, when nobody sits there to type them.

    Yields:
        Lines without their ends.

    Raises:
        OptionError: it cannot be read, or a line is no text.
    """
    source = getattr(sys.stdin, "buffer", None)
    if source is None:
        yield from (line.rstrip("\n") for line in sys.stdin or ())
        return
    try:
        wide = _wide_encoding(source.peek(64)[:64] if hasattr(source, "peek") else b"")
        if wide is not None:
            reader = io.TextIOWrapper(source, wide)
            try:
                for line in reader:
                    if "\0" in line:
                        raise ValueError("it holds zero bytes")
                    yield line.rstrip("\n")
            finally:
                reader.detach()  # lest it closes what it read
            return
        while line := source.readline(MAX_BYTES + 1):
            text = decode(_bounded(line, "A line"), "Standard input", sys.stdin.encoding)
            yield text.removesuffix("\n")
    except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise OptionError(f"Standard input cannot be read: {_reason(error)}.") from error


def _encodings(data: bytes, declared: str) -> Iterator[str]:
    """What to try, the surest first."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            yield encoding
            return
    if b"\0" in data:  # text in these has zeros only in the wide encodings
        yield from (name for name in _WITHOUT_MARK if _zeros_fit(data, name))
        return
    yield "utf-8"
    if codecs.lookup(declared).name not in ("utf-8", "ascii"):
        yield declared


def _zeros_fit(data: bytes, encoding: str) -> bool:
    """Whether the zero bytes stand where that encoding has them in a text with some ASCII in it."""
    width = 4 if "32" in encoding else 2
    columns = [data[i::width].count(0) for i in range(width)]
    if encoding.endswith("be"):
        columns.reverse()
    if width == 4:  # the highest byte is always zero, the next one outside the rare planes
        return columns[3] * 4 == len(data) and columns[2] * 8 >= len(data)
    return columns[1] > columns[0]


def _wide_encoding(start: bytes) -> str | None:
    """UTF-16 or UTF-32, if a stream begins so."""
    return next((name for name in _encodings(start, "utf-8") if name[:6] in ("utf-16", "utf-32")), None)


def _is_plain(text: str) -> bool:
    """Whether a guess at the encoding gave text, not what some other data happen to spell."""
    return not any(unicodedata.category(c) in ("Cc", "Cn", "Co") and c not in "\t\n\r\f" for c in text)


def _declared() -> str:
    """The encoding that the environment names."""
    named = os.environ.get("PYTHONIOENCODING", "").partition(":")[0]
    return named or locale.getpreferredencoding(False)


def _fault(data: bytes) -> str:
    marked = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)
    if marked is not None:
        return f"it begins with the mark of {marked[:6].upper()} and is damaged. Write it again as UTF-8."
    if b"\0" in data:
        return "it holds zero bytes. Expected UTF-8 or UTF-16."
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return (
            f"byte {error.start + 1} is 0x{data[error.start]:02X}, which is not UTF-8. Convert it "
            "(iconv -f cp1252 -t utf-8), or name its encoding: PYTHONIOENCODING=cp1252."
        )
    return "it is empty."


def _bounded(data: bytes, name: str) -> bytes:
    if len(data) > MAX_BYTES:
        raise OptionError(f"{name} is longer than {MAX_BYTES >> 20} MiB, or never ends. Give a part of it.")
    return data


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
