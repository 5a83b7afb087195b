"""The tokenizer of the nano checkpoint: a small BPE built like Gemma 4's, trained on the generated text.

As in the real one, spaces become U+2581, text splits at newlines only, bytes are the fallback and every chat
marker is a control token. Merges are learned inside words, and never across digits: each digit is a token of
its own, which is what sums and coordinates need. As no merge crosses a word or touches a digit, splitting at
newlines alone gives the same ids, in transformers and in llama.cpp.

``PYTHONPATH=tests python -m nano.tokenizer --words words.npz --out DIR`` writes ``tokenizer.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nano.dialogue import render
from nano.speech import Voices
from nano.tasks import KINDS, Mix
from nano.tasks_text import talk_pairs
from nano.words import words_of
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CONTROL = words_of(
    """
    <pad> <eos> <bos> <unk> <mask> <|turn> <turn|> <|channel> <channel|> <|tool> <tool|> <|tool_call>
    <tool_call|> <|tool_response> <tool_response|> <|"|> <|think|> <|image> <image|> <|image|> <|audio>
    <audio|> <|audio|> <|video|>
    """
)
VOCABULARY = 1536
ALPHABET = [chr(code) for code in range(33, 127)] + list("\n▁áàâãäçéèêëíìîïñóòôõöúùûüßÀÉÊ¿¡«»’–…°€")


def corpus(voices: Voices, n_batches: int = 120) -> Iterator[str]:
    """The text of generated dialogues, without control tokens, line by line."""
    mix = Mix(voices)
    for kind in KINDS:
        size = {"text": 60, "picture": 12, "sound": 6, "clip": 1}[kind]
        for seed in range(n_batches):
            for dialogue in mix.batch(kind, size, seed):
                text = render(dialogue)[0]
                for token in CONTROL:
                    text = text.replace(token, "\n")
                yield from (line for line in text.split("\n") if line)
    for question, answer in [*talk_pairs(held_out=False), *talk_pairs(held_out=True)]:
        yield from [question, answer] * 10


def train(voices: Voices) -> Tokenizer:
    """Learns the merges; deterministic."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Split(Regex("[0-9]"), "isolated"),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*CONTROL, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=ALPHABET,
        min_frequency=2,
        max_token_length=16,
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(voices), trainer)
    # What serves at run time is the structure of the real tokenizer: newline runs apart, nothing else split.
    learned = json.loads(tokenizer.to_str())
    learned["added_tokens"] = [token for token in learned["added_tokens"] if token["content"] in CONTROL]
    tokenizer = Tokenizer.from_str(json.dumps(learned))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("\n+"), "isolated")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL])
    return tokenizer


def tokenizer_config() -> dict[str, Any]:
    """``tokenizer_config.json``: the class, the roles of the control tokens, the media tokens."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "image_token": "<|image|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
        "audio_token": "<|audio|>",
        "extra_special_tokens": list(CONTROL[5:]),
        "model_max_length": 8192,
        "padding_side": "left",
    }


def main() -> None:
    """``python -m nano.tokenizer --words words.npz --out DIR``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=Path, required=True, help="cache written by nano.speech")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = train(Voices.load(options.words, held_out=False))
    tokenizer.save(str(options.out / "tokenizer.json"))
    print(f"{tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
