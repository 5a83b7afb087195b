"""What the doctor makes of machines that nobody here has, and what it reads from this one."""

from __future__ import annotations

import errno
import os
import platform
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from doctor_fakes import AVX2_BUILD, CUDA, NVIDIA, library, machine
from packaging.requirements import Requirement

from gemma4_gguf.cpu_cores import logical_cores
from gemma4_gguf.doctor import host as machines
from gemma4_gguf.doctor.advice import advise, build_command
from gemma4_gguf.doctor.child_process import signal_name
from gemma4_gguf.doctor.host import (
    TRIED,
    TRIED_PYTHONS,
    Card,
    Place,
    describe_machine,
    graphics_cards,
    instruction_sets,
    place,
)
from gemma4_gguf.doctor.report import Advice, Check, DeviceReport

RIGHT = DeviceReport("cpu", ("A processor",), (Check("text", "F32", True, "KL 1e-07"),))
WRONG = (Check("text", "F32", False, "KL 2.0"), Check("answer, text", "Q4_K_M", False, "86", "85"))


def only(found: list[Advice]) -> Advice:
    (advice,) = found
    return advice


def test_nothing_is_said_where_nothing_is_to_do() -> None:
    assert advise(machine(), library(), [RIGHT]) == []
    assert advise(machine(NVIDIA), library(CUDA, backends=("cuda", "cpu")), [RIGHT]) == []
    vulkan = {"backend": "vulkan", "kind": "gpu", "description": "RADV"}
    assert (
        advise(machine(Card("amd", "AMD card at 1")), library(vulkan, backends=("vulkan", "cpu")), []) == []
    )


@pytest.mark.parametrize(
    ("card", "needs", "option"),
    [
        (NVIDIA, "CUDA toolkit", "-DGGML_CUDA=on"),
        (Card("amd", "AMD card at 0000:03:00.0", "amdgpu"), "Vulkan", "-DGGML_HIP=on"),
        (Card("intel", "Intel card at 0000:00:02.0", "i915"), "Vulkan SDK", "-DGGML_VULKAN=on"),
        (Card("apple", "Apple silicon"), "Xcode", "-DGGML_METAL=on"),
    ],
)
def test_a_card_that_the_build_does_not_use(card: Card, needs: str, option: str) -> None:
    advice = only(advise(machine(card), library(), [RIGHT]))
    assert not advice.wrong and card.name in advice.what and needs in advice.todo
    assert option in advice.command and "--no-binary llama-cpp-python" in advice.command


@pytest.mark.parametrize(
    ("card", "told"),
    [(NVIDIA, "older than the CUDA"), (Card("nvidia", "NVIDIA card at 1"), "nvidia-smi")],
)
def test_a_card_whose_driver_does_not_answer(card: Card, told: str) -> None:
    advice = only(advise(machine(card), library(backends=("cuda", "cpu")), [RIGHT]))
    assert not advice.wrong and "finds no card" in advice.what and told in advice.todo


def test_a_wrong_device_comes_first_with_one_that_is_right() -> None:
    broken = DeviceReport("cuda", ("NVIDIA H200",), WRONG)
    amd = Card("amd", "AMD card at 1")
    found = advise(machine(NVIDIA, amd), library(CUDA, backends=("cuda", "cpu")), [RIGHT, broken])
    assert [advice.wrong for advice in found] == [True, False]
    assert "text (F32), answer, text (Q4_K_M)" in found[0].what and "--device cpu" in found[0].todo
    assert "doctor --json" in found[0].todo and "-DGGML_CUDA=on" in found[0].command


def test_a_wrong_processor_has_no_way_round() -> None:
    advice = only(advise(machine(), library(), [DeviceReport("cpu", ("x",), WRONG)]))
    assert advice.wrong and "Do not use this build" in advice.todo and advice.command == build_command()


@pytest.mark.parametrize("failure", ["ended with signal 4 (SIGILL)", "ended with exit code 0xC000001D"])
def test_illegal_instructions(failure: str) -> None:
    loading = only(advise(machine(), library(failure=f"llama.cpp does not load: {failure}"), []))
    running = only(advise(machine(), library(), [DeviceReport("cpu", ("x",), failure=failure)]))
    for advice in (loading, running):
        assert advice.wrong and "another processor" in advice.what + advice.todo
        assert "--no-cache-dir" in advice.command


def test_a_library_that_does_not_load_is_all_that_counts() -> None:
    advice = only(advise(machine(NVIDIA, sets=("AVX",)), library(failure="It is too old."), []))
    assert advice.wrong and advice.what == "It is too old."


def test_instruction_sets_that_a_build_leaves_out() -> None:
    generic = library(system_info="CPU : SSE3 = 1 | AVX = 1 |")
    advice = only(advise(machine(), generic, [RIGHT]))
    assert not advice.wrong and "AVX2, FMA, F16C" in advice.what and advice.command == build_command()
    assert advise(machine(sets=()), generic, [RIGHT]) == []  # not known, not guessed


def test_a_build_whose_amx_kernels_are_unusable() -> None:
    built = library(system_info=AVX2_BUILD + " AMX_INT8 = 1 |", amx_fault="GCC 12.2")
    advice = only(advise(machine(sets=("AVX", "AVX2", "FMA", "F16C", "AMX_INT8")), built, [RIGHT]))
    assert not advice.wrong and "GCC 12.2 compiled the AMX kernels" in advice.what
    assert "-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON" in advice.command and "AMX" not in advice.command


def test_a_processor_without_avx2() -> None:
    advice = only(advise(machine(sets=("AVX",)), library(system_info="CPU : AVX = 1 |"), [RIGHT]))
    assert not advice.wrong and "no AVX2" in advice.what and advice.command == ""


@pytest.mark.parametrize(
    ("name", "version", "compared"),
    [
        ("numpy", "1.25.2", "older"),
        ("av", "99.0.0rc1", "newer"),
        ("av", "12.3", "older"),
        ("huggingface-hub", "99.1.0.dev0", "newer"),
        ("pydantic", "2.6.4+local", "older"),
        ("numpy", "1.26.0", ""),
        ("llama-cpp-python", "0.3.36+cu124", ""),
        ("numpy", "2.0.0", ""),
        ("rich", "", ""),
        ("rich", "unknown", ""),
    ],
)
def test_a_package_that_nobody_tried(name: str, version: str, compared: str) -> None:
    found = advise(machine(packages={name: version}), library(), [RIGHT])
    if not compared:
        assert found == []
        return
    advice = only(found)
    assert advice.wrong is (compared == "older")
    assert f"{name} {version} is {compared} than what was tried" in advice.what
    assert advice.command.startswith(f'pip install "{name}>={TRIED[name][0]}')


@pytest.mark.parametrize(
    ("python", "compared"),
    [
        ("CPython 3.9.18", "older"),
        ("CPython 3.99.0rc1", "newer"),
        (f"CPython {TRIED_PYTHONS[1]}.7", ""),
        (f"PyPy {TRIED_PYTHONS[0]}.0", ""),
    ],
)
def test_a_python_that_nobody_tried(python: str, compared: str) -> None:
    told = [advice.what for advice in advise(machine(python=python), library(), [RIGHT])]
    assert [f"{python} is {compared}" in what for what in told] == ([True] if compared else [])


def test_the_oldest_tried_are_the_bounds_of_the_distribution() -> None:
    requirements = [Requirement(line) for line in metadata.requires("gemma4-gguf") or ()]
    bounds = {r.name: str(r.specifier) for r in requirements if "extra" not in str(r.marker)}
    assert bounds == {name: f">={oldest}" for name, (oldest, _) in TRIED.items()}
    assert metadata.metadata("gemma4-gguf")["Requires-Python"] == f">={TRIED_PYTHONS[0]}"


@pytest.mark.parametrize(
    ("where", "wrong", "told"),
    [
        (Place("downloads", "/c", 9_000_000_000, "Read-only file system"), False, "HF_HUB_CACHE"),
        (Place("downloads", "/c", 1_000_000_000), False, "1.0 GB free"),
        (Place("temporary files", "", 0, "No usable temporary directory"), True, "TMPDIR"),
    ],
)
def test_places_that_cannot_be_written(where: Place, wrong: bool, told: str) -> None:
    advice = only(advise(machine(places=(where,)), library(), [RIGHT]))
    assert advice.wrong is wrong and told in advice.what + advice.todo


@pytest.mark.parametrize(
    ("platform", "start"),
    [("linux", 'CMAKE_ARGS="-D'), ("darwin", 'CMAKE_ARGS="-D'), ("win32", "$env:CMAKE")],
)
def test_commands_are_those_of_the_system(platform: str, start: str) -> None:
    assert build_command("-DGGML_CUDA=on", platform=platform).startswith(start)
    assert build_command(platform=platform).startswith("pip install --force-reinstall")


@pytest.mark.parametrize(
    ("code", "text"), [(-999, "signal 999"), (3, "exit code 3"), (0xC0000005, "exit code 0xC0000005")]
)
def test_how_a_process_ended(code: int, text: str) -> None:
    assert signal_name(code) == text


# What the machine tells


def test_this_machine() -> None:
    found = describe_machine()
    assert found.cores == logical_cores()
    assert found.python == f"{platform.python_implementation()} {platform.python_version()}"
    assert (found.system, found.architecture) == (platform.platform(), platform.machine())
    assert found.packages == {name: metadata.version(name) for name in TRIED}
    assert found.places[0].what == "downloads"


def test_instruction_sets_have_the_names_of_llama_cpp() -> None:
    assert instruction_sets("fpu sse avx avx2 fma f16c avx512f") == ("AVX", "AVX2", "FMA", "F16C", "AVX512")
    assert instruction_sets("fp asimd asimddp i8mm") == ("NEON", "DOTPROD", "MATMUL_INT8")
    assert instruction_sets("AVX1.0 FMA") == ("AVX", "FMA")  # as macOS writes them
    assert instruction_sets("") == ()


def test_cards_on_the_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = {
        "0000:01:00.0": ("0x10de", "0x030000"),
        "0000:03:00.0": ("0x1002", "0x038000"),
        "0000:04:00.0": ("0x1002", "0x120000"),
        "0000:00:02.0": ("0x8086", "0x030000"),
        "0000:00:0b.0": ("0x8086", "0x120000"),  # an NPU
        "0000:00:1f.0": ("0x8086", "0x060100"),
        "0000:05:00.0": ("0x1a03", "0x030000"),  # a server's console
    }
    for name, (vendor, kind) in devices.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    (tmp_path / "amdgpu").mkdir()
    (tmp_path / "0000:03:00.0/driver").symlink_to(tmp_path / "amdgpu")
    monkeypatch.setattr(machines, "tool_output", lambda *command: "")
    found = [card for card in graphics_cards(tmp_path) if card.vendor != "apple"]
    assert [(card.vendor, card.driver) for card in found] == [
        ("intel", ""),
        ("nvidia", ""),
        ("amd", "amdgpu"),
        ("amd", ""),
    ]
    assert found[1].name == "NVIDIA card at 0000:01:00.0"
    monkeypatch.setattr(machines, "tool_output", lambda *command: "NVIDIA H200, 580.65\nNVIDIA H200, 580.65")
    told = [card for card in graphics_cards(tmp_path) if card.vendor == "nvidia"]
    assert told == [NVIDIA, NVIDIA]


def test_a_tool_that_fails_or_is_not_there_is_no_error() -> None:
    assert machines.tool_output("there-is-no-such-tool-here") == ""
    assert machines.tool_output("python3", "-c", "raise SystemExit(1)") == ""


def test_a_place_that_is_not_there_yet_is_one_that_can_be_made(tmp_path: Path) -> None:
    found = place("downloads", tmp_path / "a" / "b")
    assert found.problem == "" and found.free_bytes > 0 and not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    assert "no directory" in place("downloads", tmp_path / "file" / "b").problem


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_place_that_cannot_be_written(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert place("downloads", tmp_path).problem == os.strerror(code)


def test_no_temporary_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", refuse)
    assert machines.places()[1].problem == "No usable temporary directory found"
