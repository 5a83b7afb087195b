"""Device examination, in a process of its own: llama.cpp ends the whole process when it fails.

    library                               which llama.cpp is there
    prepare CHECKPOINT FOLDER             convert
    device NAME CHECKPOINT FOLDER         examine

Each line on stdout is one JSON object, written as soon as it is known, so that a crash takes nothing with it.
`gemma4_gguf.doctor.doctor` starts these and reads them.

Bounds, with what was measured on a CPU for the first bundled checkpoint. F32: KL 1e-7 on average, 3e-6 at
most; 3e-6 and 7e-5 when every weight is rounded to BF16; a soft cap of 25 for 30: 7e-5, a window of 480 for
512: 3e-4, wrong rotary angles: 4e-3 and more. Pictures: 1 - cosine 1e-7; llama.cpp's other GELU: 7e-5.
Q4_K_M: KL 0.014 (0.066 for the present one); attention without values: 0.4.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np

from gemma4_gguf.convert import convert_checkpoint
from gemma4_gguf.doctor.reference import Embedding, Numbers, Question, Reference, load_reference
from gemma4_gguf.doctor.report import Check, Speed
from gemma4_gguf.engine import devices, library
from gemma4_gguf.errors import Gemma4Error, OptionError
from gemma4_gguf.options import Device
from gemma4_gguf.session import Session

Emit = Callable[[dict[str, Any]], None]

# The plain model shows whether the arithmetic is right, the quantized one whether what people run is.
PLAIN, SMALL = "F32", "Q4_K_M"
PROJECTORS = {PLAIN: "F32", SMALL: "BF16"}
NAME = "nano"
MEAN_KL = {PLAIN: 5e-5, SMALL: 0.1}
MAX_KL = {PLAIN: 5e-3, SMALL: float("inf")}
MIN_COSINE = 0.99998
N_CTX = 2048
MAX_TOKENS = 200
SPEED_TOKENS = 64
SPEED_TEXT = "one two three four five six seven eight nine ten " * 30


def prepare(checkpoint: Path, folder: Path) -> None:
    """Convert the checkpoint to both types.

    Args:
        checkpoint: its directory.
        folder: where the files go.
    """
    for quant, projector in PROJECTORS.items():
        convert_checkpoint(checkpoint, folder, quant, projector, name=NAME, force=True)


def describe_library(emit: Emit) -> None:
    """Tell which llama.cpp is installed, before anything of it is used.

    Args:
        emit: takes each result.
    """
    emit({"event": "library", "llama_cpp_python": ".".join(map(str, library.installed_version()))})
    version, commit = library.ggml_build()
    emit(
        {
            "event": "library",
            "ggml": version,
            "commit": commit,
            "system_info": library.build_info(),
            "amx_fault": library.amx_fault(),
            "backends": devices.backends(),
            "devices": [asdict(device) for device in devices.list_devices()],
        }
    )


def examine(device: Device, checkpoint: Path, folder: Path, emit: Emit) -> None:
    """Put one device to the test.

    Args:
        device: its name.
        checkpoint: with the reference.
        folder: of the converted files.
        emit: takes each result.
    """
    reference = load_reference(checkpoint)
    for quant in PROJECTORS:
        try:
            for check in _checks(device, quant, reference, folder, emit):
                emit({"event": "check", **asdict(check)})
        except Gemma4Error as error:
            emit({"event": "check", **asdict(Check("runs", quant, False, str(error)))})


def _checks(device: Device, quant: str, reference: Reference, folder: Path, emit: Emit) -> Iterator[Check]:
    def now(what: str) -> None:
        emit({"event": "now", "what": f"{what}, {quant}"})

    exact: dict[str, Any] = {"kv_type": "f32", "flash_attention": False} if quant == PLAIN else {}
    model, projector = folder / f"{NAME}-{quant}.gguf", folder / f"mmproj-{NAME}-{PROJECTORS[quant]}.gguf"
    now("opening")
    with Session(
        model, projector=projector if projector.exists() else None, device=device, n_ctx=N_CTX, **exact
    ) as session:
        if quant == PLAIN:
            now("tokens")
            yield _tokens(session, reference.numbers["text"])
        for name, numbers in reference.numbers.items():
            now(name)
            yield _divergence(session, name, numbers, quant, reference.folder)
        if quant == PLAIN:
            for name, embedding in reference.embeddings.items():
                now(name)
                yield _embedding(session, name, embedding, reference.folder)
            return
        for question in reference.questions:
            now("answers")
            yield _answer(session, question, quant, reference.folder)
        now("speed")
        emit({"event": "speed", **asdict(measure_speed(session))})


def _tokens(session: Session, numbers: Numbers) -> Check:
    expected, found = numbers.before[1:], session.tokenize(numbers.text)
    same = sum(a == b for a, b in zip(expected, found, strict=False))
    total = max(len(expected), len(found))
    return Check("tokenizer", PLAIN, expected == found, f"{same} of {total} tokens the same", "all of them")


def _divergence(session: Session, name: str, numbers: Numbers, quant: str, folder: Path) -> Check:
    medium = [] if numbers.medium is None else [numbers.medium.part(folder)]
    kl = numbers.divergence(session.logits([*numbers.before, *medium, *numbers.after]))
    mean, most = float(kl.mean()), float(kl.max())
    needed = f"up to {MEAN_KL[quant]:.0e}"
    if MAX_KL[quant] < float("inf"):
        needed += f", peak {MAX_KL[quant]:.0e}"
    return Check(
        name if numbers.medium is None else f"after a {name}",
        quant,
        mean <= MEAN_KL[quant] and most <= MAX_KL[quant],
        f"KL {mean:.1e}, peak {most:.1e}",
        needed,
        {"mean_kl": _number(mean), "max_kl": _number(most)},
    )


def _embedding(session: Session, name: str, embedding: Embedding, folder: Path) -> Check:
    cosine = float(embedding.cosines(session.embed(embedding.medium.part(folder))).min())
    return Check(
        f"{name} tokens",
        PLAIN,
        cosine >= MIN_COSINE,
        f"cosine {cosine:.7f}",
        f"from {MIN_COSINE}",
        {"least_cosine": cosine},
    )


def _answer(session: Session, question: Question, quant: str, folder: Path) -> Check:
    parts = [] if question.medium is None else [question.medium.part(folder)]
    reply = session.ask(*parts, question.text, temperature=0, max_tokens=MAX_TOKENS)
    about = question.medium.kind if question.medium else "text"
    right = question.is_answered(reply.text, folder)
    found = ", ".join(question.labels(reply.text)) if right and question.boxes else _shortened(reply.text)
    return Check(f"answer, {about}", quant, right, found, "" if right else _shortened(question.answer))


def measure_speed(session: Session) -> Speed:
    """Tokens a second, each time measured once after the first use.

    Args:
        session: of the small model.

    Returns:
        Tokens a second, of the prompt and of the reply.
    """
    ends = {i: -1e9 for i in session.facts.special_tokens.values()}
    options: dict[str, Any] = {"temperature": 0, "logit_bias": tuple(ends.items())}
    start = time.perf_counter()
    first = session.ask(SPEED_TEXT, max_tokens=1, **options)
    read = time.perf_counter()
    # The prompt is there already: what is left is one step for each token.
    second = session.ask(SPEED_TEXT, max_tokens=SPEED_TOKENS, **options)
    written = time.perf_counter()
    n_read = first.usage.prompt_tokens - first.usage.reused_tokens
    return Speed(n_read / max(read - start, 1e-9), second.usage.completion_tokens / max(written - read, 1e-9))


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None  # JSON has no infinity


def _shortened(text: str, length: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 3]}..."


def main(arguments: list[str]) -> int:
    """What the child process does.

    Args:
        arguments: as above, from the command line.

    Returns:
        The exit code: 0, or 1 after an error that was emitted.
    """
    # llama.cpp and its drivers may write to stdout, which is for results alone.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(row: dict[str, Any]) -> None:
        out.write(json.dumps(row) + "\n")
        out.flush()

    np.seterr(all="ignore")  # what is no number is found and told
    what, *rest = arguments
    try:
        if what == "library":
            describe_library(emit)
        elif what == "prepare":
            prepare(Path(rest[0]), Path(rest[1]))
        elif what == "device" and rest[0] in get_args(Device):
            examine(rest[0], Path(rest[1]), Path(rest[2]), emit)  # type: ignore[arg-type]
        else:
            raise OptionError(f"{arguments} is no examination. Start gemma4-gguf doctor.")
    except Gemma4Error as error:
        emit({"event": "error", "message": str(error)})
        return 1
    emit({"event": "end"})
    return 0
