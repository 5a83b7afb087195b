"""Ways to ask the nano checkpoint: through transformers, or through our own conversion and ``Session``.

Both take dialogues and give the :class:`~nano.score.Answer` of each, greedy.
"""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from nano.batch import Encoder
from nano.dialogue import Dialogue, call_text
from nano.score import Answer, read_answer
from nano.tokenizer import CONTROL

MAX_TOKENS = 220


class NotTakenError(Exception):
    """An engine does not take what a task asks with."""


class Transformers:
    """A checkpoint directory in transformers, float32.

    Args:
        checkpoint: directory in transformers layout.
        device: ``cpu`` or ``cuda``.
        at_once: dialogues of one forward pass.
    """

    def __init__(self, checkpoint: Path, device: str = "cpu", at_once: int = 20) -> None:
        import torch
        from transformers import Gemma4ForConditionalGeneration

        self.torch, self.device, self.at_once = torch, device, at_once
        self.encoder = Encoder(checkpoint / "tokenizer.json")
        self.model = Gemma4ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
        self.model.to(device).eval()

    def answers(self, dialogues: list[Dialogue]) -> list[Answer]:
        """The answers, in the order asked."""
        out = []
        for begin in range(0, len(dialogues), self.at_once):
            out += self._batch(dialogues[begin : begin + self.at_once])
        return out

    def _batch(self, dialogues: list[Dialogue]) -> list[Answer]:
        batch = self.encoder.collate(dialogues, prompt_only=True)
        ids = batch["input_ids"]
        shifted, mask = (
            np.zeros_like(ids),
            np.zeros_like(ids),
        )  # padded on the left, so that all go on together
        for row, line in enumerate(ids):
            length = int(np.flatnonzero(line)[-1]) + 1
            shifted[row, ids.shape[1] - length :], mask[row, ids.shape[1] - length :] = line[:length], 1
        inputs = {name: self.torch.from_numpy(value) for name, value in batch.items() if name != "labels"}
        inputs |= {"input_ids": self.torch.from_numpy(shifted), "attention_mask": self.torch.from_numpy(mask)}
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].float() / 255.0
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        endings = [CONTROL.index(token) for token in ("<eos>", "<turn|>", "<|tool_response>")]
        with self.torch.no_grad():
            made = self.model.generate(
                **inputs, max_new_tokens=MAX_TOKENS, do_sample=False, eos_token_id=endings, pad_token_id=0
            )
        rows = made[:, ids.shape[1] :].tolist()
        decode = self.encoder.tokenizer.decode
        return [
            read_answer(decode([token for token in row if token], skip_special_tokens=False)) for row in rows
        ]


class Through:
    """A ``Session``.

    Args:
        session: on a converted checkpoint.
        folder: where clips are written.
    """

    def __init__(self, session: Any, folder: Path) -> None:
        self.session, self.folder = session, folder

    def answers(self, dialogues: list[Dialogue]) -> list[Answer]:
        """The answers, in the order asked.

        Raises:
            NotTakenError: this session has no way to take such media.
        """
        from gemma4_gguf.errors import MessageError

        try:
            return [self._ask(dialogue) for dialogue in dialogues]
        except MessageError as error:
            raise NotTakenError(str(error)) from error

    def _ask(self, dialogue: Dialogue) -> Answer:
        reply = self.session.complete(
            openai_messages(dialogue.messages[:-1], dialogue.image_tokens, self.folder),
            tools=dialogue.tools or None,
            thinking=dialogue.thinking,
            temperature=0,
            max_tokens=MAX_TOKENS,
        )
        calls = tuple(call_text(call.name, call.arguments) for call in reply.tool_calls)
        return Answer(reply.text.strip(), (reply.thinking or "").strip(), calls)


class Converted(Through):
    """Our own conversion of a checkpoint, asked through ``Session``.

    Args:
        checkpoint: directory in transformers layout.
        quant: type of the model file.
        projector_type: type of the projector file.
    """

    def __init__(self, checkpoint: Path, quant: str = "Q4_K_M", projector_type: str = "BF16") -> None:
        from gemma4_gguf import Session
        from gemma4_gguf.convert import convert_checkpoint

        self._kept = tempfile.TemporaryDirectory()
        files = convert_checkpoint(checkpoint, self._kept.name, quant, projector_type)
        super().__init__(Session(files.model, n_ctx=4096), Path(self._kept.name))


def openai_messages(messages: list[dict[str, Any]], image_tokens: int, folder: Path) -> list[dict[str, Any]]:
    """The messages as ``Session.complete`` takes them.

    Args:
        messages: of a :class:`~nano.dialogue.Dialogue`.
        image_tokens: budget of its pictures.
        folder: where clips are written.
    """
    out: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "tool":
            number = sum(earlier["role"] == "tool" for earlier in out)
            out.append({"role": "tool", "tool_call_id": f"call_{number}", "content": message["content"]})
        elif message.get("tool_calls"):
            calls = [
                {"id": f"call_{n}", "type": "function", "function": dict(call)}
                for n, call in enumerate(message["tool_calls"])
            ]
            thought = {"reasoning_content": message["thinking"]} if message.get("thinking") else {}
            out.append({"role": "assistant", "content": "", "tool_calls": calls, **thought})
        elif isinstance(message["content"], str):
            out.append({"role": message["role"], "content": message["content"]})
        else:
            out.append({"role": message["role"], "content": _parts(message["content"], image_tokens, folder)})
    return out


def _parts(content: list[dict[str, Any]], image_tokens: int, folder: Path) -> list[dict[str, Any]]:
    from PIL import Image as PILImage

    from gemma4_gguf import Audio, Image, Video

    sounds = [part["audio"] for part in content if part["type"] == "audio"]
    clip = any(part["type"] == "video" for part in content)
    parts: list[dict[str, Any]] = []
    for part in content:
        if part["type"] == "image":
            parts.append({"type": "image", "image": Image(PILImage.fromarray(part["image"]), image_tokens)})
        elif part["type"] == "video":
            file = folder / "clip.mkv"
            write_clip(file, part["video"], part["seconds"], sounds[0] if sounds else None)
            parts.append({"type": "video", "video": Video(file, frames=len(part["video"]))})
        elif part["type"] == "text":
            parts.append(part)
        elif not clip:  # the sound of a clip is its sound track
            parts.append({"type": "audio", "audio": Audio(part["audio"])})
    return parts


def write_clip(file: Path, frames: list[np.ndarray], seconds: list[float], sound: np.ndarray | None) -> None:
    """Writes a lossless clip: every frame at its second, with a sound track if there is a sound.

    Args:
        file: a Matroska file to write.
        frames: uint8 ``[height, width, 3]`` each.
        seconds: of each frame, evenly spaced from zero.
        sound: float32 ``[samples]`` at 16 kHz.
    """
    import av

    rate = Fraction(1) / Fraction(seconds[1]).limit_denominator(100)
    with av.open(str(file), "w") as container:
        video = container.add_stream("ffv1", rate=rate, options={"level": "3"})
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "bgr0"
        audio = container.add_stream("pcm_s16le", rate=16_000, layout="mono") if sound is not None else None
        for picture in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        if audio is not None and sound is not None:
            samples = np.round(sound * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.rate = 16_000
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
