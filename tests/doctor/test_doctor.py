"""The doctor: right numbers pass, wrong ones do not, and whatever breaks is told with a way out."""

from __future__ import annotations

import errno
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doctor_fakes import CHECK, child
from PIL import Image as PILImage

from gemma4_gguf.cli.doctor import show_report
from gemma4_gguf.cli.main import main
from gemma4_gguf.doctor import child_process, device_process, doctor
from gemma4_gguf.doctor.doctor import examine_machine
from gemma4_gguf.doctor.reference import Embedding, Medium, Question, load_reference
from gemma4_gguf.doctor.report import Check, DeviceReport, Report, Speed
from gemma4_gguf.errors import OptionError
from gemma4_gguf.nano import bundled
from gemma4_gguf.nano.bundled import write_checksums

NANO = Path(bundled.__file__).parent
ONE_THREAD = ("OMP_THREAD_LIMIT", "1")  # spinning threads are slow where other tests run


@pytest.fixture(scope="module")
def report() -> Report:
    """What the doctor finds here, on the processor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*ONE_THREAD)
        return examine_machine("cpu")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """fake(cuda="code", …) puts other children in the place of the real ones: see `doctor_fakes.child`."""
    return lambda **scripts: monkeypatch.setattr(doctor, "_START", child(**scripts))


def without_values(folder: Path) -> None:
    """Blank the value matrix of one text layer: attention then adds nothing there."""
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    name = next(n for n in header if "language_model" in n and n.endswith("self_attn.v_proj.weight"))
    first, last = (start + offset for offset in header[name]["data_offsets"])
    data[first:last] = bytes(last - first)
    path.write_bytes(data)


# The real thing


def test_this_installation_is_right(report: Report) -> None:
    (device,) = report.devices
    assert device.right and device.device == "cpu" and device.names and device.failure == ""
    names = [(check.name, check.model) for check in device.checks]
    for expected in (("tokenizer", "F32"), ("text", "F32"), ("text", "Q4_K_M")):
        assert expected in names
    reference = load_reference(NANO)
    for kind in reference.embeddings:
        assert {(f"after a {kind}", "F32"), (f"{kind} tokens", "F32"), (f"after a {kind}", "Q4_K_M")} <= {
            *names
        }
    answers = [check for check in device.checks if check.name.startswith("answer")]
    assert len(answers) == len(reference.questions) >= 2
    assert device.speed is not None and device.speed.prompt > 0 < device.speed.decode


def test_the_bounds_have_room_on_both_sides(report: Report) -> None:
    for check in report.devices[0].checks:
        values = {name: value or 0.0 for name, value in check.values.items()}
        assert values.get("mean_kl", 0) < 0.75 * device_process.MEAN_KL[check.model]
        assert 1 - values.get("least_cosine", 1) < (1 - device_process.MIN_COSINE) / 2


def test_a_report_is_json_with_everything_in_it(report: Report) -> None:
    told = json.loads(json.dumps(report.as_dict()))
    assert told["right"] is report.right and told["devices"][0]["right"] is True
    assert told["version"] and told["machine"]["python"] and told["machine"]["packages"]["numpy"]
    assert told["library"]["llama_cpp_python"] >= "0.3.36" and "cpu" in told["library"]["backends"]
    assert told["library"]["commit"] and "=" in told["library"]["system_info"]
    assert set(told["devices"][0]["checks"][0]) == {"name", "model", "right", "found", "needed", "values"}


def test_a_changed_weight_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(NANO, tmp_path / "nano")
    without_values(folder)
    write_checksums(folder)

    @contextmanager
    def changed() -> Iterator[Path]:
        yield folder

    monkeypatch.setattr(doctor, "bundled_checkpoint", changed)
    monkeypatch.setenv(*ONE_THREAD)
    assert main(["doctor", "--device", "cpu"]) == 1
    out, err = capsys.readouterr()
    lines = [row for row in out.splitlines() if row.startswith("cpu ")]
    assert any("text, F32" in row and "WRONG" in row for row in lines)
    assert any("tokenizer" in row and " right " in row for row in lines)
    assert sum("answer" in row and "WRONG" in row for row in lines) >= 1
    assert "Do not use this build" in out and "Wrong: 1 thing" in out
    assert "examining cpu" in err


# What children do to it


def test_a_crash_is_told_and_the_others_still_run(
    fake: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    crash = (
        "emit({'event': 'now', 'what': 'picture, F32'})\n"
        "sys.stderr.write('ggml-cuda.cu:88: CUDA error: out of memory\\n')\n"
        "sys.stderr.flush()\n"
        f"emit({CHECK!r})\n"
        "os.abort()"
    )
    fake(cuda=crash)
    assert main(["doctor", "--json"]) == 1
    cpu, cuda = json.loads(capsys.readouterr().out)["devices"]
    assert cpu["right"] and not cuda["right"] and len(cuda["checks"]) == 1
    assert "ended with" in cuda["failure"] and "picture, F32" in cuda["failure"]
    if sys.platform != "win32":
        assert "signal 6 (SIGABRT)" in cuda["failure"]
    assert cuda["log"][-1] == "ggml-cuda.cu:88: CUDA error: out of memory" and not cpu["log"]


def test_what_a_device_computes_wrong_is_told_with_the_way_round_it(
    fake: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    fake(cuda=f"emit({CHECK | {'right': False, 'found': 'KL 3.0e+00, peak 9.0e+00'}!r})")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "cuda    text, F32  WRONG   KL 3.0e+00" in out and "--device cpu" in out
    assert 'CMAKE_ARGS="-DGGML_CUDA=on"' in out or "$env:CMAKE_ARGS" in out
    assert "cpu     text, F32  right" in out


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("time.sleep(60)", "no sign for 1 seconds"),
        ("raise ZeroDivisionError('a bug')", "ended with exit code 1"),
        ("sys.exit(3)", "ended with exit code 3"),
        ("emit({'event': 'error', 'message': 'The file is gone.'}); sys.exit(1)", "The file is gone."),
        ("os.close(1); os._exit(0)", "ended with exit code 0"),
    ],
)
def test_a_child_that_does_not_end_well_is_told(
    code: str, told: str, fake: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_process, "SILENCE_S", 1.0)
    fake(cuda=code)
    cpu, cuda = examine_machine().devices
    assert cpu.right and told in cuda.failure and not cuda.right


def test_words_of_drivers_between_the_results_do_no_harm(fake: Callable[..., None]) -> None:
    fake(cuda=f"print('driver says hello'); print('[1]'); print('{{}}'); emit({CHECK!r})")
    assert [device.right for device in examine_machine().devices] == [True, True]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_a_build_for_another_processor_is_told_on_loading(
    fake: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    fake(library="os.kill(os.getpid(), signal.SIGILL)")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "built for another processor" in out and "pip install --force-reinstall --no-cache-dir" in out
    assert "not loaded" in out and "examination" not in out


def test_an_old_llama_cpp_python_is_told_with_its_version(
    fake: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    message = "llama-cpp-python 0.3.9 is installed; Gemma 4 needs 0.3.36 or newer."
    fake(library=f"emit({{'event': 'error', 'message': {message!r}}}); sys.exit(1)")
    assert main(["doctor"]) == 1
    assert message in capsys.readouterr().out


def test_a_device_that_is_not_there_is_wrong_without_a_run(fake: Callable[..., None]) -> None:
    fake(cuda="os.abort()")
    (vulkan,) = examine_machine("vulkan").devices
    assert "cuda, cpu alone" in vulkan.failure and not vulkan.right
    shown = child().replace('"kind": "gpu"', '"kind": "gone"').replace('"backend": "cuda"', '"backend": "x"')
    found = examine_machine("cuda", examination=[sys.executable, "-c", shown, ""])
    assert "finds no such device" in found.devices[0].failure


def test_a_conversion_that_fails_stands_in_the_report(fake: Callable[..., None]) -> None:
    fake(prepare="sys.stderr.write('no room\\n'); sys.exit(1)")
    found = examine_machine()
    assert not found.devices and not found.right
    assert "is not converted" in found.advice[0].what and "no room" in found.advice[0].what


def test_no_temporary_directory_stands_in_the_report(
    fake: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    fake()
    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    found = examine_machine()
    assert not found.devices and not found.right
    assert "No usable temporary directory" in found.advice[0].what and "TMPDIR" in found.advice[0].what


def test_unknown_devices_are_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OptionError, match="expected one of auto, cpu, cuda"):
        examine_machine("tpu")  # type: ignore[arg-type]
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--device", "tpu"])
    assert stop.value.code == 2 and "invalid choice" in capsys.readouterr().err


def test_a_narrow_terminal_still_shows_what_was_needed(
    report: Report, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = Check("text", "F32", False, "KL 2.0e+00", "up to 5e-05")
    device = DeviceReport("cpu", ("x",), (wrong,), Speed(1234.5, 67.8), "ended with signal 6 (SIGABRT)")
    monkeypatch.setattr("gemma4_gguf.cli.output.PLAIN_WIDTH", 60)
    show_report(replace(report, devices=(device,), advice=()))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 60
    told = " ".join(out.split())
    assert "KL 2.0e+00, needed up to 5e-05" in told and "1,234 tokens/s read" in told
    assert "signal 6 (SIGABRT)" in told and "Everything is right" not in told


# Measures


def test_divergence_tells_wrong_numbers_from_right_ones() -> None:
    numbers = load_reference(NANO).numbers["text"]
    n_vocab = 4096
    logits = np.full((int(numbers.rows.max()) + 1, n_vocab), -30.0, np.float32)
    rest = np.log(np.clip(1 - np.exp(numbers.log_probabilities.astype(float)).sum(-1), 1e-9, 1))
    logits[numbers.rows] = (rest - math.log(n_vocab - numbers.tokens.shape[1]))[:, None]
    for row, tokens, values in zip(numbers.rows, numbers.tokens, numbers.log_probabilities, strict=True):
        logits[row, tokens] = values
    assert numbers.divergence(logits).max() < 1e-6
    assert numbers.divergence(logits * np.float32(1.05)).mean() > device_process.MEAN_KL["F32"]
    assert numbers.divergence(np.roll(logits, 1, axis=1)).mean() > device_process.MEAN_KL["Q4_K_M"]
    logits[numbers.rows[0], 7] = np.nan
    assert numbers.divergence(logits)[0] == np.inf


def test_cosines_tell_wrong_embeddings_from_right_ones() -> None:
    vectors = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float16)
    embedding = Embedding(Medium("picture", "x.png"), vectors)
    right = vectors.astype(np.float32)
    assert embedding.cosines(right * 2).min() > 0.999999
    assert embedding.cosines(np.roll(right, 1, axis=0)).min() < device_process.MIN_COSINE
    assert embedding.cosines(right[:4]).tolist() == [-1.0]
    right[2, 3] = np.nan
    assert embedding.cosines(right)[2] == -1.0


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda text: text, True),
        (lambda text: f"Here: {text}", True),
        (lambda text: text.replace("circle", "square"), False),
        (lambda text: text[: text.index("}")] + "}]", False),
        (lambda text: "", False),
    ],
)
def test_answers_with_boxes(change: Callable[[str], str], same: bool, tmp_path: Path) -> None:
    PILImage.new("RGB", (300, 200)).save(tmp_path / "x.png")
    boxes = [
        {"box_2d": [100, 40, 380, 320], "label": "a circle"},
        {"box_2d": [600, 9, 800, 200], "label": "b"},
    ]
    answer = json.dumps(boxes)
    question = Question("detect", Medium("picture", "x.png"), answer, True)
    assert question.is_answered(change(answer), tmp_path) is same
    assert question.is_answered(answer.replace("100, 40", "110, 50"), tmp_path)
    assert not question.is_answered(answer.replace("100, 40", "370, 300"), tmp_path)


def test_answers_in_words() -> None:
    question = Question("What is 47 + 38?", None, "85", False)
    assert question.is_answered("85\n", NANO) and not question.is_answered("86", NANO)


def test_the_record_is_of_the_bundled_checkpoint() -> None:
    listed: dict[str, Any] = json.loads((NANO / "checksums.json").read_text("utf-8"))
    recorded = load_reference(NANO).made_with["model.safetensors"]
    assert recorded == listed["model.safetensors"]["sha256"], "run tests/reference/bundled.py"
    assert (NANO / "reference.npz").stat().st_size < 200_000
