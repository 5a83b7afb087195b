"""HEIF files as phones write them: one picture made of tiles, turned by its container."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

import pillow_heif
from PIL import Image

TILE = 64


def encoded(picture: Image.Image, **options: object) -> bytes:
    """A HEIC file with one picture."""
    stream = io.BytesIO()
    pillow_heif.from_pillow(picture).save(stream, quality=95, **options)
    return stream.getvalue()


def tiled(picture: Image.Image, *, turns: int = 0, mirrored: bool = False, brand: bytes = b"heic") -> bytes:
    """A HEIC file whose picture is a grid of tiles.

    Args:
        picture: RGB.
        turns: quarters that the container turns it by, counterclockwise.
        mirrored: the container mirrors it, left to right, after turning.
        brand: of the file.

    Returns:
        Its content.
    """
    columns, rows = -(-picture.width // TILE), -(-picture.height // TILE)
    tiles = [
        picture.crop((x * TILE, y * TILE, (x + 1) * TILE, (y + 1) * TILE))
        for y in range(rows)
        for x in range(columns)
    ]
    file = pillow_heif.from_pillow(tiles[0])
    for tile in tiles[1:]:
        file.add_from_pillow(tile)
    stream = io.BytesIO()
    file.save(stream, quality=95)
    return _with_grid(stream.getvalue(), columns, rows, picture.size, turns, mirrored, brand)


def _with_grid(
    content: bytes, columns: int, rows: int, size: tuple[int, int], turns: int, mirrored: bool, brand: bytes
) -> bytes:
    """The same file with one more item, made of all others, as its main one."""
    top = dict(_boxes(content))
    meta = dict(_boxes(top[b"meta"][4:]))
    properties = dict(_boxes(meta[b"iprp"]))
    n = columns * rows
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, *size)
    # iloc, version 0 with sizes of 4: id, data reference, base offset, number of extents, offset, length.
    places = [struct.unpack_from(">HHIHII", meta[b"iloc"], 8 + 18 * i) for i in range(n)]
    start = content.index(b"mdat") + 4
    extents = [(base + offset - start, length) for _, _, base, _, offset, length in places]
    extents.append((len(top[b"mdat"]), len(grid)))
    more = box(b"ispe", struct.pack(">III", 0, *size))
    more += box(b"irot", bytes([turns])) if turns else b""
    more += box(b"imir", b"\1") if mirrored else b""
    n_old = len(list(_boxes(properties[b"ipco"])))
    links = [n_old + 1 + i for i in range(1 + bool(turns) + mirrored)]
    associations = properties[b"ipma"][8:] + struct.pack(">HB", n + 1, len(links)) + bytes(links)
    new_meta = b""
    for placed in (False, True):  # once for its size
        at = 24 + 12 + len(new_meta) + 8 if placed else 0  # heads of ftyp, meta and mdat
        iloc = struct.pack(">IBBH", 0, 0x44, 0x40, n + 1) + b"".join(
            struct.pack(">HHIHII", i + 1, 0, 0, 1, at + offset, length)
            for i, (offset, length) in enumerate(extents)
        )
        entry = box(b"infe", struct.pack(">IHH4sB", 2 << 24, n + 1, 0, b"grid", 0))
        new_meta = b"".join(
            (
                box(b"hdlr", meta[b"hdlr"]),
                box(b"pitm", struct.pack(">IH", 0, n + 1)),
                box(b"iloc", iloc),
                box(b"iinf", struct.pack(">IH", 0, n + 1) + meta[b"iinf"][6:] + entry),
                box(
                    b"iref",
                    bytes(4) + box(b"dimg", struct.pack(f">HH{n}H", n + 1, n, *range(1, n + 1))),
                ),
                box(
                    b"iprp",
                    box(b"ipco", properties[b"ipco"] + more)
                    + box(b"ipma", struct.pack(">II", 0, n + 1) + associations),
                ),
            )
        )
    ftyp = box(b"ftyp", brand + bytes(4) + b"mif1heic")
    return ftyp + box(b"meta", bytes(4) + new_meta) + box(b"mdat", top[b"mdat"] + grid)


def box(kind: bytes, content: bytes) -> bytes:
    """A box of an ISO base media file."""
    return struct.pack(">I", len(content) + 8) + kind + content


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(content):
        (size,) = struct.unpack_from(">I", content, at)
        yield content[at + 4 : at + 8], content[at + 8 : at + size]
        at += size
