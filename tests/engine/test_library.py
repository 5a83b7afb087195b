"""llama.cpp as a library: versions, devices, log lines, and the vocabulary of a loaded model."""

from __future__ import annotations

import importlib.metadata
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gemma4_gguf.engine import devices, library
from gemma4_gguf.engine.devices import list_devices, select_device
from gemma4_gguf.engine.model import Model
from gemma4_gguf.errors import DeviceError, EngineError, MessageError
from gemma4_gguf.files.model_file import check_model


@pytest.fixture(scope="module")
def model(converted: Callable[..., dict[str, Path]]) -> Iterator[Model]:
    loaded = Model(check_model(converted("e2b")["model"]), device="cpu")
    yield loaded
    loaded.close()


# The library


@pytest.mark.parametrize("version", ["0.3.35", "0.2.90", "0.3.9"])
def test_old_versions_are_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    with pytest.raises(EngineError, match=rf"{version}.*0\.3\.36.*pip install"):
        library.installed_version()


@pytest.mark.parametrize("version", ["0.3.36", "0.3.40", "0.4.0", "1.0.0+cu124", "0.3.36.post1"])
def test_newer_versions_are_taken(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    assert library.installed_version() >= library.MINIMUM_VERSION


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(EngineError, match="pip install"):
        library.installed_version()


def test_devices_are_listed_and_unknown_ones_refused() -> None:
    found = list_devices()
    (cpu,) = [device for device in found if device.kind == "cpu"]
    assert cpu.backend == "cpu" and cpu.memory_bytes > 0 and cpu.description
    there = {device.backend for device in found}
    for backend in {"cuda", "metal", "rocm", "vulkan"} - there:
        with pytest.raises(DeviceError, match=f"{backend}.*cpu"):
            select_device(backend)  # type: ignore[arg-type]
    assert select_device("cpu")[1] is False


def test_cards_are_refused_in_a_forked_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA would end it."""
    assert not library.loaded_before_fork()
    monkeypatch.setattr(devices, "loaded_before_fork", lambda: True)
    select_device("auto")
    monkeypatch.setattr(devices, "kind_of", lambda _: "gpu")
    with pytest.raises(DeviceError, match="spawn"):
        select_device("auto")
    assert select_device("cpu")[1] is False


def test_log_lines_go_to_logging_and_nowhere_else(converted: Callable[..., dict[str, Path]]) -> None:
    code = (
        "import logging, sys\n"
        "from gemma4_gguf.files.model_file import check_model\n"
        "from gemma4_gguf.engine.model import Model\n"
        "lines = []\n"
        "class Keep(logging.Handler):\n"
        "    def emit(self, record): lines.append((record.levelno, record.getMessage()))\n"
        "facts = check_model(sys.argv[1])\n"
        "Model(facts).close()\n"
        "assert not lines\n"
        "log = logging.getLogger('gemma4_gguf')\n"
        "log.addHandler(Keep()); log.setLevel(logging.INFO)\n"
        "Model(facts).close()\n"
        "assert any('gemma4' in text for level, text in lines), lines\n"
        "assert all('\\n' not in text and text for _, text in lines)\n"
    )
    command = [sys.executable, "-c", code, str(converted("e2b")["model"])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Vocabulary


def test_text_survives_the_vocabulary(model: Model) -> None:
    for text in (
        "Hello, world!\n\n\n  twice  spaced\t",
        "Grüße, 漢字, 🎈👩‍👩‍👧, \x00 and \x7f",
        "",
        "\n" * 40,
        " ",
    ):
        assert model.detokenize(model.tokenize(text)) == text


def test_long_unbroken_text_is_tokenized(model: Model) -> None:
    text = "".join(random.Random(1).choices("abcdef éß漢", k=100_000))
    assert model.detokenize(model.tokenize(text)) == text


def test_control_tokens_are_read_only_when_asked(model: Model) -> None:
    turn = model.token_id("<|turn>")
    assert model.tokenize("<|turn>user") == [turn, *model.tokenize("user")]
    for text, token in model.control.ids.items():
        assert model.tokenize(f"a{text}b") == [*model.tokenize("a"), token, *model.tokenize("b")]
        plain = model.tokenize(f"a{text}b", special=False)
        assert not set(plain) & set(model.control.ids.values())
        assert model.detokenize(plain) == f"a{text}b"
        assert model.detokenize([token, *plain]) == f"{text}a{text}b"
        assert model.detokenize([token, *plain, turn], special=False) == f"a{text}b"


def test_many_control_tokens_in_a_text(model: Model) -> None:
    """llama.cpp looks for each kind again behind every one it found: twelve seconds for so many."""
    texts = [*model.control.ids] * (30_000 // len(model.control.ids))
    random.Random(1).shuffle(texts)
    assert model.tokenize("".join(texts)) == [model.control.ids[text] for text in texts]
    assert model.detokenize(model.tokenize("".join(texts), special=False)) == "".join(texts)


def test_half_a_surrogate_pair_and_wrong_ids_are_refused(model: Model) -> None:
    with pytest.raises(MessageError, match=r"Character 1 .*\\ud800"):
        model.tokenize("a\ud800b")
    for bad in (-1, model.n_vocab):
        with pytest.raises(MessageError, match=str(bad)):
            model.detokenize([bad])


def test_what_ends_a_reply(model: Model) -> None:
    ends = {text for text, i in model.facts.special_tokens.items() if model.ends_reply(i)}
    assert ends == {"<eos>", "<turn|>", "<|tool_response>"}
    assert not any(map(model.ends_reply, model.tokenize("</s>")))


AMX_BUILD = "CPU : AVX512 = 1 | AMX_INT8 = 1 | OPENMP = 1 | "


@pytest.mark.parametrize(
    ("signature", "fault"),
    [
        (b"GCC: (Debian 12.2.0-14+deb12u1) 12.2.0", "GCC 12.2"),
        (b"GCC: (Ubuntu 11.4.0-1ubuntu1~22.04) 11.4.0", "GCC 11.4"),
        (b"GCC: (GNU) 13.2.1 20231205 (Red Hat 13.2.1-6)", "GCC 13.2"),
        (b"GCC: (GNU) 10.2.1 20210130", "GCC 10.2"),
        (b"GCC: (GNU) 12.4.0", ""),
        (b"GCC: (Ubuntu 13.3.0-6ubuntu2) 13.3.0", ""),
        (b"GCC: (Debian 14.2.0-19) 14.2.0", ""),
        (b"GCC: (GNU) 16.1.0", ""),
        (b"Ubuntu clang version 18.1.3", ""),
        (b"GCC: (Debian 12.2.0-14) 12.2.0\0Debian clang version 14.0.6", ""),
        (b"GCC: (Debian 14.2.0) 14.2.0\0GCC: (Debian 12.2.0) 12.2.0", "GCC 12.2"),
        (b"", ""),
    ],
)
def test_amx_kernels_of_compilers_that_drop_their_configuration(
    signature: bytes, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libggml-cpu.so.0").write_bytes(bytes(5000) + signature + bytes(99))
    monkeypatch.setattr(library, "base_path", lambda: str(tmp_path))
    monkeypatch.setattr(library, "build_info", lambda: AMX_BUILD)
    assert library.amx_fault.__wrapped__() == fault
    monkeypatch.setattr(library, "build_info", lambda: AMX_BUILD.replace("AMX_INT8 = 1", "AMX_INT8 = 0"))
    assert library.amx_fault.__wrapped__() == ""


def test_weights_are_not_laid_out_for_kernels_that_end_the_process(
    nano: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    load = library.llama().llama_model_load_from_file
    monkeypatch.setattr(
        library.llama(),
        "llama_model_load_from_file",
        lambda path, params: (asked.append(params.use_extra_bufts), load(path, params))[1],
    )
    sound = not library.amx_fault()
    Model(check_model(nano), device="cpu").close()
    monkeypatch.setattr(library, "amx_fault", lambda: "GCC 12.2")
    Model(check_model(nano), device="cpu").close()
    assert asked == [sound, False]
