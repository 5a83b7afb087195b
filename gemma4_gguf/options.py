"""Frozen option types. Every default of the library is written here, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

IMAGE_TOKEN_BUDGETS = (70, 140, 280, 560, 1120)
DEFAULT_IMAGE_TOKENS = 280
DEFAULT_FRAME_TOKENS = 70
DEFAULT_FRAMES = 32

ImageTokens = int | Literal["auto"]  # a budget, or the smallest that does not shrink the picture
KVType = Literal["f32", "f16", "q8_0"]
Device = Literal["auto", "cpu", "cuda", "metal", "rocm", "vulkan"]


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How the next token is drawn. Defaults are Gemma 4's own recommendation.

    Args:
        temperature: 0 takes the most likely token; otherwise > 0.
        top_k: candidates kept by rank; 0 keeps all.
        top_p: probability mass kept, in (0, 1].
        min_p: candidates below this share of the best one are dropped, in [0, 1].
        repeat_penalty: > 0; 1 leaves the logits alone.
        seed: draws reproduce for the same seed; None takes a fresh one.
        max_tokens: tokens of the reply at most, thought included; None runs to the end of the context.
        stop: texts that end the reply and are not part of it.
        logit_bias: token id to a number added to its logit.
    """

    temperature: float = 1.0
    top_k: int = 64
    top_p: float = 0.95
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class ToolOptions:
    """How tools are called.

    Args:
        tool_choice: "auto" leaves it to the model; "none" shows the tools but lets none be called; "required"
            has at least one called; the name of a tool, or OpenAI's dict with it, has that one called.
        parallel_tool_calls: one reply may call more than once.
        strict: calls are drawn along the declarations, so that names, arguments and types are right; it is so
            whenever a call is required, a schema was given, or a tool's own dict says "strict": True.
    """

    tool_choice: str | Mapping[str, Any] = "auto"
    parallel_tool_calls: bool = True
    strict: bool = False


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """How a model is opened.

    Args:
        device: where the layers run; "auto" takes the best one this build of llama.cpp has.
        n_gpu_layers: layers on that device; None places all of them (none on the CPU).
        n_ctx: tokens one conversation can hold.
        n_seq: conversations that can be held at once.
        n_threads: CPU threads; None takes the physical cores this process may use.
        kv_type: type of the key/value cache.
        flash_attention: None lets llama.cpp decide per device.
        swa_full: keep the whole history in the sliding-window layers (much more memory).
        snapshot_bytes: memory for copies of the sliding-window cache, with which a conversation can go back
            further than the window: an edited message, a dropped thought, a fork. None takes 256 MiB, or
            two copies if that is more (E2B: 6 MiB each, 31B: 800 MiB); 0 takes none.
        release_pages: on the CPU, give back the pages of the model file that are not needed at once; False
            reads the whole file ahead and keeps it, and reads prompts in larger batches, for a slow disk and
            memory to spare.
    """

    device: Device = "auto"
    n_gpu_layers: int | None = None
    n_ctx: int = 8192
    n_seq: int = 1
    n_threads: int | None = None
    kv_type: KVType = "f16"
    flash_attention: bool | None = None
    swa_full: bool = False
    snapshot_bytes: int | None = None
    release_pages: bool = True
