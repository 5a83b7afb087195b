"""What an installation holds and how it starts."""

from __future__ import annotations

import ast
import copy
import pickle
import subprocess
import sys
from fnmatch import fnmatch
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import gemma4_gguf

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "gemma4_gguf.convert": "convert",
    "gemma4_gguf.grammars": "grammars",
    "gemma4_gguf.templates": "templates",
}

OTHER_NAMES = {"llama_cpp": "llama-cpp-python"}


def start(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_command_and_module_start_from_an_empty_directory(tmp_path: Path) -> None:
    done = start("-m", "gemma4_gguf", "--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"gemma4-gguf {gemma4_gguf.__version__}\n")
    (script,) = metadata.entry_points(group="console_scripts", name="gemma4-gguf")
    assert script.load().__module__ == "gemma4_gguf.__main__"


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "import gemma4_gguf.session"),
        ("-m", "gemma4_gguf", "--version"),
        ("__main__.py", "--version"),
        ("demo.py",),
    ],
)
def test_it_starts_in_its_own_folder(arguments: tuple[str, ...]) -> None:
    """Files there that are called like modules of the standard library (types) must not take their place."""
    done = start(*arguments, cwd=ROOT / "gemma4_gguf")
    assert (done.returncode, done.stderr) == (0, "")


def test_everything_public_comes_with_a_star_and_through_a_pipe() -> None:
    scope: dict[str, Any] = {}
    exec("from gemma4_gguf import *", scope)
    assert set(gemma4_gguf.__all__) <= set(scope)
    for value in (
        gemma4_gguf.SamplingOptions(seed=1, stop=("x",)),
        gemma4_gguf.SessionOptions(n_ctx=9),
        gemma4_gguf.Reply("text", tool_calls=(gemma4_gguf.ToolCall("a", "b", {"c": 1}),)),
        gemma4_gguf.Image("a.png", 70),
        gemma4_gguf.Box("a", 1, 2, 3, 4),
    ):
        assert pickle.loads(pickle.dumps(value)) == value == copy.deepcopy(value)


def test_version_is_that_of_the_distribution() -> None:
    assert metadata.version("gemma4-gguf") == gemma4_gguf.__version__


def test_mapped_packages_import_under_their_installed_names(tmp_path: Path) -> None:
    code = "import gemma4_gguf.convert, gemma4_gguf.templates, gemma4_gguf.grammars, gemma4_gguf.engine"
    assert start("-c", code, cwd=tmp_path).returncode == 0


def test_every_package_that_is_imported_is_asked_for() -> None:
    """What only comes along with another dependency is gone with that one's next version."""
    asked = {
        Requirement(line).name for line in metadata.requires("gemma4-gguf") or () if "extra ==" not in line
    }
    found = metadata.packages_distributions()
    missing = set()
    for folder in ("gemma4_gguf", *FOLDERS.values()):
        for path in (ROOT / folder).rglob("*.py"):
            for name in imported(path) - set(sys.stdlib_module_names) - {"gemma4_gguf"}:
                owners = found.get(name) or [OTHER_NAMES.get(name, name)]  # Python 3.10 misses some
                if not asked & {owner.lower().replace("_", "-") for owner in owners}:
                    missing.add(f"{path.relative_to(ROOT)} imports {name}")
    assert not missing


def imported(path: Path) -> set[str]:
    """Top names of what a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_data_files_are_found() -> None:
    nano = resources.files("gemma4_gguf.nano")
    assert nano.joinpath("model.safetensors").is_file()
    assert nano.joinpath("samples", "scene0.png").is_file()
    templates = resources.files("gemma4_gguf.templates")
    assert templates.joinpath("gemma4-small.jinja").is_file()
    assert templates.joinpath("gemma4-large.jinja").is_file()
    assert resources.files("gemma4_gguf").joinpath("py.typed").is_file()


def test_package_data_covers_every_data_file() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    patterns = setuptools["package-data"]
    for package in setuptools["packages"]:
        folder = ROOT / FOLDERS.get(package, package.replace(".", "/"))
        inner = [ROOT / FOLDERS.get(p, p.replace(".", "/")) for p in setuptools["packages"] if p != package]
        for path in folder.rglob("*"):
            own = path.is_file() and not any(
                other in path.parents for other in inner if folder in other.parents
            )
            if not own or path.suffix in (".py", ".pyc"):
                continue
            name = path.relative_to(folder).as_posix()
            assert any(fnmatch(name, glob) for glob in patterns.get(package, ())), (
                f"{package} ships no {name}"
            )


def test_the_checkpoint_in_the_wheel_stays_small() -> None:
    nano = ROOT / "gemma4_gguf/nano"
    assert sum(path.stat().st_size for path in nano.rglob("*") if path.is_file()) < 12_000_000


def test_base_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'transformers', 'safetensors', 'pytest', 'hypothesis'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import pkgutil, importlib, gemma4_gguf\n"
        "for module in pkgutil.walk_packages(gemma4_gguf.__path__, 'gemma4_gguf.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
    )
    done = start("-c", code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
