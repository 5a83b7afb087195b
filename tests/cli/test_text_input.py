"""What comes in: standard input, arguments and files in any encoding are read right or refused."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from gemma4_gguf.cli import text_input
from gemma4_gguf.cli.main import main
from gemma4_gguf.cli.options import read_schema
from gemma4_gguf.cli.text_input import decode, read_stdin, stdin_lines, typed
from gemma4_gguf.errors import OptionError, SchemaError

TEXT = "Zoë sagt: 你好 😀\nzweite Zeile\n"
WIDE = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
MARKED = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff", "utf-32-be": b"\0\0\xfe\xff"}
READ = {name: TEXT.encode(name) for name in ["utf-8", "utf-8-sig", *WIDE]}
READ |= {f"{name} marked": mark + TEXT.encode(name) for name, mark in MARKED.items()}
READ |= {
    "line ends": TEXT.replace("\n", "\r\n").encode(),
    "a utf-16": TEXT.replace("\n", "\r\n").encode("utf-16"),
}
REFUSED = {
    "cp1252": "Zoë".encode("cp1252"),
    "gbk": "你好".encode("gbk"),
    "shift_jis": "こんにちは".encode("shift_jis"),
    "koi8": "привет".encode("koi8-r"),
    "cut utf-8": "你好".encode()[:-1],
    "cut utf-16": "Zoë".encode("utf-16")[:-1],
    "a picture": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x01\x00",
    "zeros": bytes(100),
    "utf-8 with a zero": b"one\0two",
    "surrogates": b"\xed\xa0\x80",
    "overlong": b"\xc0\xaf",
}


def stdin_of(data: bytes, monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8") -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data)), encoding))


@pytest.mark.parametrize("name", READ)
def test_text_is_read_by_what_it_holds(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for locale in ("utf-8", "ascii", "cp1252"):
        assert decode(READ[name], "x", locale) == TEXT
        stdin_of(READ[name], monkeypatch, locale)
        assert read_stdin() == TEXT
        stdin_of(READ[name], monkeypatch, locale)
        assert list(stdin_lines()) == TEXT.splitlines()
    path = tmp_path / "schema.json"
    path.write_bytes('{"enum": ["é"]}'.encode("utf-16" if "16" in name else "utf-8-sig"))
    assert read_schema(str(path)) == {"enum": ["é"]}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_text_is_refused_with_the_way_out(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for locale in ("utf-8", "ascii"):
        with pytest.raises(OptionError, match="UTF-8"):
            decode(REFUSED[name], "x", locale)
    stdin_of(REFUSED[name], monkeypatch)
    with pytest.raises(OptionError, match="Standard input"):
        list(stdin_lines())
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    path = tmp_path / "schema.json"
    path.write_bytes(REFUSED[name])
    with pytest.raises(SchemaError, match=r"schema\.json"):
        read_schema(str(path))


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "gbk", "shift_jis", "koi8-r"])
def test_a_declared_encoding_is_read(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = {"gbk": "你好，世界", "shift_jis": "こんにちは", "koi8-r": "привет"}.get(encoding, "Zoë")
    assert decode(text.encode(encoding), "x", encoding) == text
    assert decode(text.encode(), "x", encoding) == text  # what is UTF-8 is
    monkeypatch.setenv("PYTHONIOENCODING", f"{encoding}:strict")
    assert decode(text.encode(encoding), "x") == text


@pytest.mark.skipif(os.name == "nt", reason="arguments are characters there")
def test_arguments_are_words(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    in_c_locale = "Zoë".encode().decode("ascii", "surrogateescape")
    monkeypatch.setattr("os.fsencode", lambda text: text.encode("ascii", "surrogateescape"))
    assert typed(in_c_locale, "x") == "Zoë"
    for text in ("caf\udce9", "\ud800"):
        for command in (
            ["ask", "m.gguf", text],
            ["ask", "m.gguf", "hi", "--system", text],
            ["detect", "p", text],
        ):
            with pytest.raises(SystemExit) as stop:
                main(command)
            assert stop.value.code == 2
            assert "Traceback" not in capsys.readouterr().err
        assert main(["ask", "m.gguf", "hi", "--schema", text]) == 12


def test_input_that_never_ends_or_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(text_input, "MAX_BYTES", 1 << 16)
    for path in ("/dev/zero", str(tmp_path)):
        if Path(path).exists():
            with pytest.raises(OptionError, match=r"never ends|cannot be read"):
                text_input.read_file(Path(path))
    stdin_of(b"y\n" * (1 << 16), monkeypatch)
    assert main(["ask", "m.gguf", "-"]) == 2
    assert "never ends" in capsys.readouterr().err
    for closed in (io.StringIO(), io.TextIOWrapper(io.BytesIO())):
        closed.close()
        monkeypatch.setattr("sys.stdin", closed)
        assert main(["ask", "m.gguf", "-"]) == 2
        assert "Standard input" in capsys.readouterr().err
    stdin_of(b"", monkeypatch)
    assert main(["ask", "m.gguf", "-"]) == 2
    assert "empty" in capsys.readouterr().err
