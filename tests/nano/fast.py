"""The forward pass of the nano checkpoint over packed rows, for training on CPU cores.

The same numbers as transformers' model (a reference test holds the two together), in another order: bfloat16
products from float32 sums, rows without padding, whole layers compiled. On an EPYC core it takes a fifth of
the time. Clamps are left out, as training runs with none.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from nano.dialogue import IGNORE
from nano.packed import AT_ONCE
from torch.nn import functional

BF16 = torch.bfloat16
FUSED_FROM = 1000  # patches; below, scores fit the cache and torch's fused attention is the slower one


def _norm(x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    x = x.float()
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    return x if weight is None else x * weight.float()


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def _gelu(x: torch.Tensor) -> torch.Tensor:
    return functional.gelu(x, approximate="tanh")


Weights = dict[str, torch.Tensor]
KeysValues = tuple[torch.Tensor, torch.Tensor]


def keys_values(h: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, w: Weights) -> KeysValues:
    """Keys and values of one head, ``[rows, length, head size]``."""
    linear = functional.linear
    key = _turned(_norm(linear(h, w["self_attn.k_proj"]), w["self_attn.k_norm"]), cos, sin).to(BF16)
    return key, _norm(linear(h, w["self_attn.v_proj"]), None).to(BF16)


def text_layer(
    x: torch.Tensor,
    ple: torch.Tensor,
    bias: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    shared: KeysValues | None,
    w: Weights,
) -> tuple[torch.Tensor, KeysValues]:
    """One text layer over ``[rows, length, hidden]``; the bias ``[rows, 1, length, length]`` is the mask."""
    linear = functional.linear
    rows, length, _ = x.shape
    size = w["self_attn.q_norm"].shape[0]
    h = _norm(x, w["input_layernorm"]).to(BF16)
    query = linear(h, w["self_attn.q_proj"]).view(rows, length, -1, size)
    query = _turned(_norm(query, w["self_attn.q_norm"]), cos[:, :, None], sin[:, :, None]).to(BF16)
    query = query.transpose(1, 2).reshape(rows, -1, size)  # one key head serves all
    key, value = keys_values(h, cos, sin, w) if shared is None else shared
    scores = torch.bmm(query, key.transpose(1, 2)).view(rows, -1, length, length).float() + bias
    mixed = torch.bmm(scores.softmax(-1).to(BF16).view(rows, -1, length), value)
    mixed = mixed.view(rows, -1, length, size).transpose(1, 2).reshape(rows, length, -1)
    x = x + _norm(linear(mixed, w["self_attn.o_proj"]), w["post_attention_layernorm"])
    h = _norm(x, w["pre_feedforward_layernorm"]).to(BF16)
    h = linear(_gelu(linear(h, w["mlp.gate_proj"])) * linear(h, w["mlp.up_proj"]), w["mlp.down_proj"])
    x = x + _norm(h, w["post_feedforward_layernorm"])
    gate = _gelu(linear(x.to(BF16), w["per_layer_input_gate"])) * ple
    return x + _norm(linear(gate, w["per_layer_projection"]), w["post_per_layer_input_norm"]), (key, value)


def _turned_twice(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The two halves of a head turn with x and with y."""
    half = x.shape[-1] // 2
    return torch.cat(
        [
            _turned(x[..., :half], cos[..., :half], sin[..., :half]),
            _turned(x[..., half:], cos[..., half:], sin[..., half:]),
        ],
        -1,
    )


def vision_layer(
    x: torch.Tensor, bias: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, w: Weights
) -> torch.Tensor:
    """One vision layer over ``[pictures, patches, width]``; the bias ``[pictures, 1, 1, patches]`` masks."""
    linear = functional.linear
    n, length, _ = x.shape
    size = w["self_attn.q_norm"].shape[0]
    h = _norm(x, w["input_layernorm"]).to(BF16)
    query = linear(h, w["self_attn.q_proj"]).view(n, length, -1, size)
    query = _turned_twice(_norm(query, w["self_attn.q_norm"]), cos, sin).to(BF16).transpose(1, 2)
    key = linear(h, w["self_attn.k_proj"]).view(n, length, -1, size)
    key = _turned_twice(_norm(key, w["self_attn.k_norm"]), cos, sin).to(BF16).transpose(1, 2)
    value = _norm(linear(h, w["self_attn.v_proj"]).view(n, length, -1, size), None).to(BF16).transpose(1, 2)
    if length > FUSED_FROM:
        mixed = functional.scaled_dot_product_attention(query, key, value, bias.to(BF16), scale=1.0)
    else:
        mixed = ((query @ key.transpose(2, 3)).float() + bias).softmax(-1).to(BF16) @ value
    mixed = mixed.transpose(1, 2).reshape(n, length, -1)
    x = x + _norm(linear(mixed, w["self_attn.o_proj"]), w["post_attention_layernorm"])
    h = _norm(x, w["pre_feedforward_layernorm"]).to(BF16)
    h = linear(_gelu(linear(h, w["mlp.gate_proj"])) * linear(h, w["mlp.up_proj"]), w["mlp.down_proj"])
    return x + _norm(h, w["post_feedforward_layernorm"])


def _weights(module: Any) -> Weights:
    """The weights of a layer by short name, without ``.linear`` and ``.weight``."""
    return {
        name.removesuffix(".weight").removesuffix(".linear"): value
        for name, value in module.named_parameters()
    }


def working_copy(model: Any) -> Any:
    """A bfloat16 copy of a model; constants (waves, scales, caps) stay float32, clamps are off."""
    work = copy.deepcopy(model)
    constants = [
        (module, name, value) for module in work.modules() for name, value in module._buffers.items()
    ]
    work.to(BF16)
    for module, name, value in constants:
        module._buffers[name] = value
    for module in work.modules():
        if hasattr(module, "use_clipped_linears"):
            module.use_clipped_linears = False
    return work


class Packed:
    """The forward pass of a :func:`working_copy`.

    Args:
        work: the copy; its weights are used where they are.
        compiled: compile the layers (a minute at the first use, less when cached).
    """

    def __init__(self, work: Any, compiled: bool = True) -> None:
        self.work, self.inner = work, work.model
        self.text = self.inner.language_model
        self.eyes, self.ears = self.inner.vision_tower, self.inner.audio_tower
        turn = torch.compile if compiled else lambda function, **_: function
        self.text_layer = turn(text_layer, dynamic=False)
        self.vision_layer = turn(vision_layer, dynamic=False)

    def pictures(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Soft tokens of all pictures in order, float32 ``[tokens, hidden]``."""
        pixels, places, counts = batch["pixels"], batch["places"], batch["n_soft"].tolist()
        weights = [_weights(layer) for layer in self.eyes.encoder.layers]
        out = []
        for begin in range(0, len(pixels), AT_ONCE):
            at = places[begin : begin + AT_ONCE]
            padding = (at == -1).all(-1)
            x = self.eyes.patch_embedder(pixels[begin : begin + AT_ONCE].float() / 255.0, at, padding).float()
            bias = torch.zeros(padding.shape).masked_fill_(padding, -1e4)[:, None, None]
            cos, sin = (part[:, :, None] for part in self.eyes.encoder.rotary_emb(x, at))
            for w in weights:
                x = self.vision_layer(x, bias, cos, sin, w)
            pooled, _ = self.eyes.pooler(x, at, padding, at.shape[1] // 9)
            out += [pooled[i, : counts[begin + i]] for i in range(len(at)) if begin + i < len(counts)]
        return self._embed(self.inner.embed_vision, torch.cat(out))

    def sounds(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Soft tokens of all sounds in order, float32 ``[tokens, hidden]``."""
        heard = self.ears(batch["mel"].to(BF16), batch["mel_mask"])
        return self._embed(self.inner.embed_audio, heard.last_hidden_state[heard.attention_mask])

    @staticmethod
    def _embed(embedder: Any, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(_norm(x, None).to(BF16), embedder.embedding_projection.weight).float()

    def hidden(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Last hidden state, bfloat16 ``[rows, length, hidden]``."""
        ids = batch["ids"]  # media stand as padding
        text = self.text
        x = functional.embedding(ids, text.embed_tokens.weight).float() * text.embed_tokens.scalar_embed_scale
        flat = x.view(-1, x.shape[-1])
        for name, make in (("pixels", self.pictures), ("mel", self.sounds)):
            if name in batch:
                flat = flat.index_copy(0, batch["at_" + name], make(batch))
        x = flat.view_as(x)
        ple = functional.embedding(ids, text.embed_tokens_per_layer.weight, padding_idx=0)
        ple = ple.float() * text.embed_tokens_per_layer.scalar_embed_scale
        seen = functional.linear(x.to(BF16), text.per_layer_model_projection.weight).float()
        shape = (*ids.shape, len(text.layers), -1)
        seen = _norm(
            (seen * text.per_layer_model_projection_scale).view(shape), text.per_layer_projection_norm.weight
        )
        ple = ((seen + ple.view(shape)) * text.per_layer_input_scale).to(BF16).unbind(2)
        turns = {kind: text.rotary_emb(x, batch["positions"], kind) for kind in text.unique_layer_types}
        bias = torch.zeros(batch["mask"].shape).masked_fill_(~batch["mask"], -1e4)[:, None]
        shared: dict[str, KeysValues] = {}
        for layer, own in zip(text.layers, ple, strict=True):
            attention = layer.self_attn
            known = shared.get(attention.layer_type) if attention.is_kv_shared_layer else None
            x, made = self.text_layer(x, own, bias, *turns[attention.layer_type], known, _weights(layer))
            if attention.store_full_length_kv:
                shared[attention.layer_type] = made
        return _norm(x, text.norm.weight).to(BF16)

    def loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted cross entropy, and which learned tokens are predicted right (bool)."""
        target = batch["targets"]
        learned = target != IGNORE
        logits = functional.linear(self.hidden(batch)[learned], self.text.embed_tokens.weight).float()
        cap = self.work.config.text_config.final_logit_softcapping
        logits = torch.tanh(logits / cap) * cap
        wanted, weights = target[learned], batch["weights"][learned]
        each = functional.cross_entropy(logits, wanted, reduction="none")
        return (each * weights).sum() / weights.sum(), logits.argmax(-1) == wanted
