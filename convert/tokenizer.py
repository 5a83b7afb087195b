"""Tokenizer converter: tokenizer.json and the files beside it → the tokenizer of a GGUF file.

What llama.cpp's converter writes, with two differences. An added token that tokenizer.json marks special is
a control token even if tokenizer_config.json does not list it: as ordinary text, llama.cpp would split
`<|image>` into six tokens. And where the embedding has more rows than there are tokens, the rest is filled
with unused ones, since llama.cpp insists on equal numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gemma4_gguf.convert.checkpoint import Checkpoint
from gemma4_gguf.convert.json_section import shown
from gemma4_gguf.convert.template_files import template_fields
from gemma4_gguf.convert.tokenizer_check import Bpe, check_tokenizer, template_pieces
from gemma4_gguf.errors import CheckpointError
from gemma4_gguf.files.gguf_header import Field
from gemma4_gguf.files.source_files import MAX_TOKENIZER
from gemma4_gguf.special_tokens import MARKER_TEXT

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
ADDED_TOKENS = "added_tokens.json"  # of older transformers

# llama.cpp's token types (llama.h, llama_token_type).
NORMAL, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 3, 4, 5, 6
# Control tokens that are printed all the same: a reply's thought and tool calls are read from its text.
VISIBLE = frozenset((*(text for name, text in MARKER_TEXT.items() if not name.startswith("turn_")),))
_SCORE = -1000.0  # the scores of a BPE vocabulary say nothing
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
# A merge is stored as "left right"; a space inside a part becomes the character llama.cpp expects for it.
_SPACE = str.maketrans(" ", "\u0120")
# Kind of special token → key of its id, in the order they are written. There is no key for "cls".
_ID_KEYS = {
    "bos": "tokenizer.ggml.bos_token_id",
    "eos": "tokenizer.ggml.eos_token_id",
    "unk": "tokenizer.ggml.unknown_token_id",
    "sep": "tokenizer.ggml.seperator_token_id",
    "pad": "tokenizer.ggml.padding_token_id",
    "mask": "tokenizer.ggml.mask_token_id",
}


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id, and what joins them.

    Args:
        tokens: text of each token.
        types: llama.cpp's type of each.
        merges: BPE merges, "left right", best first.
        special: kind of special token, such as "bos", to its id.
        add: kind of special token to whether it is put around every text.
        notes: what whoever converts it should know.
    """

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    special: Mapping[str, int]
    add: Mapping[str, bool]
    notes: tuple[str, ...] = ()


def read_vocabulary(checkpoint: Checkpoint, n_rows: int) -> Vocabulary:
    """Read tokenizer.json.

    Args:
        checkpoint: its directory holds the file.
        n_rows: rows of the token embedding.

    Raises:
        CheckpointError: no file, another kind of tokenizer, ids with holes, more tokens than rows, or text
            that llama.cpp would read as other ids.
    """
    where = str(checkpoint.directory / TOKENIZER)
    tokenizer, model = _parsed(checkpoint, where)
    settings = checkpoint.json(TOKENIZER_CONFIG) or {}
    vocab = model["vocab"]
    added = _added_tokens(tokenizer, where)
    added_ids = {token["content"]: token["id"] for token in added}
    marked = {token["content"] for token in added if token.get("special")}
    tokens = _in_order(vocab, added_ids, where)
    if len(tokens) > n_rows:
        raise CheckpointError(
            f"{where} has {len(tokens)} tokens, but the embedding has {n_rows} rows. "
            "Tokens were added without resizing the embedding; use the model's own tokenizer."
        )
    ids = vocab | added_ids
    _check_listed(settings, checkpoint.json(ADDED_TOKENS) or {}, ids, where)
    named = _named_special(settings)
    control = marked | named
    types = [_type(token, control, token in vocab) for token in tokens]
    merges = _merges(model.get("merges"), where)
    special = _special_ids(settings, checkpoint.config, added_ids, n_rows)
    if "bos" not in special:
        raise CheckpointError(
            f"{where}: no token is said to begin a text. Set bos_token in {TOKENIZER_CONFIG}; "
            "Gemma's is <bos>."
        )
    parted = ((merge, merge.index(" ", 1)) for merge in merges)  # as llama.cpp parts them
    bpe = Bpe(ids, {(merge[:at], merge[at + 1 :]): rank for rank, (merge, at) in enumerate(parted)})
    notes = check_tokenizer(tokenizer, bpe, special, where)
    if unknown := sorted(named - ids.keys()):
        notes.append(
            f"{TOKENIZER_CONFIG} names {shown(unknown[0])} ({len(unknown)} in all), which {TOKENIZER} does "
            "not have. transformers would make it a new token; here it stays text."
        )
    tokens += [f"[PAD{index}]" for index in range(len(tokens), n_rows)]
    types += [UNUSED] * (n_rows - len(types))
    return Vocabulary(
        tokens=tuple(tokens),
        types=tuple(types),
        merges=tuple(merges),
        special=special,
        add=_added_around(tokenizer.get("post_processor"), settings),
        notes=tuple(notes),
    )


def vocabulary_fields(vocabulary: Vocabulary, templates: dict[str, str]) -> list[Field]:
    """The tokenizer's metadata, in llama.cpp's order.

    Args:
        vocabulary: of the model.
        templates: chat templates by name.
    """
    fields = [
        Field("tokenizer.ggml.model", "gemma4", "STRING"),
        Field("tokenizer.ggml.tokens", list(vocabulary.tokens), "ARRAY", "STRING"),
        Field("tokenizer.ggml.scores", [_SCORE] * len(vocabulary.tokens), "ARRAY", "FLOAT32"),
        Field("tokenizer.ggml.token_type", list(vocabulary.types), "ARRAY", "INT32"),
    ]
    if vocabulary.merges:
        fields.append(Field("tokenizer.ggml.merges", list(vocabulary.merges), "ARRAY", "STRING"))
    fields += [Field(_ID_KEYS[kind], index, "UINT32") for kind, index in vocabulary.special.items()]
    # Without the leading <bos> the model is lost, whatever the tokenizer's files say.
    add = dict(vocabulary.add)
    for kind, on in add.items():
        fields.append(Field(f"tokenizer.ggml.add_{kind}_token", on or kind == "bos", "BOOL"))
    fields += template_fields(templates)
    fields.append(Field("tokenizer.ggml.add_space_prefix", False, "BOOL"))
    if "bos" not in add:
        fields.append(Field("tokenizer.ggml.add_bos_token", True, "BOOL"))
    return fields


# Tokens


def _parsed(checkpoint: Checkpoint, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """tokenizer.json and its model."""
    tokenizer = checkpoint.json(TOKENIZER, MAX_TOKENIZER)
    if tokenizer is None:
        raise CheckpointError(f"{where} is missing. Save the tokenizer with transformers, which writes it.")
    model = tokenizer.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE" or not model.get("byte_fallback"):
        raise CheckpointError(f"{where} is no BPE tokenizer with byte fallback, so it is not Gemma's.")
    if not isinstance(model.get("vocab"), dict):
        raise CheckpointError(f"{where} has no vocabulary. Download it again.")
    return tokenizer, model


def _added_tokens(tokenizer: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    added = tokenizer.get("added_tokens") or []
    if not isinstance(added, list):
        raise CheckpointError(f"{where}: added_tokens is no list. Download it again.")
    for token in added:
        sound = isinstance(token, dict) and type(token.get("id")) is int and token.get("content")
        if not sound or not isinstance(token["content"], str):
            raise CheckpointError(
                f"{where}: an added token lacks content or id: {shown(token)}. Download it again."
            )
    return added


def _check_listed(
    settings: Mapping[str, Any], older: Mapping[str, Any], ids: Mapping[str, Any], where: str
) -> None:
    """Tokens that other files list with their ids; transformers adds those that tokenizer.json lacks.

    Raises:
        CheckpointError: tokenizer.json gives one another id, or none.
    """
    listed = [(token, index) for token, index in older.items() if type(index) is int]
    decoder = settings.get("added_tokens_decoder")
    for index, token in decoder.items() if isinstance(decoder, dict) else ():
        content = _text(token)
        if content and index.isdecimal() and len(index) < 10:
            listed.append((content, int(index)))
    for token, index in listed:
        if ids.get(token) != index:
            raise CheckpointError(
                f"{where}: {shown(token)} has the id {index} in {TOKENIZER_CONFIG} or {ADDED_TOKENS} and "
                f"{'none' if token not in ids else shown(ids[token])} here. Load and save the tokenizer with "
                "transformers, which writes both alike."
            )


def _in_order(vocab: Mapping[str, Any], added: Mapping[str, int], where: str) -> list[str]:
    """Tokens by id; an added token takes the place of one of the model's that has its id."""
    tokens: dict[int, str] = {}
    for token, index in vocab.items():
        if type(index) is not int or tokens.setdefault(index, token) != token:
            raise CheckpointError(
                f"{where}: token {shown(token)} has the id {shown(index)}, which is no number or another "
                "token's. Download it again."
            )
    tokens |= {index: token for token, index in added.items()}
    missing = next((index for index in range(len(tokens)) if index not in tokens), None)
    if missing is not None or not tokens:
        raise CheckpointError(f"{where}: no token has the id {missing or 0}. Download it again.")
    _require_unicode(tokens.values(), f"{where}: a token")
    return [tokens[index] for index in range(len(tokens))]


def _type(token: str, control: set[str], in_model: bool) -> int:
    if token in VISIBLE:
        return USER_DEFINED
    if in_model and _BYTE_TOKEN.fullmatch(token):
        return BYTE
    if token in control:
        return CONTROL
    return NORMAL if in_model else USER_DEFINED


def _text(entry: Any) -> str | None:
    """A token as tokenizer_config.json writes it: text, or an object with its content."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def _named_special(settings: Mapping[str, Any]) -> set[str]:
    """Tokens that tokenizer_config.json calls special, as transformers 5 reads it."""
    named: list[Any] = [value for key, value in settings.items() if key.endswith("_token")]
    for key in ("extra_special_tokens", "additional_special_tokens", "model_specific_special_tokens"):
        more = settings.get(key)
        named += more.values() if isinstance(more, dict) else more if isinstance(more, list) else []
    decoder = settings.get("added_tokens_decoder")
    for token in decoder.values() if isinstance(decoder, dict) else []:
        if isinstance(token, dict) and token.get("special"):
            named.append(token)
    return {text for text in map(_text, named) if text}


def _merges(merges: Any, where: str) -> list[str]:
    """Both spellings of tokenizer.json: "left right", or ["left", "right"]."""
    if not isinstance(merges, list) or not merges:
        raise CheckpointError(f"{where} has no merges, without which llama.cpp cannot tokenize.")
    written = []
    for merge in merges:
        if isinstance(merge, list) and len(merge) == 2 and all(isinstance(part, str) for part in merge):
            merge = " ".join(part.translate(_SPACE) for part in merge)
        if not isinstance(merge, str) or " " not in merge[1:]:
            raise CheckpointError(f"{where}: {shown(merge)} is no merge. Download it again.")
        written.append(merge)
    _require_unicode(written, f"{where}: a merge")
    return written


def _require_unicode(texts: Iterable[str], what: str) -> None:
    try:
        whole = "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"{what} is no valid Unicode text ({error.reason}).") from error
    if b"\0" in whole:
        raise CheckpointError(f"{what} holds a NUL character, at which llama.cpp would cut it.")


def _special_ids(
    settings: Mapping[str, Any], config: Mapping[str, Any], added: Mapping[str, int], n_rows: int
) -> dict[str, int]:
    """Ids by kind: as tokenizer_config.json names them, then as config.json numbers them."""
    ids: dict[str, int] = {}
    for kind in _ID_KEYS:
        index = added.get(_text(settings.get(f"{kind}_token")) or "")
        if index is not None:
            ids[kind] = index
    text = config.get("text_config")
    for kind in _ID_KEYS:
        index = config.get(f"{kind}_token_id")
        if index is None and isinstance(text, dict):
            index = text.get(f"{kind}_token_id")
        if kind not in ids and type(index) is int and 0 <= index < n_rows:
            ids[kind] = index
    if "bos" not in ids and "<bos>" in added:
        ids["bos"] = added["<bos>"]
    return ids


def _added_around(processor: Any, settings: Mapping[str, Any]) -> dict[str, bool]:
    """Which special tokens the tokenizer puts around a text, from its template or its settings."""
    add: dict[str, bool] = {}
    steps: Any = [processor]
    if isinstance(processor, dict) and isinstance(processor.get("processors"), list):
        steps = processor["processors"]
    for step in steps:
        if not isinstance(step, dict) or step.get("type") != "TemplateProcessing":
            continue
        single, pair = (template_pieces(step, key) for key in ("single", "pair"))
        first, last = (single[0], single[-1]) if len(single) > 1 else (None, None)
        if first:
            add["bos"] = first == _text(settings.get("bos_token"))
        if last:
            add["eos"] = True
        begin = 1 if first and pair[:1] == [first] else 0
        end = len(pair) - 1 if last and pair[-1:] == [last] else len(pair)
        # What stands between the two texts.
        if joint := pair[begin:end][1:-1]:
            ends = {_text(settings.get(f"{kind}_token")) for kind in ("sep", "eos")} - {None}
            add["sep"] = (joint[0] in ends and not last) or (len(joint) == 2 and joint[1] in ends)
    for kind in _ID_KEYS:
        flag = settings.get(f"add_{kind}_token")
        if type(flag) is bool:
            add.setdefault(kind, flag)
    return {kind: on for kind, on in add.items() if kind in ("bos", "eos", "sep")}
