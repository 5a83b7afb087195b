"""The shape of the nano checkpoint, its starting weights, and how it is written to a directory.

Every mechanism of the small Gemma 4 members is there: per-layer embeddings, shared keys and values with the
double-wide MLP, sliding and full layers of two head sizes, proportional RoPE, soft-capped logits, a vision
tower and an audio conformer with clamped linears. Sizes are chosen so that rows are multiples of 256
(K-quants apply) and everything stays under 12 MB in BF16. Needs torch and transformers.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from nano.tokenizer import CONTROL, VOCABULARY, tokenizer_config
from torch import nn
from transformers import Gemma4Config, Gemma4ForConditionalGeneration

N_LAYERS = 8
LAYER_TYPES = ["sliding_attention"] * 5 + ["full_attention", "sliding_attention", "full_attention"]
WAVES = 0.3  # size of the position table at the start
ID = {token: index for index, token in enumerate(CONTROL)}


def model_config() -> Gemma4Config:
    """The configuration of the checkpoint."""
    text = {
        "vocab_size": VOCABULARY,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size": 256,
        "intermediate_size": 256,
        "use_double_wide_mlp": True,
        "num_hidden_layers": N_LAYERS,
        "num_kv_shared_layers": 2,
        "layer_types": LAYER_TYPES,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "global_head_dim": 128,
        "hidden_size_per_layer_input": 32,
        "sliding_window": 512,
        "max_position_embeddings": 8192,
        "final_logit_softcapping": 30.0,
        "pad_token_id": ID["<pad>"],
        "eos_token_id": ID["<eos>"],
        "bos_token_id": ID["<bos>"],
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "position_embedding_size": 256,
        "use_clipped_linears": True,
    }
    audio = {
        "hidden_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "output_proj_dims": 96,
    }
    return Gemma4Config(
        text_config=text,
        vision_config=vision,
        audio_config=audio,
        boi_token_id=ID["<|image>"],
        eoi_token_id=ID["<image|>"],
        image_token_id=ID["<|image|>"],
        video_token_id=ID["<|video|>"],
        boa_token_id=ID["<|audio>"],
        eoa_token_index=ID["<audio|>"],
        audio_token_id=ID["<|audio|>"],
    )


def _waves(n_positions: int, width: int) -> torch.Tensor:
    """Sines and cosines of the position, float32 ``[n_positions, width]``: neighbours start out alike."""
    rates = torch.exp(torch.arange(width // 2) * -(math.log(1000.0) / (width // 2)))
    angles = torch.arange(n_positions)[:, None] * rates[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


@torch.no_grad()
def build_model(seed: int) -> Gemma4ForConditionalGeneration:
    """A fresh model.

    Attention has no 1/sqrt(d) in Gemma 4, so the query and key norms start at d^-1/4 instead of one; the
    position table starts as waves instead of ones, which carry no position at all.
    """
    torch.manual_seed(seed)
    model = Gemma4ForConditionalGeneration(model_config())
    for name, module in model.named_modules():
        if name.endswith(("q_norm", "k_norm")):
            module.weight.fill_(module.weight.shape[0] ** -0.25)
        elif name.endswith(
            ("post_attention_layernorm", "post_feedforward_layernorm", "per_layer_input_norm")
        ):
            module.weight.fill_(0.5)
        elif isinstance(module, nn.Linear) and ("vision_tower" in name or "embed_" in name):
            nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5)
    tower = model.model.vision_tower.patch_embedder
    width = tower.hidden_size // 2
    table = torch.zeros_like(tower.position_embedding_table)
    table[0, :, :width] = table[1, :, width:] = _waves(table.shape[1], width) * WAVES
    tower.position_embedding_table.copy_(table)
    return model


@torch.no_grad()
def load_weights(model: Gemma4ForConditionalGeneration, directory: Path) -> None:
    """Takes the weights of a written checkpoint of the same shape; the bounds of its clamps are left."""
    written = Gemma4ForConditionalGeneration.from_pretrained(directory, dtype=torch.float32)
    found = dict(written.named_parameters())
    for name, parameter in model.named_parameters():
        parameter.copy_(found[name])


def processor_config() -> dict[str, Any]:
    """``processor_config.json`` of the image, sound and video processors."""
    image = {
        "image_processor_type": "Gemma4ImageProcessor",
        "do_convert_rgb": True,
        "do_normalize": False,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.0, 0.0, 0.0],
        "image_std": [1.0, 1.0, 1.0],
        "max_soft_tokens": 280,
        "patch_size": 16,
        "pooling_kernel_size": 3,
        "resample": 3,
        "rescale_factor": 1 / 255,
    }
    video = {**image, "video_processor_type": "Gemma4VideoProcessor", "max_soft_tokens": 70, "num_frames": 32}
    del video["image_processor_type"]
    sound = {
        "feature_extractor_type": "Gemma4AudioFeatureExtractor",
        "feature_size": 128,
        "sampling_rate": 16000,
    }
    return {
        "processor_class": "Gemma4Processor",
        "image_seq_length": 280,
        "audio_seq_length": 750,
        "audio_ms_per_token": 40,
        "image_processor": image,
        "video_processor": video,
        "feature_extractor": sound,
    }


def write_checkpoint(model: Gemma4ForConditionalGeneration, tokenizer_json: Path, out: Path) -> int:
    """Writes the checkpoint in transformers layout, weights in BF16.

    Args:
        model: the trained model, any dtype; it is not changed.
        tokenizer_json: the tokenizer it was trained with.
        out: directory to write.

    Returns:
        Size of all files in bytes.
    """
    out.mkdir(parents=True, exist_ok=True)
    copy = Gemma4ForConditionalGeneration(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(out)
    shutil.copyfile(tokenizer_json, out / "tokenizer.json")
    generation = {
        "bos_token_id": ID["<bos>"],
        "eos_token_id": [ID["<eos>"], ID["<turn|>"], ID["<|tool_response>"]],
        "pad_token_id": ID["<pad>"],
        "do_sample": False,
    }
    for name, value in (
        ("tokenizer_config.json", tokenizer_config()),
        ("processor_config.json", processor_config()),
        ("generation_config.json", generation),
    ):
        (out / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    (out / "model.safetensors").chmod(0o644)
    return sum(file.stat().st_size for file in out.iterdir() if file.is_file())
