"""File watch: notices that a file was cut or overwritten while it is open.

llama.cpp maps the model file and reads parts of it late. A page beyond a new end ends the process (SIGBUS),
and other bytes under the old header answer something else without a word. A file that is deleted, or has
another one renamed over it, is no danger: what is mapped stays.
"""

from __future__ import annotations

import os
from pathlib import Path

from gemma4_gguf.errors import EngineError
from gemma4_gguf.files.gguf_reader import Stamp, stamp_of


class FileWatch:
    """Holds a file open, and compares its size and time of change with those when its header was checked.

    Args:
        path: the file.
        stamp: of it when it was checked.

    Raises:
        EngineError: it is gone, or another one by now.
    """

    def __init__(self, path: Path, stamp: Stamp) -> None:
        self._path, self._stamp = path, stamp
        try:
            self._stream = path.open("rb", buffering=0)
        except OSError as error:
            raise EngineError(f"{path} cannot be read: {error.strerror or error}.") from error
        self.require()

    def require(self) -> None:
        """Checks that the file that was opened is as it was.

        Raises:
            EngineError: it has another size, or was written to.
        """
        if stamp_of(os.fstat(self._stream.fileno())) != self._stamp:
            raise self._changed()

    def require_same_file(self) -> None:
        """Checks that the path still leads to this file, so that whoever opened it meanwhile has the same.

        Raises:
            EngineError: it leads to another one, or none.
        """
        self.require()
        try:
            same = stamp_of(self._path.stat()) == self._stamp
        except OSError:
            same = False
        if not same:
            raise self._changed()

    def _changed(self) -> EngineError:
        return EngineError(
            f"{self._path} was changed after it was opened. Open the session again; write a new file under "
            "another name and rename it, rather than over one that is open."
        )
