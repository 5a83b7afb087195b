"""File mappings on macOS: where a file is mapped into this process, as libproc lists its regions."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

_REGION_AND_PATH = 8  # PROC_PIDREGIONPATHINFO, sys/proc_info.h
_SIZE = 1272  # sizeof(struct proc_regionwithpathinfo)
_PROTECTION = struct.Struct("<I")
_EXTENT = struct.Struct("<QQ")
_EXTENT_AT = 80  # pri_address and pri_size
_PATH_AT = 248  # after struct proc_regioninfo (96) and struct vnode_info (152)
_WRITABLE = 2  # VM_PROT_WRITE


def mappings(path: Path) -> Iterator[tuple[int, int]]:
    """The regions that hold a file and cannot be written.

    Args:
        path: of the file.

    Yields:
        Addresses [start, stop).

    Raises:
        OSError: libproc is not there.
    """
    library = ctypes.CDLL("/usr/lib/libproc.dylib")
    # int proc_pidinfo(int pid, int flavor, uint64_t arg, void * buffer, int buffersize);
    library.proc_pidinfo.argtypes = [
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_uint64,
        ctypes.c_void_p,
        ctypes.c_int,
    ]
    buffer = ctypes.create_string_buffer(_SIZE)
    name, address = os.path.realpath(path), 0
    while library.proc_pidinfo(os.getpid(), _REGION_AND_PATH, address, buffer, _SIZE) == _SIZE:
        start, stop, writable, of_file = parse_region(buffer.raw)
        if of_file == name and not writable:
            yield start, stop
        if stop <= address:
            return
        address = stop


def parse_region(data: bytes) -> tuple[int, int, bool, str]:
    """Reads one region.

    Args:
        data: a struct proc_regionwithpathinfo.

    Returns:
        Start, stop, whether it can be written, and its file ("" without one).
    """
    start, size = _EXTENT.unpack_from(data, _EXTENT_AT)
    writable = bool(_PROTECTION.unpack_from(data)[0] & _WRITABLE)
    return start, start + size, writable, os.fsdecode(data[_PATH_AT:].split(b"\0", 1)[0])
