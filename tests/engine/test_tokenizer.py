"""Text to ids through llama.cpp, against ids that others computed.

The real vocabulary has 262,144 tokens and is too large for the repository: GEMMA4_GGUF_VOCAB names the file
(ggml-vocab-gemma-4.gguf of llama.cpp, its .inp and .out beside it), and without it those tests skip.
Literal ids below come from the `tokenizers` package, given the same tokens and merges.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemma4_gguf.convert.writer import OutputFile, OutputTensor, write_files
from gemma4_gguf.engine.model import Model
from gemma4_gguf.files.gguf_header import Field, pack_fields
from gemma4_gguf.files.gguf_reader import open_gguf
from gemma4_gguf.files.model_file import check_model

VOCAB = os.environ.get("GEMMA4_GGUF_VOCAB", "")
needs_vocab = pytest.mark.skipif(not VOCAB, reason="GEMMA4_GGUF_VOCAB names no file")

CONTROL = {
    "<pad>": 0,
    "<eos>": 1,
    "<bos>": 2,
    "<|tool>": 46,
    "<|tool_response>": 50,
    "<|think|>": 98,
    "<|turn>": 105,
    "<turn|>": 106,
    "<|image>": 255999,
    "<|audio>": 256000,
    "<|image|>": 258880,
    "<|audio|>": 258881,
    "<image|>": 258882,
    "<audio|>": 258883,
    "<|video|>": 258884,
}
LITERAL = {
    "\n" * 4: [110],
    "\n" * 9: [115],
    "\n" * 31: [137],
    "\n" * 33: [137, 108],
    "a\n\n\nb": [236746, 109, 236763],
    "\r\n\r\n": [251, 107, 251, 107],
    "\t\t\t": [255970],
    "👩‍👩‍👧‍👦": [243767, 237243, 243767, 237243, 244814, 237243, 244990],
    "🇵🇹": [245707, 244098],
    "👍🏽": [240493, 242713],
    "e\u0301 é": [236744, 238288, 1559],
    "\u200b": [237141],
    "نص عربي": [236872, 237073, 176881],
    "def f(x):\n    return x  # ok\n": [
        2063,
        517,
        236769,
        236781,
        1473,
        107,
        140,
        2060,
        1123,
        138,
        236865,
        7546,
        107,
    ],
    "x" * 50: [130987] * 6 + [12351],
    "ab" * 40: [111507] * 20,
    " " * 40: [167, 145],
}
# The same, by a tokenizer that knows no control tokens; llama.cpp reads these out of every text.
SHOWN = {
    "<|tool_call>": [236820, 236909, 13205, 236779, 6639, 236813],
    'see <tool_call|> and <|"|>x<|"|>.': [
        *[4041, 655, 13205, 236779, 6639, 111038, 532, 655, 153857],
        *[111038, 236781, 236820, 153857, 236909, 24449],
    ],
    'a<|channel>thought\nb<channel|>"': [
        *[236746, 236820, 236909, 12027, 236813, 45518, 107, 236763],
        *[236820, 12027, 236909, 47005],
    ],
}
# The same of the small vocabulary that tiny checkpoints have.
SMALL = {
    "detect": [479, 943],
    "red circle": [483, 387, 341, 588, 341, 462],
    "two words\n\n\nand lines": [358, 361, 922, 490, 342, 357, 433, 280, 454, 350, 374, 452],
    " leading and trailing ": [366, 350, 513, 534, 454, 358, 474, 425, 534],
    "naïve 🦙": [352, 339, 219, 199, 360, 395, 264, 183, 190, 177],
    "<|turn>user\n<|image|>detect<turn|>\n": [5, 739, 280, 19, 479, 943, 6, 280],
    "\t\r\n": [33, 37, 280],
    "a" * 30: [339] * 30,
    "x<bos>y": [362, 2, 363],
}
LONG = ("word " * 25_000, "x" * 100_000, "🦙" * 20_000, "日本語" * 20_000)


@pytest.fixture(scope="module")
def real(
    converted: Callable[..., dict[str, Path]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Model]:
    """A tiny model that speaks the real vocabulary, with weights of zero."""
    tiny, vocab = open_gguf(converted("31b")["model"]), open_gguf(VOCAB)
    sizes = {"gemma4.vocab_size"}
    entries = [
        tiny.metadata.raw(k) for k in tiny.metadata if not k.startswith("tokenizer.") and k not in sizes
    ]
    entries += [vocab.metadata.raw(key) for key in vocab.metadata if key.startswith("tokenizer.")]
    n_vocab = vocab.metadata.length("tokenizer.ggml.tokens")
    if "gemma4.vocab_size" in tiny.metadata:
        entries += pack_fields([Field("gemma4.vocab_size", n_vocab, "UINT32")])

    def tensor(name: str) -> OutputTensor:
        info = tiny.tensors[name]
        rows = n_vocab if name == "token_embd.weight" else info.n_rows
        shape = (rows, info.row_length) if name == "token_embd.weight" else info.shape
        width = info.row_length
        kind = "Q4_0" if name == "token_embd.weight" else "F32"
        return OutputTensor(name, shape, kind, "F32", None, lambda a, b: np.zeros((b - a, width), np.float32))

    path = tmp_path_factory.mktemp("vocabulary") / "real-vocabulary.gguf"
    write_files([OutputFile(path, entries, [tensor(name) for name in tiny.tensors], check_numbers=False)])
    model = Model(check_model(path), device="cpu")
    yield model
    model.close()


@pytest.fixture(scope="module")
def small(converted: Callable[..., dict[str, Path]]) -> Iterator[Model]:
    model = Model(check_model(converted("e2b")["model"]), device="cpu")
    yield model
    model.close()


def test_small_vocabulary(small: Model) -> None:
    assert {text: small.tokenize(text) for text in SMALL} == SMALL


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60) | st.sampled_from(["<|turn>", "<bos> ", "▁", "\x00", "<0x41>"]))
def test_any_text_survives_the_round_trip(small: Model, text: str) -> None:
    ids = small.tokenize(text, special=False)
    assert small.detokenize(ids) == text.replace("▁", " ")


@needs_vocab
def test_pairs_of_llama_cpp(real: Model) -> None:
    texts = Path(f"{VOCAB}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = Path(f"{VOCAB}.out").read_text().split("\n")
    expected = [[int(n) for n in line.split()] for line in lines[: len(texts)]]
    assert len(texts) == 46
    assert [real.tokenize(text, special=False) for text in texts] == expected


@needs_vocab
def test_newline_runs_emoji_and_code(real: Model) -> None:
    assert {text: real.tokenize(text) for text in LITERAL} == LITERAL


@needs_vocab
def test_control_tokens_are_one_id_each_and_plain_text_when_not_asked_for(real: Model) -> None:
    assert {text: real.tokenize(text) for text in CONTROL} == {text: [i] for text, i in CONTROL.items()}
    for text in CONTROL:
        plain = real.tokenize(text, special=False)
        assert len(plain) > 1 and real.detokenize(plain) == text
    assert {text: real.tokenize(text, special=False) for text in SHOWN} == SHOWN


@needs_vocab
@pytest.mark.parametrize("text", LONG, ids=("words", "one letter", "emoji", "no spaces"))
def test_long_unbroken_text(real: Model, text: str) -> None:
    ids = real.tokenize(text, special=False)
    assert real.detokenize(ids) == text
    assert real.tokenize(f"{text}\n{text}", special=False) == [*ids, 107, *ids]
