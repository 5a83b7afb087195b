"""Standard streams of the commands: any encoding, foreign control characters, closed and full pipes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from altered import altered

from gemma4_gguf.cli import output, stream
from gemma4_gguf.cli.main import main
from gemma4_gguf.cli.terminal import json_text, standard_streams, visible
from gemma4_gguf.types import Chunk, Reply

WIDE = "é ł … 你好 😀 \u0085"
ENCODINGS = ["utf-8", "ascii", "cp1252", "cp437", "latin-1", "gbk", "shift_jis", "koi8-r", "utf-16", "utf-32"]
# Set the title, a link, the clipboard, clear the screen; the same by C1; overwrite; turn the line round.
HOSTILE = [
    "\x1b]0;title\x07",
    "\x1b]8;;https://a.test\x1b\\",
    "\x1b]52;c;eA==\x07",
    "\x1b[2J",
    "\x9b2J",
    "\x9d0;t\x9c",
    "\x90q\x9c",
    "x\rerror",
    "x\b\b\b",
    "\x7f",
    "\x0b\x0c",
    "\x00",
    "\u202egnp",
    "\u2066x\u2069",
    "\u2028y",
]
FORBIDDEN = set(map(chr, [*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F)])) | {"\u2066"}


class Stream(io.TextIOWrapper):
    """A standard stream in memory."""

    def __init__(self, encoding: str = "utf-8", *, tty: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding, newline="\n")
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty

    @property
    def text(self) -> str:
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode(self.encoding, "replace")


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Stream, Stream]]:
    """streams(encoding, tty=False) -> stdout and stderr from now on."""

    def replace(encoding: str = "utf-8", *, tty: bool = False) -> tuple[Stream, Stream]:
        made = Stream(encoding, tty=tty), Stream(encoding, tty=tty)
        monkeypatch.setattr("sys.stdout", made[0])
        monkeypatch.setattr("sys.stderr", made[1])
        return made

    return replace


Streams = Callable[..., tuple[Stream, Stream]]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_has_its_value_in_any_encoding(encoding: str, streams: Streams) -> None:
    out, _ = streams(encoding)
    value = {"text": WIDE, "path": "caf\udce9"}
    with standard_streams():
        output.print_json(value)
        output.print_json_rows([value])
    first, second = out.text.split("\n[", 1)
    assert json.loads(first) == value and json.loads("[" + second) == [value]


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_character_stops_a_command(encoding: str, tty: bool, streams: Streams, tmp_path: Path) -> None:
    out, err = streams(encoding, tty=tty)
    assert main(["inspect", str(tmp_path / f"{WIDE}.gguf")]) == 6
    assert main(["inspect", str(tmp_path / os.fsdecode(b"caf\xe9.gguf"))]) == 6
    with standard_streams():
        output.print_facts([("name", WIDE)])
        output.print_table(["a"], [[WIDE]])
        stream.show(iter([Chunk("text", text=WIDE), Chunk("end", reply=Reply(WIDE))]))
        sys.stdout.write("caf\udce9\n")
        with output.byte_progress(WIDE) as show, output.waiting_for(WIDE):
            assert show is not None
            show(WIDE, 1, 2)
    assert err.text.count("does not exist") == 2
    out.flush()
    assert out.errors == "strict"  # as it was


def test_bytes_of_a_file_name_go_through_a_pipe(streams: Streams) -> None:
    out, _ = streams()
    with standard_streams():
        sys.stdout.write("caf\udce9\n")
    out.flush()
    assert isinstance(out.buffer, io.BytesIO) and out.buffer.getvalue() == b"caf\xe9\n"


@pytest.mark.parametrize("text", HOSTILE)
def test_foreign_text_moves_no_cursor(
    text: str,
    streams: Streams,
    nano: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = altered(nano, tmp_path / "m.gguf", {"general.name": f"a{text}\nb"})
    out, err = streams(tty=True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    name = text.replace("\x00", "").replace("/", "")
    assert main(["inspect", str(file)]) == 0
    assert main(["inspect", str(file), "--json"]) == 0
    assert main(["inspect", f"{name}.gguf"]) == 6
    assert main(["ask", f"{name}.gguf", "hi"]) in (4, 6)
    assert main(["ask", "m.gguf", "hi", "--schema", f"x{name}.json"]) == 12
    with pytest.raises(SystemExit):
        main([name or "x"])
    with pytest.raises(SystemExit):
        main(["ask", f"--x{name}"])
    with standard_streams():
        stream.show(
            iter([Chunk("thinking", text=text), Chunk("text", text=text), Chunk("end", reply=Reply())])
        )
        print(text)
        sys.stderr.write(text)
    assert not FORBIDDEN & set(out.text + err.text)
    shown = visible(text)
    assert f"a{shown}\\nb" in out.text and out.text.count(shown) >= 3 and shown in err.text


def test_a_reply_in_a_pipe_is_as_the_model_wrote_it(streams: Streams) -> None:
    out, _ = streams()
    with standard_streams():
        stream.show(iter([Chunk("text", text="\x1b[1mbold"), Chunk("end", reply=Reply())]))
    assert out.text == "\x1b[1mbold\n"


def test_what_is_no_control_character_stays(streams: Streams) -> None:
    text = "tab\there\nعربى עברית 👩‍👩‍👧 naïve \\x1b [bold]"
    assert visible(text) == text and visible("a\r\nb") == "a\nb"
    assert json_text(json.dumps(text, ensure_ascii=False), "utf-8") == json.dumps(text, ensure_ascii=False)


class Broken(Stream):
    """A stream that can no longer be written."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize(
    "command", [["devices"], ["devices", "--json"], ["config"], ["--version"], ["--help"]]
)
@pytest.mark.parametrize(
    ("error", "code"), [(OSError(28, "No space left on device"), 5), (BrokenPipeError(), 141)]
)
def test_stdout_that_takes_nothing(
    command: list[str],
    error: OSError,
    code: int,
    streams: Streams,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "gemma4-gguf").mkdir()
    (tmp_path / "gemma4-gguf/config.json").write_text('{"model": "x"}')
    _, err = streams()
    monkeypatch.setattr("sys.stdout", Broken(error))
    assert main(command) == code
    assert ("No space left" in err.text) == (code == 5) and "Traceback" not in err.text


@pytest.mark.parametrize("error", [OSError(28, "full"), BrokenPipeError(), ValueError("closed")])
def test_stderr_that_takes_nothing_changes_no_exit_code(
    error: OSError, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams()
    monkeypatch.setattr("sys.stderr", Broken(error))
    assert main(["inspect", "none.gguf"]) == 6
    with pytest.raises(SystemExit) as stop:
        main(["devises"])
    assert stop.value.code == 2


@pytest.mark.skipif(os.name == "nt", reason="shell redirections")
@pytest.mark.parametrize(
    ("redirection", "code"),
    [(">&-", 5), (">/dev/full", 5), ("2>&-", 0), ("2>/dev/full", 0), ("<&- >&- 2>&-", 5), ("| true", 141)],
)
def test_a_process_without_its_streams(redirection: str, code: int, tmp_path: Path) -> None:
    line = f'"$0" -m gemma4_gguf --version {redirection}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", line, sys.executable], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode in (code, 0 if "true" in redirection else code)  # true may end later
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="no device files")
def test_output_files_that_are_no_regular_files_are_written_to(tmp_path: Path) -> None:
    from PIL import Image as PILImage

    from gemma4_gguf.cli.files import growing_text, save_picture

    pipe, link, target = tmp_path / "pipe.txt", tmp_path / "link.png", tmp_path / "target.png"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with growing_text(pipe) as write:
        write("text")
        assert os.read(reader, 99) == b"text"
    os.close(reader)
    assert pipe.is_fifo()
    target.write_bytes(b"old")
    link.symlink_to(target)
    save_picture(PILImage.new("RGB", (2, 2)), link)
    assert link.is_symlink() and PILImage.open(target).size == (2, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.png", "pipe.txt", "target.png"]


def test_a_picture_that_does_not_fit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image as PILImage

    from gemma4_gguf.cli.files import save_picture
    from gemma4_gguf.errors import OutputError

    def full(self: Path, data: bytes) -> int:
        self.open("wb").close()
        raise OSError(28, "No space left on device")

    (tmp_path / "x.png").write_bytes(b"before")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        save_picture(PILImage.new("RGB", (2, 2)), tmp_path / "x.png")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
    assert (tmp_path / "x.png").read_bytes() == b"before"
