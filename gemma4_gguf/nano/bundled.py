"""The checkpoint that comes with the package: handed out only while it is what was shipped.

`checksums.json` beside it lists every file with its size and SHA-256. tests/reference/bundled.py writes it;
run it whenever the checkpoint is replaced.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.resources import as_file, files
from pathlib import Path

from gemma4_gguf.errors import CheckpointError

CHECKSUMS = "checksums.json"
_NOT_LISTED = (CHECKSUMS, "README.md")  # the first holds the list, the second is read by people alone


@contextmanager
def bundled_checkpoint() -> Iterator[Path]:
    """The directory of the bundled checkpoint, every file of it checked.

    Yields:
        A directory to convert, with samples/ and reference.npz in it.

    Raises:
        CheckpointError: a file is absent, cut off or changed; the message says how to get it back.
    """
    with as_file(files("gemma4_gguf.nano")) as folder:
        check_files(folder)
        yield folder


def check_files(folder: Path) -> None:
    """Hold a checkpoint against its list of checksums.

    Args:
        folder: with checksums.json.

    Raises:
        CheckpointError: the list or a file of it is absent, cut off or changed.
    """
    for name, expected in _listed(folder).items():
        try:
            found = _facts(folder / name)
        except OSError as error:
            raise _damaged(folder, f"{name} cannot be read ({error.strerror})") from error
        if found["bytes"] != expected["bytes"]:
            raise _damaged(folder, f"{name} has {found['bytes']:,} bytes, expected {expected['bytes']:,}")
        if found != expected:
            raise _damaged(folder, f"the content of {name} differs from its checksum")


def write_checksums(folder: Path) -> None:
    """List what is in a checkpoint now as what belongs there.

    Args:
        folder: of the checkpoint; checksums.json is written into it.
    """
    listed = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    rows = [
        f"  {json.dumps(name)}: {json.dumps(_facts(listed[name]))}"
        for name in sorted(listed)
        if name not in _NOT_LISTED and not name.endswith((".py", ".pyc"))
    ]
    (folder / CHECKSUMS).write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8", newline="\n")


def _listed(folder: Path) -> dict[str, dict[str, object]]:
    try:
        listed = json.loads((folder / CHECKSUMS).read_bytes())
        return {str(name): {"bytes": row["bytes"], "sha256": row["sha256"]} for name, row in listed.items()}
    except OSError as error:
        raise _damaged(folder, f"{CHECKSUMS} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(folder, f"{CHECKSUMS} is no list of checksums") from error


def _facts(path: Path) -> dict[str, object]:
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _damaged(folder: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint that comes with gemma4-gguf is damaged: {what}, in {folder}. {_way_out(folder)}"
    )


def _way_out(folder: Path) -> str:
    """Installing again repairs a copy; a source tree that is used in place has to be restored."""
    try:
        origin = json.loads(metadata.distribution("gemma4-gguf").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        origin = {}
    if origin.get("dir_info", {}).get("editable"):
        return f"Restore it from the source: git -C {folder} checkout -- ."
    source = origin.get("url") or "gemma4-gguf"
    return f"Install it again: pip install --force-reinstall --no-deps {source}"
