"""Quantization mix Q4_COMPACT: types of our own choice, for machines with little memory.

All of a model but the table of per-layer embeddings is read for every token, so it must be in memory. This
mix takes bits where they cost most memory and are missed least, and leaves them where they are missed most:

| tensors | type | why |
|---|---|---|
| token embeddings, which are the output matrix too | Q5_K | the most sensitive matrix of all |
| per-layer embeddings, the table | Q4_K | a lookup: stays in the file, and tolerates it |
| its gates and projections in the blocks | Q8_0 | small, and everything from the table goes through them |
| attention values | Q6_K | small: few key/value heads |
| other attention matrices | Q4_K | queries and keys do not bear less |
| feed-forward gate and up, experts included | Q3_K | the largest matrices |
| feed-forward down | Q4_K in the first and last eighth of the blocks, else Q3_K | |

Everything the quantizer leaves alone stays as it is. Mean KL divergence from the F32 model on the bundled
checkpoint: Q4_K_M 0.004, this mix 0.009, the same with token embeddings in Q4_K 0.016, Q3_K_M 0.024. (That
checkpoint was trained for Q4_K_M, so the gap to it is wider than it need be elsewhere.)
"""

from __future__ import annotations

import re

_TABLE = re.compile(r"^per_layer_token_embd\.")
_MATRIX = re.compile(r"^(token_embd|output)\.")
_PATH = re.compile(r"^blk\.\d+\.(inp_gate|proj)\.")
_VALUES = re.compile(r"^blk\.\d+\.attn_(v|qkv)\.")
_DOWN = re.compile(r"^blk\.(\d+)\.ffn_down")
_WIDE = re.compile(r"^blk\.\d+\.ffn_(gate|up)")
_TYPES = ((_TABLE, "Q4_K"), (_MATRIX, "Q5_K"), (_PATH, "Q8_0"), (_VALUES, "Q6_K"), (_WIDE, "Q3_K"))


def compact_type(name: str, n_layers: int) -> str:
    """Type that the mix gives a tensor which may be quantized.

    Args:
        name: GGUF name.
        n_layers: blocks of the model.
    """
    if match := _DOWN.match(name):
        at_an_end = not n_layers // 8 <= int(match[1]) < 7 * n_layers // 8
        return "Q4_K" if at_an_end else "Q3_K"
    return next((kind for pattern, kind in _TYPES if pattern.search(name)), "Q4_K")
