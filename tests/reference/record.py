"""Record what transformers computes for the tiny checkpoints into tests/data/reference.

    pip install -e '.[reference]'
    PYTHONPATH=tests:tests/helpers python tests/reference/record.py [directory]

Everything is computed in float32 with eager attention. Each file carries the digest of the checkpoint it was
recorded from, so a change of tests/tiny.py that changes a weight or a config key makes the comparing tests
fail, not drift. Logits are rounded to 2^-16 (they compress better; the resulting KL is below 1e-9);
embeddings, which are compared by angle, are stored in float16.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tiny
import torch
import transformers
from media_samples import SAMPLE_RATE_HZ, picture, sweep
from PIL import Image
from reference import cases
from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
from transformers.models.gemma4.image_processing_pil_gemma4 import (
    Gemma4ImageProcessorPil,
    get_aspect_ratio_preserving_size,
)
from transformers.models.gemma4.processing_gemma4 import Gemma4Processor
from transformers.video_utils import VideoMetadata, default_sample_indices_fn

DATA = Path(__file__).resolve().parent.parent / "data" / "reference"


def record_all(out: Path, checkpoints: Path) -> None:
    """Record every case into `out`; `checkpoints` takes the tiny checkpoints."""
    out.mkdir(parents=True, exist_ok=True)
    members = {*cases.TEXT_MEMBERS, *cases.IMAGE_MEMBERS, *cases.AUDIO_MEMBERS, *cases.PROMPT_MEMBERS}
    for member in sorted(members):
        directory = tiny.write_checkpoint(member, checkpoints / member)
        recorder = Recorder(member, directory)
        for name, arrays in recorder.all_cases().items():
            np.savez_compressed(out / f"{name}_{member}.npz", digest=recorder.digest, **arrays)
    _write_json(out / "image_sizes.json", image_sizes())
    _write_json(out / "tokens.json", token_cases(checkpoints / "e2b"))
    _write_json(out / "videos.json", video_cases(checkpoints / cases.VIDEO_MEMBER))


def load_exactly(folder: Path) -> tuple[dict[str, Any], Any, Any]:
    """A checkpoint as transformers runs it in float32: its config.json, tokenizer and model."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = getattr(transformers, config["architectures"][0])
    model, report = architecture.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    if any(report.values()):
        raise SystemExit(f"transformers does not load {folder} as it is: {report}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return config, tokenizer, model.eval().requires_grad_(False)


class Recorder:
    """One checkpoint, loaded."""

    def __init__(self, member: str, directory: Path) -> None:
        transformers.logging.set_verbosity_error()
        torch.set_num_threads(2)
        self.member = member
        self.digest = tiny.checkpoint_digest(directory)
        self.config, self.tokenizer, self.model = load_exactly(directory)

    def all_cases(self) -> dict[str, dict[str, np.ndarray]]:
        """Case name to arrays, for the cases this member takes part in."""
        recorded: dict[str, dict[str, np.ndarray]] = {}
        if self.member in cases.TEXT_MEMBERS:
            recorded["text"] = self.text()
        if self.member in cases.IMAGE_MEMBERS:
            recorded["image"] = {
                f"{w}x{h}_{budget}": self.image(w, h, budget)[0].numpy().astype(np.float16)
                for w, h in cases.PICTURES
                for budget in cases.IMAGE_MEMBERS[self.member]
            }
        if self.member in cases.AUDIO_MEMBERS:
            recorded["audio"] = {
                f"{ms}ms": self.audio(ms).numpy().astype(np.float16) for ms in cases.AUDIO_MS
            }
        if self.member in cases.PROMPT_MEMBERS:
            recorded["prompt"] = self.image_prompt()
        return recorded

    def text(self) -> dict[str, np.ndarray]:
        ids = self.ids(cases.PROMPT, bos=True)
        logits = self.model(input_ids=torch.tensor([ids])).logits[0]
        return {"ids": np.array(ids, np.int32), "logits": _rounded(logits)}

    def image(self, width: int, height: int, budget: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Soft tokens of a picture, float32 [n_tokens, n_embd], and the tensors that made them."""
        processor = Gemma4ImageProcessorPil(max_soft_tokens=budget)
        inputs = dict(processor(Image.fromarray(picture(width, height)), return_tensors="pt"))
        n_tokens = int(inputs.pop("num_soft_tokens_per_image")[0])
        if self.config["model_type"] == "gemma4_unified":
            inputs = _merged_patches(inputs)
        features = self.model.model.get_image_features(**inputs, return_dict=True).pooler_output
        soft = features[0] if isinstance(features, tuple) else features
        if soft.shape[0] != n_tokens:
            raise SystemExit(
                f"{self.member}: {soft.shape[0]} soft tokens, the processor announced {n_tokens}"
            )
        return soft, inputs

    def audio(self, milliseconds: int) -> torch.Tensor:
        """Soft tokens of a sound, float32 [n_tokens, n_embd]."""
        samples = sweep(milliseconds)
        if self.config["model_type"] == "gemma4_unified":
            frame = self.config["audio_config"]["audio_embed_dim"]
            frames = np.pad(samples, (0, -len(samples) % frame)).reshape(1, -1, frame)
            features, mask = torch.from_numpy(frames), torch.ones(frames.shape[:2], dtype=torch.bool)
        else:
            extract = Gemma4AudioFeatureExtractor()
            batch = extract([samples], sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
            features, mask = batch["input_features"], batch["input_features_mask"]
        output = self.model.model.get_audio_features(features, mask, return_dict=True)
        valid = getattr(output, "attention_mask", None)
        return output.pooler_output[0] if valid is None else output.pooler_output[valid]

    def image_prompt(self) -> dict[str, np.ndarray]:
        prompt, ids = cases.IMAGE_PROMPT, tiny.token_ids()
        soft, inputs = self.image(*prompt.picture, prompt.image_tokens)
        before = [*self.ids(prompt.before, bos=True), ids["<|image>"]]
        after = [ids["<image|>"], *self.ids(prompt.after)]
        whole = [*before, *[ids["<|image|>"]] * len(soft), *after]
        tokens = torch.tensor([whole])
        # The masks that generate() makes: the forward pass of the unified model alone makes others (every
        # layer bidirectional), with which no reply is ever written.
        masks = self.model.create_masks_for_generate(
            config=self.model.config,
            inputs_embeds=self.model.get_input_embeddings()(tokens),
            attention_mask=torch.ones_like(tokens),
            past_key_values=None,
            position_ids=torch.arange(len(whole))[None],
            mm_token_type_ids=(tokens == ids["<|image|>"]).int(),
        )
        logits = self.model(input_ids=tokens, attention_mask=masks, **inputs).logits[0, -len(after) :]
        return {
            "before": np.array(before, np.int32),
            "after": np.array(after, np.int32),
            "n_soft": np.array(len(soft), np.int32),
            "logits": _rounded(logits),
        }

    def ids(self, text: str, *, bos: bool = False) -> list[int]:
        plain = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [tiny.token_ids()["<bos>"], *plain] if bos else plain


def _merged_patches(inputs: dict[str, torch.Tensor], size: int = 16, k: int = 3) -> dict[str, torch.Tensor]:
    """The 12B's own processor needs torchvision; its patches are these ones, joined k x k."""
    positions = inputs["image_position_ids"][0]
    valid = (positions >= 0).all(dim=-1)
    width, height = (int(n) + 1 for n in positions[valid].max(dim=0).values)
    patches = inputs["pixel_values"][0][valid].reshape(height // k, k, width // k, k, size, size, 3)
    merged = patches.permute(0, 2, 1, 4, 3, 5, 6).reshape(1, -1, (k * size) ** 2 * 3)
    grid = torch.meshgrid(torch.arange(width // k), torch.arange(height // k), indexing="xy")
    return {"pixel_values": merged, "image_position_ids": torch.stack(grid, dim=-1).reshape(1, -1, 2)}


def image_sizes() -> list[dict[str, Any]]:
    """Target pixels and soft tokens of the processor for every listed size and budget, null if refused."""
    table: list[dict[str, Any]] = []
    for width, height in cases.IMAGE_SIZES:
        for budget in (70, 140, 280, 560, 1120):
            row: dict[str, Any] = {"width": width, "height": height, "budget": budget}
            try:
                to_height, to_width = get_aspect_ratio_preserving_size(height, width, 16, budget * 9, 3)
            except ValueError:
                to_height = to_width = None
            row |= {"to_width": to_width, "to_height": to_height}
            row["tokens"] = to_width * to_height // 48**2 if to_width and to_height else None
            table.append(row)
    return table


def token_cases(directory: Path) -> list[dict[str, Any]]:
    """Ids of every listed string, without a beginning-of-text token."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    return [
        {"text": text, "ids": tokenizer(text, add_special_tokens=False)["input_ids"]}
        for text in cases.STRINGS
    ]


def video_cases(directory: Path) -> list[dict[str, Any]]:
    """The frames taken of every listed clip, and the ids of a prompt with it; -n stands for n soft tokens.

    The video processor needs torchvision for its pixels alone; what it counts and writes does not.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    soft = tokenizer.convert_tokens_to_ids("<|video|>")
    marks = SimpleNamespace(boi_token="<|image>", eoi_token="<image|>", video_token="<|video|>")
    before, after = cases.VIDEO_TEXTS
    table = []
    for case in cases.VIDEO_PROMPTS:
        metadata = VideoMetadata(total_num_frames=case.total, fps=case.rate)
        wanted = {"num_frames": min(case.frames, case.total)} if case.fps is None else {"fps": case.fps}
        metadata.frames_indices = default_sample_indices_fn(metadata, **wanted)
        to_height, to_width = get_aspect_ratio_preserving_size(case.size[1], case.size[0], 16, 70 * 9, 3)
        counts = {"num_soft_tokens_per_video": [to_height * to_width // 48**2], "video_metadata": [metadata]}
        clip = Gemma4Processor.replace_video_token(marks, counts, 0)
        text = f"<bos><|turn>user\n{before}{clip}{after}<turn|>\n<|turn>model\n"
        ids: list[int] = []
        for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
            if token != soft:
                ids.append(token)
            elif ids[-1] < 0:
                ids[-1] -= 1
            else:
                ids.append(-1)
        row = {"total": case.total, "rate": case.rate, "indices": metadata.frames_indices.tolist()}
        table.append(row | {"timestamps": metadata.timestamps, "ids": ids})
    return table


def _rounded(logits: torch.Tensor) -> np.ndarray:
    return (np.round(logits.double().numpy() * 65536) / 65536).astype(np.float32)


def _write_json(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        record_all(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA, Path(scratch))
