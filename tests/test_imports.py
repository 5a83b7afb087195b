"""The structure: what imports what, and in which order it can be read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"gemma4_gguf": "gemma4_gguf"}
FOLDERS |= {name: f"gemma4_gguf.{name}" for name in ("convert", "grammars", "templates")}

# Each stage imports only its own and what stands before it.
READING_ORDER = (
    {"errors"},
    {"special_tokens", "types", "options", "cpu_cores"},
    {"files"},
    {"media"},
    {"grammars", "templates"},
    {"convert"},
    {"engine"},
    {"prompt", "reply", "structured_output", "truncation", "tools"},
    {"generation"},
    {"tasks"},
    {"chat", "chat_file"},
    {"session"},
    {"async_session"},
    {"nano", "doctor", "demo"},
    {"cli"},
    {"__main__"},
)
# The public list, which everything stands behind; its version may be read anywhere.
PUBLIC = "gemma4_gguf"
MAX_ROOT_MODULES = 16


def name_of(path: Path) -> str:
    folder, *parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join([FOLDERS[folder], *parts])
    return name.removesuffix(".__init__")


MODULES = {name_of(path): path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))}


def imports(path: Path) -> Iterator[str]:
    """Modules of this project that a file imports anywhere, for types alone, too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("gemma4_gguf"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gemma4_gguf"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)


GRAPH = {name: {found for found in imports(path) if found != name} for name, path in MODULES.items()}


def stage(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def rank(module: str) -> int:
    return next(i for i, names in enumerate(READING_ORDER) if stage(module) in names)


def test_no_module_imports_itself_by_a_detour() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


@pytest.mark.parametrize("module", [name for name in MODULES if name != PUBLIC])
def test_imports_go_to_the_left(module: str) -> None:
    late = [
        found
        for found in GRAPH[module]
        if found != PUBLIC and rank(found) > rank(module) and stage(found) != stage(module)
    ]
    assert not late, f"{module} imports {late}, which stand after it"


def test_every_module_has_its_stage() -> None:
    known = set().union(*READING_ORDER)
    assert {stage(name) for name in MODULES} - {""} == known


def test_the_root_stays_small() -> None:
    root = [path for path in MODULES.values() if path.parent == ROOT / "gemma4_gguf"]
    assert len(root) <= MAX_ROOT_MODULES, [path.name for path in root]
