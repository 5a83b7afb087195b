"""The rules of the code base that a machine can check."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE_DIRS = ("gemma4_gguf", "convert", "grammars", "templates")
PACKAGE = sorted(path for folder in PACKAGE_DIRS for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# A file is one idea: one that needs more is two, and one that needs less is half.
MIN_LINES, MAX_LINES = 40, 500
MAX_FUNCTION_LINES = 60
# File → why it may be longer, or shorter.
LONG_FILES: dict[str, str] = {}
SHORT_FILES = {
    "convert/progress.py": "what the writer tells and the command line shows: neither may import the other",
    "gemma4_gguf/__main__.py": "python -m gemma4_gguf",
    "gemma4_gguf/files/read_at.py": "one function that two readers share",
    "grammars/shipped.py": "the grammars that are files",
}
# Function → why it may be longer.
LONG_FUNCTIONS: dict[str, str] = {}
# File → why it may catch every exception.
BROAD_EXCEPTS = {
    "gemma4_gguf/cli/main.py": "turns whatever happens into a sentence and an exit code",
    "gemma4_gguf/tools/run.py": "a tool is foreign code: what it raises goes back to the model",
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), filename=str(path))


def functions_of(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


by_file = pytest.mark.parametrize("path", PACKAGE, ids=name_of)


def lines_of(path: Path) -> int:
    return path.read_text("utf-8").count("\n")


@pytest.mark.parametrize("path", PACKAGE + TESTS, ids=name_of)
def test_a_file_is_one_idea(path: Path) -> None:
    name, lines = name_of(path), lines_of(path)
    assert lines <= MAX_LINES or name in LONG_FILES, f"{name} has {lines} lines"
    if path in PACKAGE and path.name != "__init__.py":
        assert lines >= MIN_LINES or name in SHORT_FILES, f"{name} has {lines} lines"


def test_exceptions_are_still_needed() -> None:
    assert all(lines_of(ROOT / name) > MAX_LINES for name in LONG_FILES)
    assert all(lines_of(ROOT / name) < MIN_LINES for name in SHORT_FILES)
    long = {
        f"{name_of(path)}: {f.name}"
        for path in PACKAGE
        for f in functions_of(tree_of(path))
        if (f.end_lineno or 0) - f.lineno >= MAX_FUNCTION_LINES
    }
    assert set(LONG_FUNCTIONS) <= long


@by_file
def test_functions_are_short(path: Path) -> None:
    long = [
        f.name
        for f in functions_of(tree_of(path))
        if (f.end_lineno or 0) - f.lineno >= MAX_FUNCTION_LINES
        and f"{name_of(path)}: {f.name}" not in LONG_FUNCTIONS
    ]
    assert not long, f"{name_of(path)}: {long} have over {MAX_FUNCTION_LINES} lines"


@by_file
def test_modules_say_what_they_are(path: Path) -> None:
    assert ast.get_docstring(tree_of(path)), f"{name_of(path)} has no docstring"


@by_file
def test_no_print_outside_the_command_line_and_no_assert(path: Path) -> None:
    tree = tree_of(path)
    prints = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not prints or "gemma4_gguf/cli/" in name_of(path), f"{name_of(path)}: print in lines {prints}"
    asserts = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert not asserts, f"{name_of(path)}: assert in lines {asserts}"


@by_file
def test_imports_are_absolute_and_by_installed_name(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno} is a relative import"
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        bare = {n for n in names if n.split(".")[0] in ("convert", "grammars", "templates")}
        assert not bare, f"{name_of(path)}:{getattr(node, 'lineno', 0)} imports {bare} without gemma4_gguf."


@by_file
def test_parameters_and_results_are_annotated(path: Path) -> None:
    for function in functions_of(tree_of(path)):
        arguments = function.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        bare = [a.arg for a in every if a.annotation is None and a.arg not in ("self", "cls")]
        assert not bare and function.returns is not None, f"{name_of(path)}:{function.lineno} {function.name}"


@by_file
def test_broad_excepts_stand_only_in_the_shells(path: Path) -> None:
    broad = [
        node.lineno
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception"))
    ]
    assert not broad or name_of(path) in BROAD_EXCEPTS, f"{name_of(path)}: lines {broad}"


@by_file
def test_new_errors_in_handlers_keep_their_cause(path: Path) -> None:
    for handler in (n for n in ast.walk(tree_of(path)) if isinstance(n, ast.ExceptHandler)):
        for node in ast.walk(handler):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                assert node.cause is not None, f"{name_of(path)}:{node.lineno} raises without `from`"


@by_file
def test_templates_are_files_and_not_strings(path: Path) -> None:
    text = [
        n.value for n in ast.walk(tree_of(path)) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    ]
    assert not any("{%" in t for t in text), f"{name_of(path)} holds template text"


@by_file
def test_ctypes_stays_in_the_thin_layers(path: Path) -> None:
    allowed = name_of(path).startswith("gemma4_gguf/engine/") or name_of(path) == "convert/ggml_encoder.py"
    imports = re.findall(r"^\s*(?:import|from) ctypes", path.read_text("utf-8"), re.M)
    assert not imports or allowed, f"{name_of(path)} imports ctypes"


def test_public_surface_is_a_list() -> None:
    """Of names and the modules they come from, the same for the interpreter and for type checkers."""
    stub = tree_of(ROOT / "gemma4_gguf/__init__.pyi")
    homes = {
        alias.name: node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    (names,) = [ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign)]
    code = tree_of(ROOT / "gemma4_gguf/__init__.py")
    imports = [node for node in code.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not any("gemma4_gguf" in ast.unparse(node) for node in imports)
    assigned = {ast.unparse(n.targets[0]): n.value for n in code.body if isinstance(n, ast.Assign)}
    assert set(assigned) == {"__version__", "_HOMES", "__all__"}
    written = ast.literal_eval(assigned["_HOMES"])
    assert {name: f"gemma4_gguf.{home}" for name, home in written.items()} == homes
    assert names == sorted(["__version__", *homes])
    assert {n.name for n in code.body if isinstance(n, ast.FunctionDef)} == {"__getattr__", "__dir__"}


def test_public_names_are_documented_and_hide_no_submodule() -> None:
    import gemma4_gguf

    names = [name for name in gemma4_gguf.__all__ if not name.startswith("__")]
    modules = {p.stem for p in (ROOT / "gemma4_gguf").iterdir()} | set(PACKAGE_DIRS)
    assert names and not set(names) & modules
    for name in names:
        value = getattr(gemma4_gguf, name)
        assert value.__doc__, f"{name} has no docstring"
        if callable(value) and not isinstance(value, type):
            raises = "raise " in inspect.getsource(value)
            sections = {"Args:": value.__code__.co_argcount, "Returns:": 1, "Raises:": raises}
            missing = [title for title, counts in sections.items() if counts and title not in value.__doc__]
            assert not missing, f"the docstring of {name} lacks {missing}"


def test_defaults_of_sampling_are_written_once() -> None:
    pattern = re.compile(r"\b(temperature|top_k|top_p|min_p|repeat_penalty): \w+ = [\d.]+")
    found = [name_of(p) for p in PACKAGE if pattern.search(p.read_text("utf-8"))]
    assert found == ["gemma4_gguf/options.py"]


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=name_of)
def test_tests_can_fail(path: Path) -> None:
    for function in functions_of(tree_of(path)):
        if not function.name.startswith("test_"):
            continue
        body = ast.unparse(function)
        checks = any(isinstance(n, ast.Assert) for n in ast.walk(function))
        helpers = re.search(r"\b(raises|warns|assert_\w+|check_\w+|fail)\(", body)
        assert checks or helpers, f"{name_of(path)}: {function.name} asserts nothing"


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=name_of)
def test_tests_use_what_is_public(path: Path) -> None:
    private = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            private += [f"{node.lineno}: {node.attr}"] if owner not in ("self", "cls", "os") else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr"):
            named = [a.value for a in node.args[:2] if isinstance(a, ast.Constant)]
            private += [
                f"{node.lineno}: {name}" for name in named if re.search(r"(^|\.)_[a-z]\w*$", str(name))
            ]
    assert not private, f"{name_of(path)} reaches into {private}"


def test_every_shipped_file_is_used_by_a_test_or_the_package() -> None:
    shipped = [*(ROOT / "templates").glob("*.jinja"), *(ROOT / "grammars").glob("*.gbnf")]
    tests = "\n".join(p.read_text("utf-8") for p in TESTS if p.name != "test_style.py")
    unused = [
        name_of(p) for p in shipped if p.name not in tests and not re.search(rf"[\"'-]{p.stem}[\"']", tests)
    ]
    size = [p for p in shipped if p.stem.rpartition("-")[2] in ("large", "small")]
    assert not [name for name in unused if ROOT / name not in size]


def test_import_is_silent_and_loads_no_native_library() -> None:
    code = (
        "import os, sys; before = dict(os.environ); import gemma4_gguf, gemma4_gguf.cli.main as main;"
        "main.build_parser(); assert dict(os.environ) == before;"
        "heavy = {'llama_cpp', 'torch', 'transformers', 'av', 'huggingface_hub', 'llguidance'};"
        "heavy &= set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_packages_are_listed_by_hand_and_complete() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"])
    folders = {path.parent.relative_to(ROOT) for path in PACKAGE}
    there = {".".join(folder.parts) for folder in folders if folder.parts[0] == "gemma4_gguf"}
    there |= {
        ".".join(("gemma4_gguf", *folder.parts)) for folder in folders if folder.parts[0] != "gemma4_gguf"
    }
    assert there == listed


def test_the_tree_names_no_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    pattern = re.compile(r"(?:^|[^\w./-])/(?:work|home/\w+|root|Users/\w+)/")
    suffixes = (".py", ".md", ".toml", ".jinja", ".gbnf", ".json", "run")
    for name in tracked.stdout.splitlines():
        path = ROOT / name
        if name.endswith(suffixes) and path.is_file() and "test_style" not in name:
            assert not pattern.search(path.read_text("utf-8")), f"{name} names a path of one machine"
