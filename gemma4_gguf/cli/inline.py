"""Terminal graphics: a picture by the protocol of kitty or of iTerm2, else in half blocks.

https://sw.kovidgoyal.net/kitty/graphics-protocol/ and https://iterm2.com/documentation-images.html
"""

from __future__ import annotations

import base64
import io
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image as PILImage
from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from gemma4_gguf.cli.output import screen
from gemma4_gguf.cli.terminal import styled

_KITTY_CHUNK = 4096  # characters of base64 in one escape sequence
_COLUMNS = 44  # of half blocks
_PIXELS = 480  # wide, for terminals that show real pictures


def show_picture(path: Path, *, indent: int = 0) -> bool:
    """Write a picture to stderr.

    Args:
        path: any file that Pillow reads.
        indent: columns left of it.

    Returns:
        Whether this terminal can show it; nothing was written if not.
    """
    console = screen(stderr=True)
    if not console.is_terminal or os.environ.get("NO_COLOR"):
        return False
    with PILImage.open(path) as opened:
        picture = opened.convert("RGB")
    protocol = _protocol(os.environ)
    if protocol is not None:
        picture.thumbnail((_PIXELS, _PIXELS))
        stream = styled(sys.stderr)
        stream.write(" " * indent + "".join(_escapes(picture, protocol)) + "\n")
        stream.flush()
        return True
    if console.color_system != "truecolor":
        return False
    for line in half_blocks(picture, min(_COLUMNS, console.width - indent)):
        console.print(Text(" " * indent) + line)
    return True


def half_blocks(picture: PILImage.Image, columns: int) -> list[Text]:
    """A picture as lines of characters, two pixels each, one above the other.

    Args:
        picture: RGB.
        columns: characters a line.

    Returns:
        One Text a line.
    """
    rows = max(1, round(columns * picture.height / picture.width / 2))
    pixels = picture.resize((columns, rows * 2), PILImage.Resampling.LANCZOS).load()
    lines = []
    for y in range(0, rows * 2, 2):
        line = Text()
        for x in range(columns):
            above, below = (Color.from_rgb(*pixels[x, y + i]) for i in (0, 1))  # type: ignore[index,misc]
            segment = Segment("▀", Style(color=above, bgcolor=below))
            line.append(segment.text, segment.style)
        lines.append(line)
    return lines


def _protocol(environment: Mapping[str, str]) -> str | None:
    """kitty or iterm2, as far as the environment tells; neither passes through tmux or screen."""
    if environment.get("TMUX") or environment.get("TERM", "").startswith(("screen", "tmux")):
        return None
    if environment.get("KITTY_WINDOW_ID") or environment.get("TERM") in ("xterm-kitty", "xterm-ghostty"):
        return "kitty"
    if environment.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm", "mintty"):
        return "iterm2"
    return None


def _escapes(picture: PILImage.Image, protocol: str) -> Iterator[str]:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    if protocol == "iterm2":
        yield f"\033]1337;File=inline=1;size={buffer.tell()}:{data}\a"
        return
    for at in range(0, len(data), _KITTY_CHUNK):
        more = int(at + _KITTY_CHUNK < len(data))
        keys = f"a=T,f=100,m={more}" if at == 0 else f"m={more}"
        yield f"\033_G{keys};{data[at : at + _KITTY_CHUNK]}\033\\"
