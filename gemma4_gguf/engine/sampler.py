"""Sampler chain: llama.cpp's own samplers, so that no logits cross into Python.

Order as in llama.cpp: biases, penalty, top-k, top-p, min-p, temperature, draw. Banned tokens get a bias of
minus infinity first, while candidates still lie in id order: one addition per banned id instead of a search.
"""

from __future__ import annotations

import secrets
import weakref
from collections.abc import Sequence
from typing import Any

from gemma4_gguf.engine import library
from gemma4_gguf.errors import EngineError
from gemma4_gguf.options import SamplingOptions

PENALTY_WINDOW = 64  # tokens a repeat penalty looks back
_COLDEST = 1e-6  # below it, the most likely token is drawn anyway, and logits divided by it overflow
_SEED_MASK = 0xFFFF_FFFF


class Sampler:
    """Owns a sampler chain for one reply.

    Args:
        options: how to draw.
        n_vocab: size of the vocabulary.
        banned: ids that are never drawn.
        history: token ids before the reply; a repeat penalty counts the last of them.
    """

    def __init__(
        self, options: SamplingOptions, n_vocab: int, banned: Sequence[int], history: Sequence[int] = ()
    ) -> None:
        lib = library.llama()
        params = lib.llama_sampler_chain_default_params()
        params.no_perf = True
        self.handle: Any = lib.llama_sampler_chain_init(params)
        self._finalizer = weakref.finalize(self, lib.llama_sampler_free, self.handle)
        self._finalizer.atexit = False  # a thread may draw with it to the end of the process
        self._sample = lib.llama_sampler_sample
        self._logits = lib.llama_get_logits_ith
        for sampler in _stages(lib, options, n_vocab, banned):
            lib.llama_sampler_chain_add(self.handle, sampler)
        if options.repeat_penalty != 1.0:
            for token in history[-PENALTY_WINDOW:]:
                lib.llama_sampler_accept(self.handle, token)

    def draw(self, context: Any, row: int = -1) -> int:
        """Draws a token from the logits of the last decode.

        Args:
            context: handle of the llama_context.
            row: which token of the last batch; -1 is the last one with logits.

        Returns:
            Its id.

        Raises:
            EngineError: the model computed NaN, on which llama.cpp would end the process.
        """
        self.scores(context, row)
        return int(self._sample(self.handle, context, row))

    def scores(self, context: Any, row: int = -1) -> Any:
        """The logits that a draw would be from.

        Args:
            context: handle of the llama_context.
            row: which token of the last batch; -1 is the last one with logits.

        Returns:
            Pointer to float32 [n_vocab].

        Raises:
            EngineError: they are NaN.
        """
        logits = self._logits(context, row)
        first = logits[0]
        if first != first:  # one NaN in the last hidden state makes all of them NaN
            raise EngineError(
                "The model computed NaN instead of numbers: its weights are damaged, or overflow in their "
                "type. Convert the checkpoint again, to BF16 or Q8_0."
            )
        return logits

    def close(self) -> None:
        """Frees the chain. Calling it again does nothing."""
        self._finalizer()


def _stages(lib: Any, options: SamplingOptions, n_vocab: int, banned: Sequence[int]) -> list[Any]:
    stages = []
    biases = dict(options.logit_bias) | dict.fromkeys(banned, float("-inf"))
    if biases:
        array = (lib.llama_logit_bias * len(biases))(*biases.items())
        stages.append(lib.llama_sampler_init_logit_bias(n_vocab, len(biases), array))
    if options.repeat_penalty != 1.0:
        stages.append(
            lib.llama_sampler_init_penalties(n_vocab, PENALTY_WINDOW, options.repeat_penalty, 0.0, 0.0)
        )
    if options.temperature < _COLDEST:
        return [*stages, lib.llama_sampler_init_greedy()]
    if options.top_k > 0:
        stages.append(lib.llama_sampler_init_top_k(min(options.top_k, n_vocab)))  # 32 bits there
    if options.top_p < 1:
        stages.append(lib.llama_sampler_init_top_p(options.top_p, 1))
    if options.min_p > 0:
        stages.append(lib.llama_sampler_init_min_p(options.min_p, 1))
    stages.append(lib.llama_sampler_init_temp(options.temperature))
    seed = secrets.randbits(32) if options.seed is None else options.seed
    # llama.cpp takes its largest seed for "draw one at random", which must not depend on the caller's choice.
    stages.append(lib.llama_sampler_init_dist(min(seed & _SEED_MASK, _SEED_MASK - 1)))
    return stages
