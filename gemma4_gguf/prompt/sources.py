"""Sources of media as messages name them: a path, a file: or data: address, base64 → a path or the bytes.

Nothing is fetched from a network. No message prints data, which may be millions of characters.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit
from urllib.request import url2pathname

from gemma4_gguf.errors import MessageError

MAX_PATH = 4096  # characters; what is longer is no path on any system

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?=//)|(data|file):", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_\s-]{32,}={0,2}\s*")
_URL_SAFE = str.maketrans("-_", "+/")


def from_address(address: Any, where: str) -> Path | bytes:
    """Reads where a medium is.

    Args:
        address: a path, a file: address or a data: address, or the bytes themselves.
        where: its place, for messages.

    Returns:
        A path, which need not exist, or the bytes.

    Raises:
        MessageError: it is something else, or lies on a network.
    """
    if isinstance(address, bytes) and address:
        return address
    if isinstance(address, os.PathLike):
        return Path(address)
    if not isinstance(address, str) or not address.strip():
        shown = repr(address) if address is None or address == "" else f"a {type(address).__name__}"
        raise MessageError(f"{where} is {shown}; expected a path, a file: address or a data: address.")
    text = address.strip()
    match = _SCHEME.match(text)
    scheme = (match[1] or match[2]).lower() if match else ""
    if scheme == "data":
        return _from_data_address(text, where)
    if scheme == "file":
        return _from_file_address(text, where)
    if scheme:
        raise MessageError(
            f"{where}: addresses on the network are not fetched ({text[:60]}). Download the file and pass "
            "its path or a data: address."
        )
    path = Path(address)
    if len(text) > MAX_PATH or ";base64," in text[:200] or (_BASE64.fullmatch(text) and not is_file(path)):
        raise MessageError(
            f"{where} is no path of a file: it has {len(text):,} characters and looks like bare base64. "
            "Write what it is before it, as in data:image/png;base64,…"
        )
    return path


def from_base64(data: Any, where: str) -> bytes:
    """Reads base64, also with line breaks, without padding, with the characters of addresses (- and _).

    Args:
        data: base64, a data: address, or the bytes themselves.
        where: its place, for messages.

    Returns:
        The bytes, at least one.

    Raises:
        MessageError: it is no base64, or holds nothing.
    """
    if isinstance(data, (bytes, bytearray)) and data:
        return bytes(data)
    if not isinstance(data, str):
        raise MessageError(f"{where} is a {type(data).__name__}; expected base64.")
    if data[:40].lstrip()[:5].lower() == "data:":
        return _from_data_address(data.strip(), where)
    digits = "".join((unquote(data) if "%" in data else data).split()).translate(_URL_SAFE).rstrip("=")
    try:
        if not digits:
            raise ValueError("it is empty")
        if len(digits) % 4 == 1:
            raise ValueError(f"{len(digits):,} characters are no whole number of bytes; it may be cut off")
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MessageError(f"{where} is no valid base64: {error}.") from error


def is_file(path: Path) -> bool:
    """Whether a path names a regular file.

    Args:
        path: of any text.

    Returns:
        False also for what no system takes as a path.
    """
    try:
        return path.expanduser().is_file()
    except (OSError, ValueError, RuntimeError):
        return False


def file_named_by(text: str) -> Path | None:
    """The file whose name a text is, and nothing else.

    Args:
        text: maybe a path, bare, in quotation marks, with escaped spaces as terminals write what is dropped
            on them, or a file: address.

    Returns:
        The path of a regular file; None for any other text.
    """
    name = text.strip()
    if not name or len(name) > MAX_PATH or "\n" in name:
        return None
    if len(name) > 2 and name[0] == name[-1] and name[0] in "'\"`":
        name = name[1:-1]
    paths = [Path(name), Path(name.replace("\\ ", " "))]
    if name[:5].lower() == "file:":
        try:
            paths = [_from_file_address(name, "")]
        except MessageError:
            return None
    return next((path.expanduser() for path in paths if is_file(path)), None)


def _from_data_address(address: str, where: str) -> bytes:
    header, comma, data = address.partition(",")
    if not comma:
        raise MessageError(f"{where}: the data: address has no comma before its data.")
    if "base64" in [word.strip().lower() for word in header.split(";")[1:]]:
        return from_base64(data, where)
    try:
        content = unquote_to_bytes(data)
    except UnicodeEncodeError as error:
        raise MessageError(f"{where}: the data: address holds half a surrogate pair.") from error
    if not content:
        raise MessageError(f"{where}: the data: address holds no data.")
    return content


def _from_file_address(address: str, where: str) -> Path:
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
    except ValueError as error:
        raise MessageError(f"{where} is no valid file: address: {error}.") from error
    if host not in ("", "localhost"):
        raise MessageError(f"{where} names a file on {host[:60]}; expected one on this machine, file:///…")
    return Path(url2pathname(unquote(parts.path)))
