"""How commands are typed: where the model is named, options in any order, suggestions, whose words."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gemma4_gguf.cli import model_choice
from gemma4_gguf.cli.config import settings_path
from gemma4_gguf.cli.errors import in_words_of_the_command
from gemma4_gguf.cli.main import build_parser, main
from gemma4_gguf.cli.parser import flags
from gemma4_gguf.errors import OptionError

# Command → its other arguments, and the names of the arguments that take them.
COMMANDS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "detect": (["p.png", "mugs"], ("picture", "what")),
    "describe": (["c.mp4"], ("file",)),
    "transcribe": (["s.wav"], ("sound",)),
    "chat": ([], ()),
    "inspect": ([], ()),
}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GEMMA4_GGUF_MODEL", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("APPDATA", str(tmp_path / "config"))


def parsed(*words: str) -> argparse.Namespace:
    return build_parser().parse_args(words)  # type: ignore[no-any-return]


def asked(*words: str) -> tuple[str, list[str]]:
    args = parsed("ask", *words)
    return model_choice.model_and_words(args, args.prompt)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_model_is_named_in_four_places(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, names = COMMANDS[command]

    def model_of(*typed: str) -> str:
        args = parsed(command, *typed)
        assert [getattr(args, name) for name in names] == words
        return model_choice.chosen_model(args)

    with pytest.raises(OptionError, match=r"-m MODEL.*GEMMA4_GGUF_MODEL.*config model"):
        model_of(*words)
    assert main([command, *words]) == 2 and "No model is named" in capsys.readouterr().err
    (tmp_path / "c.gguf").touch()
    monkeypatch.chdir(tmp_path)
    assert main(["config", "model", "c.gguf"]) == 0
    assert model_of(*words) == str(tmp_path / "c.gguf")
    monkeypatch.setenv("GEMMA4_GGUF_MODEL", "org/env")
    assert model_of(*words) == "org/env"
    assert model_of("a.gguf", *words) == "a.gguf"
    assert model_of("-m", "b.gguf", *words) == model_of(*words, "-m", "b.gguf") == "b.gguf"
    with pytest.raises(OptionError, match=r"a\.gguf and -m b\.gguf"):
        model_of("a.gguf", *words, "-m", "b.gguf")


def test_a_question_may_follow_a_model_or_stand_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model in ("m.gguf", "M.GGUF", "org/repo", "org/repo:Q4_K_M", "/nope/x", "models"):
        assert asked(model, "Why?") == (model, ["Why?"])
    assert asked("-m", "m.gguf", "n.gguf", "Why?") == ("m.gguf", ["n.gguf", "Why?"])
    with pytest.raises(OptionError, match="No model is named"):
        asked("What is 2+2?")
    with pytest.raises(OptionError, match="No model is named"):
        asked("x" * 5000 + " y")
    assert main(["ask"]) == 2 and "No model is named" in capsys.readouterr().err
    monkeypatch.setenv("GEMMA4_GGUF_MODEL", "env.gguf")
    (tmp_path / "sha256-0123").write_bytes(b"GGUF\3\0\0\0")
    (tmp_path / "notes.txt").write_bytes(b"hello")
    monkeypatch.chdir(tmp_path)
    for question in ("Why?", "yes/no", "notes.txt", "x" * 5000, "~/a", "/nope/x", ".", "a\ud800"[:1]):
        assert asked(question) == ("env.gguf", [question])
    assert asked("What", "is", "it?") == ("env.gguf", ["What", "is", "it?"])
    assert asked("sha256-0123", "Why?") == ("sha256-0123", ["Why?"])
    assert asked("org/repo:Q8_0", "Why?") == ("org/repo:Q8_0", ["Why?"])


def test_options_stand_anywhere() -> None:
    args = parsed("ask", "m.gguf", "--image", "a.png", "What", "--seed", "1", "is it?")
    assert (args.first, args.prompt, args.image, args.seed) == ("m.gguf", ["What", "is it?"], ["a.png"], 1)
    args = parsed("detect", "m.gguf", "--json", "p.png", "mugs")
    assert (args.first, args.picture, args.what) == ("m.gguf", "p.png", "mugs")
    assert parsed("ask", "m.gguf", "--", "-x").prompt == ["-x"]
    assert parsed("ask", "m.gguf", "-").prompt == ["-"]
    args = parsed("convert", "--force", "dir", "-q", "Q8_0", "-o", "out")
    assert (args.source, args.out, args.quant, args.force) == ("dir", "out", "Q8_0", True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["cht"], "no command 'cht'; did you mean chat?"),
        (["transcribe-audio", "x"], "did you mean transcribe?"),
        (["xyzzy"], "no command 'xyzzy'\n"),
        (["ask", "m.gguf", "hi", "--imgae", "x.png"], "no option --imgae; did you mean --image"),
        (["ask", "m.gguf", "hi", "--temprature=1"], "no option --temprature; did you mean --temperature?"),
        (["ask", "m.gguf", "hi", "--max", "5"], "no option --max; did you mean --max-tokens?"),
        (["ask", "m.gguf", "hi", "--temp", "1"], "did you mean --temperature?"),
        (["convert", "dir", "-o", "out", "--forced"], "did you mean --force?"),
        (["convert", "dir", "-o", "out", "--qua", "Q8_0"], "did you mean --quant"),
        (["--json", "inspect", "m.gguf"], "--json belongs behind the command: gemma4-gguf inspect --json"),
        (["--verson"], "no option --verson; did you mean --version?"),
        (["convert", "dir", "-o", "out", "extra"], "too many arguments: extra"),
        (["convert", "dir"], "-o/--out"),
        (["ask", "m.gguf", "hi", "--device", "gpu"], "cuda"),
        (["ask", "m.gguf", "hi", "--seed", "x"], "--seed"),
        (["completion", "csh"], "bash"),
        (["config", "mdel", "x"], "model"),
    ],
)
def test_a_mistyped_word_is_told(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == ""
    assert err.startswith("error: ") and told in err and "--help says more" in err and err.count("\n") == 2


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("Say which with projector=.", "Say which with --mmproj."),
        ("open the model with projector=None.", "open the model with --no-mmproj."),
        ("projector='x y.gguf' is a model", "--mmproj x y.gguf is a model"),
        ("device='cuda': this build has cpu.", "--device cuda: this build has cpu."),
        ("n_ctx is 0, n_seq 1; expected at least 1.", "--ctx is 0, n_seq 1; expected at least 1."),
        ("lower image_tokens, or take a larger n_ctx.", "lower --image-tokens, or take a larger --ctx."),
        ("Allow more tokens (max_tokens, n_ctx).", "Allow more tokens (--max-tokens, --ctx)."),
        ("kv_type is 'q'; expected one of f16.", "--kv-type is 'q'; expected one of f16."),
        (
            "n_threads is 0; expected 1, or None for all.",
            "--threads is 0; expected 1, or leave it out for all.",
        ),
        ("n_gpu_layers=-7", "--gpu-layers -7"),
        ("temperature is 9", "temperature is 9"),
        ("system= belongs to the conversation", "--system belongs to the conversation"),
        ("thinking=True", "--think"),
        ("/a/n_ctx.gguf and x_n_ctx are no options, nor is max_tokens()", None),
    ],
)
def test_messages_speak_of_what_is_typed(message: str, shown: str | None) -> None:
    command = build_parser().subcommands["ask"]
    assert in_words_of_the_command(message, flags(command)) == (shown or message)


def test_words_of_other_commands() -> None:
    def words(command: str, message: str) -> str:
        return in_words_of_the_command(message, flags(build_parser().subcommands[command]))

    assert words("convert", "Pass force (--force) to replace it.") == "Pass --force to replace it."
    assert words("describe", "fewer frames=, or sound=False.") == "fewer --frames, or --no-sound."
    told = "prompt= replaces the question, so language= and translate_to= belong into it."
    assert words("transcribe", told).count("--") == 3
    assert words("inspect", "larger n_ctx, other projector=") == "larger n_ctx, other projector="


def test_a_wrong_option_is_told_in_its_words(nano: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", str(nano), "hi", "--ctx", "0"]) == 2
    assert "--ctx" in capsys.readouterr().err
    assert main(["ask", str(nano), "hi", "--threads", "0"]) == 2
    assert "--threads" in capsys.readouterr().err


def test_a_setting_lasts_and_is_forgotten(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ä b.gguf").touch()
    assert main(["config", "model"]) == 1 and capsys.readouterr().out == ""
    for typed, kept in [("org/repo:Q4_K_M", "org/repo:Q4_K_M"), ("ä b.gguf", str(tmp_path / "ä b.gguf"))]:
        assert main(["config", "model", typed]) == 0
        assert main(["config", "model"]) == 0 and capsys.readouterr().out == f"{kept}\n"
    assert main(["config"]) == 0
    out, err = capsys.readouterr()
    assert out == f"model = {kept}\n" and str(settings_path()) in err
    assert main(["config", "model", "/nope/x.gguf"]) in (4, 6)
    assert main(["config", "model", "--unset"]) == main(["config"]) == 0
    assert list(settings_path().parent.iterdir()) == [settings_path()]


@pytest.mark.parametrize("content", ["{", "[]", '{"model": 3}', '{"modell": "x"}', "\0\0", "[" * 100_000])
def test_a_damaged_settings_file_is_named(content: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings_path().parent.mkdir(parents=True)
    settings_path().write_text(content)
    for command in (["config"], ["ask", "Why is that?"], ["chat"]):
        assert main(command) == 2
        assert str(settings_path()) in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh", "powershell"])
def test_completion_knows_every_command(
    shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in build_parser().subcommands)
    if shell == "bash" and sys.platform == "linux":
        (tmp_path / "complete").write_text(script)
        asked = "COMP_WORDS=(gemma4-gguf de); COMP_CWORD=1; _shtab_gemma4_gguf x de; echo ${COMPREPLY[@]}"
        done: Any = subprocess.run(
            ["bash", "-c", f". {tmp_path}/complete; {asked}"], capture_output=True, text=True, check=False
        )
        assert done.stdout.split() == ["demo", "detect", "describe", "devices"]
