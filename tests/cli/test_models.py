"""The commands that open models or reach for the hub, from their arguments to what they print."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import Hub, serve

from gemma4_gguf import Session
from gemma4_gguf.cli import stream
from gemma4_gguf.cli.main import main
from gemma4_gguf.types import Chunk, Reply, ToolCall, Usage

Converted = Callable[..., dict[str, Path]]
SCENE = str(Path(__file__).resolve().parents[2] / "gemma4_gguf/nano/samples/scene2.png")


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundled checkpoint, converted by the demo."""
    from gemma4_gguf.demo import convert

    files = convert(tmp_path_factory.mktemp("nano"))
    return {"model": files.model, "projector": files.projector}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serve(Hub({})) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        pattern = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", pattern)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server


def test_ask_streams_the_answer(nano: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "ask",
        str(nano["model"]),
        "detect",
        "--image",
        SCENE,
        "--image-tokens",
        "70",
        "--temperature",
        "0",
    ]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert '"label": "purple circle"' in out and out.endswith("]\n") and err == ""


def test_ask_json_is_the_whole_reply(
    nano: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("detect"))
    command = ["ask", str(nano["model"]), "-", "--image", SCENE, "--image-tokens", "70", "--max-tokens", "5"]
    assert main([*command, "--json", "--seed", "1"]) == 0
    reply = json.loads(capsys.readouterr().out)
    assert reply["finish_reason"] == "length" and reply["usage"]["completion_tokens"] == 5
    assert reply["usage"]["prompt_tokens"] > 64


def test_ask_says_what_the_model_cannot_take(
    nano: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", str(nano["model"]), "hi", "--audio", str(tmp_path / "x.wav")]) in (8, 9)
    assert main(["ask", str(nano["model"]), "hi", "--image", str(tmp_path / "x.png")]) == 8
    assert main(["ask", str(nano["model"]), "hi", "--mmproj", str(nano["model"])]) == 6
    out, err = capsys.readouterr()
    assert out == "" and err.count("error: ") == 3


@pytest.mark.parametrize(
    ("option", "schema", "answers"),
    [
        ("--pattern", "left|right", ("left", "right")),
        ("--schema", 'root ::= "up"', ("up",)),
        ("--schema", '{"enum": [1, 2]}', ("1", "2")),
        ("--schema", '["yes", "no"]', ("yes", "no")),
    ],
)
def test_ask_with_a_schema(
    nano: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    option: str,
    schema: str,
    answers: tuple[str, ...],
) -> None:
    assert main(["ask", str(nano["model"]), "Where to?", option, schema, "--temperature", "0"]) == 0
    assert capsys.readouterr().out.strip() in answers


def test_ask_with_a_schema_from_a_file(
    nano: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "wanted.json"
    path.write_text('{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}')
    command = ["ask", str(nano["model"]), "Is it?", "--temperature", "0", "--schema"]
    assert main([*command, str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parsed"]["a"] in (True, False)
    path.write_text('{"type": ')
    for broken in (
        str(path),
        str(tmp_path / "none.json"),
        '{"type": "objekt"}',
        "yes|no",
        "root ::= x",
        "[a-z]",
    ):
        assert main([*command, broken]) == 12
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ") and "Traceback" not in err
    for nothing in ("null", "5", '"yes"'):
        path.write_text(nothing)
        assert main([*command, str(path)]) == 12
    assert main([*command, "[1]", "--pattern", "a"]) == 12
    assert main([*command[:-1], "--pattern", "("]) == 12
    assert "--pattern" in capsys.readouterr().err
    assert main([*command[:-1], "--pattern", r"a{500}", "--max-tokens", "3"]) == 13
    assert "(--max-tokens, --ctx)" in capsys.readouterr().err


def test_chat_is_saved_and_goes_on(
    nano: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    path = tmp_path / "a talk.chat"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"detect\n/save '{path}'\n/save\n/save /dev/null/x\n"))
    command = ["chat", str(nano["model"]), "--max-tokens", "4", "--temperature", "0"]
    assert main(command) == 0
    assert path.is_file() and capsys.readouterr().err.count("error: ") == 2
    monkeypatch.setattr("sys.stdin", io.StringIO(f"detect\n/load '{path}'\n/load {tmp_path}/none\n"))
    assert main([*command, "--load", str(path), "--on-full", "drop_oldest"]) == 0
    err = capsys.readouterr().err
    assert err.count("going on after 1 turns") == 2 and err.count("error: ") == 1
    assert main([*command, "--load", str(tmp_path / "none")]) == 9


def test_chat_goes_on_after_errors(
    nano: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [
        "/image nothing.png",
        "/what",
        f"/image {SCENE} detect",
        "/reset",
        f'/image "{SCENE}"',
        "detect",
        "/exit",
        "x",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(turns)))
    assert main(["chat", str(nano["model"]), "--image-tokens", "70", "--temperature", "0"]) == 0
    out, err = capsys.readouterr()
    assert out.count('"label": "purple circle"') == 2
    assert "nothing.png is no file" in err and "no command /what" in err and "forgotten" in err


def test_chat_takes_back_and_tries_again(
    nano: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = ["/retry", "/undo", "My name is Anna.", "What is my name?", "/retry", "/undo", "What is my name?"]
    turns += ["/undo", "/undo", "/undo", "What is my name?"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(turns)))
    assert main(["chat", str(nano["model"]), "--temperature", "0", "--max-tokens", "12"]) == 0
    out, err = capsys.readouterr()
    greeting, *answers = out.splitlines()
    assert answers[:3] == ["Your name is Anna."] * 3 and "Anna" not in answers[3] and greeting
    assert err.count("nothing was said yet") == 3
    assert [line for line in err.splitlines() if "taken back" in line] == [
        "taken back; 1 turns are left",
        "taken back; 1 turns are left",
        "taken back; 0 turns are left",
    ]


def test_a_turn_that_does_not_fit_leaves_the_chat_usable(
    nano: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("word " * 2000 + "\nhello\n"))
    assert main(["chat", str(nano["model"]), "--ctx", "256", "--max-tokens", "4"]) == 0
    out, err = capsys.readouterr()
    assert err.count("error: ") == 1 and out.strip()


def test_thoughts_and_calls_stay_off_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    reply = Reply("It rains.", finish_reason="length", usage=Usage(9, 0, 5), warnings=("mended",))
    chunks = [
        Chunk("thinking", text="Look it "),
        Chunk("thinking", text="up."),
        Chunk("tool_call", tool_call=ToolCall("call_0", "get_weather", {"place": "Köln"})),
        Chunk("text", text="It "),
        Chunk("text", text="rains."),
        Chunk("end", reply=reply),
    ]
    assert stream.show(iter(chunks), stats=True) == reply
    out, err = capsys.readouterr()
    assert out == "It rains.\n"
    lines = [line for line in err.splitlines() if line]
    assert lines[:2] == ["Look it up.", 'get_weather {"place": "Köln"}']
    assert lines[2] == "note: mended" and "--max-tokens" in lines[3] and lines[4].startswith("5 tokens")
    assert stream.show(iter(chunks), quiet=True) == reply
    assert capsys.readouterr() == ("", "")


def test_inspect_reports_model_and_projector(
    nano: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(nano["model"]), "--ctx", "1024"]) == 0
    text = capsys.readouterr().out
    for part in (
        "Q4_K_M",
        "4.50 M, 4.11 M effective",
        "1,536 tokens, 256 wide",
        "the last 2 share keys and values",
        "at 1,024 tokens",
        "Q6_K",
    ):
        assert part in text
    assert main(["inspect", str(nano["projector"])]) == 0
    assert "pictures (gemma4v)" in capsys.readouterr().out
    assert main(["inspect", str(nano["model"]), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["quantization"] == "Q4_K_M" and report["memory"]["n_ctx"] == 8192
    assert sum(group["n_parameters"] for group in report["groups"]) == report["n_parameters"]


def test_inspect_of_every_member(converted: Converted, capsys: pytest.CaptureFixture[str]) -> None:
    expected = {"e2b": "share keys and values", "26b": "4, 2 per token", "assistant": "drafter for"}
    for member, part in expected.items():
        assert main(["inspect", str(converted(member)["model"])]) == 0
        assert part in capsys.readouterr().out


def test_inspect_refuses_what_is_no_gguf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"not one")
    assert main(["inspect", str(path)]) == 6
    assert str(path) in capsys.readouterr().err


def test_convert_from_the_hub_names_files_after_the_repository(
    hub: Hub, checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repos["org/my-model"] = {p.name: p.read_bytes() for p in checkpoint("e2b_text").iterdir()}
    assert main(["convert", "org/my-model", "-o", str(tmp_path / "out"), "-q", "F16"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path}/out/my-model-F16.gguf\n" and "error" not in err
    assert main(["convert", "org/other", "-o", str(tmp_path / "out")]) == 4
    assert "does not show a model of that name" in capsys.readouterr().err


def test_pull_and_ask_by_hub_id(
    hub: Hub, nano: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repos["org/nano-GGUF"] = {path.name: path.read_bytes() for path in nano.values()}
    assert main(["pull", "org/nano-GGUF:Q4_K_M", "--json"]) == 0
    paths = json.loads(capsys.readouterr().out)
    assert {Path(path).name for path in paths.values()} == {path.name for path in nano.values()}
    sent = hub.sent_bytes
    with Session("org/nano-GGUF:Q4_K_M") as session:
        assert session.has_vision and session.name == "Nano"
    command = [
        "ask",
        "org/nano-GGUF:Q4_K_M",
        "detect",
        "--image",
        SCENE,
        "--image-tokens",
        "70",
        "--temperature",
        "0",
    ]
    assert main(command) == 0
    assert "purple circle" in capsys.readouterr().out and hub.sent_bytes == sent
    assert main(["pull", "org/nano-GGUF:Q8_0"]) == 4
    assert "no Q8_0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["pull", "org/nano"], ["convert", "org/nano", "-o", "out"], ["ask", "org/nano", "hi"]]
)
def test_a_download_that_stalls_can_be_interrupted(
    hub: Hub,
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = {"config.json": b"{}", "model.safetensors": bytes(3_000_000)}
    hub.repos["org/nano"] = {"m.gguf": bytes(3_000_000)} if command[0] == "ask" else weights
    monkeypatch.chdir(tmp_path)
    hub.pause_after = 500_000

    def interrupt() -> None:
        hub.paused.wait(20)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    assert main(command) == 130  # while the hub still says nothing
    assert not hub.go_on.is_set() and capsys.readouterr().err.endswith("Interrupted.\n")


def test_pull_of_a_checkpoint_prints_its_directory(
    hub: Hub, checkpoint: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repos["org/my-model"] = {p.name: p.read_bytes() for p in checkpoint("e2b_text").iterdir()}
    assert main(["pull", "org/my-model", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert (Path(out.strip()) / "config.json").is_file() and err == ""
