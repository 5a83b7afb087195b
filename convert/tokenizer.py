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
from gemma4_gguf.convert.config import ModelConfig
from gemma4_gguf.errors import CheckpointError
from gemma4_gguf.files.gguf_header import Field
from gemma4_gguf.special_tokens import MARKER_TEXT
from gemma4_gguf.templates import load as load_template

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"

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
    """

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    special: Mapping[str, int]
    add: Mapping[str, bool]


def read_vocabulary(checkpoint: Checkpoint, n_rows: int) -> Vocabulary:
    """Read tokenizer.json.

    Args:
        checkpoint: its directory holds the file.
        n_rows: rows of the token embedding.

    Raises:
        CheckpointError: no file, another kind of tokenizer, ids with holes, or more tokens than rows.
    """
    tokenizer = checkpoint.json(TOKENIZER)
    where = checkpoint.directory / TOKENIZER
    if tokenizer is None:
        raise CheckpointError(f"{where} is missing. Save the tokenizer with transformers, which writes it.")
    model = tokenizer.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE" or not model.get("byte_fallback"):
        raise CheckpointError(f"{where} is no BPE tokenizer with byte fallback, so it is not Gemma's.")
    settings = checkpoint.json(TOKENIZER_CONFIG) or {}
    vocab, added = model.get("vocab"), tokenizer.get("added_tokens") or []
    if not isinstance(vocab, dict) or not isinstance(added, list):
        raise CheckpointError(f"{where} has no vocabulary. Download it again.")
    try:
        added_ids = {str(token["content"]): int(token["id"]) for token in added}
        marked = {str(token["content"]) for token in added if token.get("special")}
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{where}: an added token lacks content or id. Download it again.") from error
    tokens = _in_order(vocab | added_ids, str(where))
    if len(tokens) > n_rows:
        raise CheckpointError(
            f"{where} has {len(tokens)} tokens, but the embedding has {n_rows} rows. "
            "Tokens were added without resizing the embedding; use the model's own tokenizer."
        )
    control = marked | _named_special(settings)
    types = [_type(token, control, token in vocab) for token in tokens]
    tokens += [f"[PAD{index}]" for index in range(len(tokens), n_rows)]
    types += [UNUSED] * (n_rows - len(types))
    return Vocabulary(
        tokens=tuple(tokens),
        types=tuple(types),
        merges=tuple(_merges(model.get("merges"), str(where))),
        special=_special_ids(settings, checkpoint.config, added_ids, n_rows),
        add=_added_around(tokenizer.get("post_processor"), settings),
    )


def vocabulary_fields(vocabulary: Vocabulary, template: str | list[Any] | None) -> list[Field]:
    """The tokenizer's metadata, in llama.cpp's order.

    Args:
        vocabulary: of the model.
        template: chat template, or a list of named ones; None writes none.
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
    fields += _template_fields(template)
    fields.append(Field("tokenizer.ggml.add_space_prefix", False, "BOOL"))
    if "bos" not in add:
        fields.append(Field("tokenizer.ggml.add_bos_token", True, "BOOL"))
    return fields


def chat_template(checkpoint: Checkpoint, config: ModelConfig) -> str | list[Any] | None:
    """The checkpoint's own chat template, or the one of its size; drafters get none.

    The places are searched in llama.cpp's order: tokenizer_config.json, chat_template.jinja,
    chat_template.json.

    Returns:
        A template, or a list of {"name", "template"}.
    """
    settings = checkpoint.json(TOKENIZER_CONFIG) or {}
    own = settings.get("chat_template")
    if own is None:
        own = _template_file(checkpoint)
    if own is not None:
        if not isinstance(own, str | list):
            raise CheckpointError(f"{checkpoint.directory / TOKENIZER_CONFIG}: chat_template is no text.")
        return own
    if config.assistant:
        return None
    return load_template("small" if config.text.ple else "large")


# Tokens


def _in_order(ids: Mapping[str, Any], where: str) -> list[str]:
    tokens: dict[int, str] = {index: token for token, index in ids.items() if type(index) is int}
    missing = next((index for index in range(len(tokens)) if index not in tokens), None)
    if missing is not None or not tokens:
        raise CheckpointError(f"{where}: no token has the id {missing or 0}. Download it again.")
    try:
        "".join(tokens.values()).encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"{where}: a token is no valid Unicode text ({error.reason}).") from error
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
        more = settings.get(key) or []
        named += more.values() if isinstance(more, dict) else more
    for token in (settings.get("added_tokens_decoder") or {}).values():
        if isinstance(token, dict) and token.get("special"):
            named.append(token)
    return {text for text in map(_text, named) if text}


def _merges(merges: Any, where: str) -> Iterable[str]:
    """Both spellings of tokenizer.json: "left right", or ["left", "right"]."""
    for merge in merges or []:
        if isinstance(merge, str):
            yield merge
        elif isinstance(merge, list) and len(merge) == 2:
            yield " ".join(str(part).translate(_SPACE) for part in merge)
        else:
            raise CheckpointError(f"{where}: {merge!r} is no merge. Download it again.")


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
    return ids


def _added_around(processor: Any, settings: Mapping[str, Any]) -> dict[str, bool]:
    """Which special tokens the tokenizer puts around a text, from its template or its settings."""
    add: dict[str, bool] = {}
    processor = processor if isinstance(processor, dict) else {}
    for step in processor.get("processors") or [processor]:
        if step.get("type") != "TemplateProcessing":
            continue
        single, pair = ([_piece(piece) for piece in step.get(key) or []] for key in ("single", "pair"))
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


def _piece(piece: Mapping[str, Any]) -> str | None:
    """The special token at one place of a template, None where a text stands."""
    special = piece.get("SpecialToken")
    return special.get("id") if isinstance(special, dict) else None


# Templates


def _template_file(checkpoint: Checkpoint) -> Any:
    path = checkpoint.directory / "chat_template.jinja"
    try:
        if path.is_file():
            default = path.read_text(encoding="utf-8")
            more = sorted((checkpoint.directory / "additional_chat_templates").glob("*.jinja"))
            if not more:
                return default
            named = [{"name": one.stem, "template": one.read_text(encoding="utf-8")} for one in more]
            return [{"name": "default", "template": default}, *named]
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}).") from error
    return (checkpoint.json("chat_template.json") or {}).get("chat_template")


def _template_fields(template: str | list[Any] | None) -> list[Field]:
    if template is None or isinstance(template, str):
        return [] if template is None else [Field("tokenizer.chat_template", template, "STRING")]
    named: dict[str, str] = {}
    for choice in template:
        if isinstance(choice, dict) and isinstance(choice.get("template"), str):
            named[re.sub(r"[^A-Za-z0-9]", "_", str(choice.get("name", "")))] = choice["template"]
    default = named.pop("default", None)
    named.pop("", None)
    fields = [Field(f"tokenizer.chat_template.{name}", text, "STRING") for name, text in named.items()]
    if named:
        fields.append(Field("tokenizer.chat_templates", sorted(named), "ARRAY", "STRING"))
    if default is not None:
        fields.append(Field("tokenizer.chat_template", default, "STRING"))
    return fields
