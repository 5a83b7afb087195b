"""llama.cpp's own grammar engine as a judge, byte by byte, on the vocabulary of a small model."""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as lib


class LlamaVocab:
    """A vocabulary without weights. Keep it while judges of it are in use."""

    def __init__(self, path):
        params = lib.llama_model_default_params()
        params.vocab_only = True
        self.model = lib.llama_model_load_from_file(str(path).encode(), params)
        self.vocab = lib.llama_model_get_vocab(self.model)
        self.end = lib.llama_vocab_eos(self.vocab)
        self.bytes = {}
        buffer = ctypes.create_string_buffer(64)
        for token in range(lib.llama_vocab_n_tokens(self.vocab)):
            n = lib.llama_token_to_piece(self.vocab, token, buffer, 64, 0, True)
            if n == 1:
                self.bytes.setdefault(buffer.raw[0], token)
        assert len(self.bytes) == 256, "the vocabulary lacks bytes"

    def close(self):
        lib.llama_model_free(self.model)


class LlamaJudge:
    """A grammar loaded by llama.cpp.

    Raises:
        ValueError: llama.cpp refuses it.
    """

    def __init__(self, vocab, grammar):
        self.vocab, self.grammar = vocab, grammar.encode()
        self.sampler = lib.llama_sampler_init_grammar(vocab.vocab, self.grammar, b"root")
        if not self.sampler:
            raise ValueError("llama.cpp refuses the grammar")

    def accepts(self, text):
        lib.llama_sampler_reset(self.sampler)
        for byte in text.encode():
            token = self.vocab.bytes[byte]
            if not self.allows(token):
                return False
            lib.llama_sampler_accept(self.sampler, token)
        return self.allows(self.vocab.end)

    def allows(self, token):
        data = (lib.llama_token_data * 1)(lib.llama_token_data(token, 1.0, 0.0))
        candidates = lib.llama_token_data_array(data, 1, -1, False)
        lib.llama_sampler_apply(self.sampler, ctypes.byref(candidates))
        return data[0].logit > 0

    def close(self):
        lib.llama_sampler_free(self.sampler)
