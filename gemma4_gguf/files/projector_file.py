"""Projector file checks: made before llama.cpp opens a file, whose assertions on shapes end the process.

Shapes follow from the metadata; the tables below are those of the graphs that llama.cpp builds
(tools/mtmd/models/gemma4{v,a,uv,ua}.cpp in llama-cpp-python 0.3.36). What comes out also tells the projector
which pictures it can take.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gemma4_gguf.errors import GGUFError
from gemma4_gguf.files.gguf_reader import GGUFFile, Stamp, TensorInfo, open_gguf, require_gemma4
from gemma4_gguf.files.key_types import PROJECTOR_KEYS, check_types
from gemma4_gguf.files.metadata_view import MAX_LAYERS, MetadataView
from gemma4_gguf.files.model_tensors import MATRIX_TYPES, check_type

_VISION_TYPES, _AUDIO_TYPES = ("gemma4v", "gemma4uv"), ("gemma4a", "gemma4ua")


@dataclass(frozen=True)
class ProjectorFacts:
    """What a projector file can do and what it fits.

    Args:
        path: the file.
        types: projector types inside, such as ("gemma4v", "gemma4a").
        width: of the embeddings it makes.
        has_vision: it takes pictures.
        has_audio: it takes sounds.
        stamp: tells whether the file was changed since.
    """

    path: Path
    types: tuple[str, ...]
    width: int
    has_vision: bool
    has_audio: bool
    stamp: Stamp


def check_projector(path: str | Path) -> ProjectorFacts:
    """Checks a projector file by itself.

    Args:
        path: a GGUF file.

    Returns:
        Its facts.

    Raises:
        GGUFError: it is damaged, not a Gemma 4 projector, or contradicts itself.
    """
    file = open_gguf(path)
    if require_gemma4(file) != "projector":
        raise GGUFError(f"{file.path} is a model, not a projector (mmproj-….gguf).")
    view = MetadataView(file.metadata, file.path)
    file.require_aligned()
    check_types(file.metadata, view, PROJECTOR_KEYS)
    found = {}
    for modality, known in (("vision", _VISION_TYPES), ("audio", _AUDIO_TYPES)):
        if not view.flag(f"clip.has_{modality}_encoder", default=False):
            continue
        own, common = f"clip.{modality}.projector_type", "clip.projector_type"
        kind = view.text(common if own not in view and common in view else own, one_of=known)
        found[modality] = (kind, view.integer(f"clip.{modality}.projection_dim"))
    if not found:
        raise view.error("clip.has_vision_encoder", "true, or else clip.has_audio_encoder")
    widths = {width for _, width in found.values()}
    if len(widths) > 1:
        raise view.error("clip.audio.projection_dim", f"{found['vision'][1]} as clip.vision.projection_dim")
    return ProjectorFacts(
        path=file.path,
        types=tuple(kind for kind, _ in found.values()),
        width=widths.pop(),
        has_vision="vision" in found,
        has_audio="audio" in found,
        stamp=file.stamp,
    )


_POOLING = 3  # llama.cpp's default; the key is optional
_MAX_POOLING = 16  # times the patch it is the side of the smallest picture
_CONV_KERNEL = 5  # llama.cpp pads the conformer's convolution for exactly this many steps
_MEL_BANDS = 128
SAMPLES_PER_TOKEN = 640  # of the 12B's audio part
_MAX_SIZE = 2**24  # beyond any of them; their products stay far from overflow

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class ProjectorLayout:
    """What a projector file takes in.

    Args:
        facts: types, width and abilities.
        token_px: side of the square of pixels behind one soft token, 0 without eyes.
        max_side_tokens: soft tokens that fit along one side of a picture (rows of the position table).
        says_gelu: the file names the activation that the vision tower was trained with. Without the key,
            llama.cpp computes another one.
    """

    facts: ProjectorFacts
    token_px: int
    max_side_tokens: int
    says_gelu: bool

    @property
    def has_conformer(self) -> bool:
        """The audio part is the E-series' conformer, not the 12B's plain projection."""
        return "gemma4a" in self.facts.types


def check_layout(path: str | Path) -> ProjectorLayout:
    """Checks that llama.cpp can build and run the graphs of a projector.

    Args:
        path: a GGUF file.

    Returns:
        What it takes in.

    Raises:
        GGUFError: it is damaged, not a Gemma 4 projector, or would end the process.
    """
    facts = check_projector(path)
    file = open_gguf(path)
    contents = _Contents(file)
    token_px = max_side = 0
    for kind in facts.types:
        contents.require(_SHAPES[kind](contents, facts.width))
        if kind in _VISION_TYPES:
            pooling = contents.size(
                "clip.vision.projector.scale_factor", default=_POOLING, maximum=_MAX_POOLING
            )
            token_px = contents.size("clip.vision.patch_size") * pooling
            rows = file.tensors["v.position_embd.weight"].shape[1]
            max_side = rows if kind == "gemma4uv" else rows // pooling
            for key in ("image_mean", "image_std"):
                values = contents.view.numbers(f"clip.vision.{key}", 3)
                if key == "image_std" and 0.0 in values:
                    raise contents.view.error(f"clip.vision.{key}", "numbers that are not 0")
            contents.size("clip.vision.image_size")
        tower = "vision" if kind in _VISION_TYPES else "audio"
        contents.view.number(f"clip.{tower}.attention.layer_norm_epsilon", below=1.0)
        contents.view.integer(f"clip.{tower}.attention.head_count_kv", minimum=0, default=0)
    if contents.view.flag("clip.use_silu", default=False):
        raise contents.view.error("clip.use_silu", "false")
    says_gelu = contents.view.flag("clip.use_gelu", default=False)
    return ProjectorLayout(facts, token_px, max_side, says_gelu)


class _Contents:
    """Metadata and tensors of a projector."""

    def __init__(self, file: GGUFFile) -> None:
        self.view = MetadataView(file.metadata, file.path)
        self.tensors = file.tensors

    def size(self, key: str, *, default: int | None = None, maximum: int = _MAX_SIZE) -> int:
        return self.view.integer(key, maximum=maximum, default=default)

    def shape(self, name: str, n_dims: int) -> tuple[int, ...]:
        tensor = self.tensors.get(name)
        if tensor is None or len(tensor.shape) != n_dims:
            raise self.view.error(name, f"{n_dims} dimensions", found=_form(tensor))
        return tensor.shape

    def require(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Compares tensors with what the metadata implies. Vectors must be F32: llama.cpp adds them so."""
        for name, expected in shapes.items():
            tensor = self.tensors.get(name)
            if tensor is None or tensor.shape != expected:
                raise self.view.error(name, f"shape {list(expected)}", found=_form(tensor))
            check_type(tensor, self.view, _tensor_types(name, len(expected)))
        for tensor in self.tensors.values():
            clamp = tensor.name.endswith((".input_min", ".input_max", ".output_min", ".output_max"))
            if clamp and (tensor.shape != (1,) or tensor.type != "F32"):
                found = f"is {tensor.type} {list(tensor.shape)}"
                raise self.view.error(tensor.name, "one F32 number", found=found)


def _tensor_types(name: str, n_dims: int) -> frozenset[str]:
    """Vectors, and the convolution of the conformer, must be F32; the other convolutions may be F16."""
    if n_dims == 1 or name.endswith(".conv_dw.weight"):
        return frozenset(("F32",))
    if n_dims == 4:
        return frozenset(("F32", "F16"))
    return MATRIX_TYPES


def _form(tensor: TensorInfo | None) -> str:
    return "is missing" if tensor is None else f"has shape {list(tensor.shape)}"


def _vision(contents: _Contents, width: int) -> Shapes:
    hidden = contents.size("clip.vision.embedding_length")
    inner = contents.size("clip.vision.feed_forward_length")
    heads = contents.size("clip.vision.attention.head_count", maximum=hidden)
    head_dim = contents.size("clip.vision.attention.head_dim", default=max(1, hidden // heads))
    if head_dim % 4:  # half of it is turned by the row, half by the column, both in pairs
        raise contents.view.error("clip.vision.attention.head_count", f"{hidden} in heads of a multiple of 4")
    patch = contents.size("clip.vision.patch_size")
    rows = contents.shape("v.position_embd.weight", 3)[1]
    shapes: Shapes = {
        "v.patch_embd.weight": (hidden, 3, patch, patch),
        "v.position_embd.weight": (2, rows, hidden),
        "mm.input_projection.weight": (width, hidden),
    }
    if "v.std_bias" in contents.tensors or "v.std_scale" in contents.tensors:
        shapes |= {"v.std_bias": (hidden,), "v.std_scale": (hidden,)}
    for i in range(contents.size("clip.vision.block_count", maximum=MAX_LAYERS)):
        block = {f"attn_{name}": (heads * head_dim, hidden) for name in "qkv"}
        block |= {"attn_out": (hidden, heads * head_dim)}
        block |= {"ffn_gate": (inner, hidden), "ffn_up": (inner, hidden), "ffn_down": (hidden, inner)}
        vectors = {"attn_q_norm": head_dim, "attn_k_norm": head_dim}
        vectors |= dict.fromkeys(("ln1", "ln2", "attn_post_norm", "ffn_post_norm"), hidden)
        shapes |= {f"v.blk.{i}.{name}.weight": shape for name, shape in block.items()}
        shapes |= {f"v.blk.{i}.{name}.weight": (size,) for name, size in vectors.items()}
    return shapes


def _vision_unified(contents: _Contents, width: int) -> Shapes:
    hidden = contents.size("clip.vision.embedding_length")
    pooling = contents.size("clip.vision.projector.scale_factor", default=_POOLING, maximum=_MAX_POOLING)
    pixels = 3 * (contents.size("clip.vision.patch_size") * pooling) ** 2
    rows = contents.shape("v.position_embd.weight", 3)[1]
    shapes: Shapes = {
        "v.patch_embd.weight": (hidden, pixels),
        "v.patch_embd.bias": (hidden,),
        "v.position_embd.weight": (2, rows, hidden),
        "mm.input_projection.weight": (width, hidden),
    }
    for norm, size in ((1, pixels), (2, hidden), (3, hidden)):
        shapes |= {f"v.patch_norm.{norm}.{part}": (size,) for part in ("weight", "bias")}
    return shapes


def _conformer(contents: _Contents, width: int) -> Shapes:
    bands = contents.size("clip.audio.num_mel_bins")
    if bands != _MEL_BANDS:
        raise contents.view.error("clip.audio.num_mel_bins", str(_MEL_BANDS))
    hidden = contents.size("clip.audio.embedding_length")
    inner = contents.size("clip.audio.feed_forward_length")
    heads = contents.size("clip.audio.attention.head_count", maximum=hidden)
    if hidden % heads or hidden % 2:
        raise contents.view.error("clip.audio.attention.head_count", f"a divisor of {hidden}")
    first, second = (contents.shape(f"a.conv1d.{i}.weight", 4)[0] for i in (0, 1))
    out = contents.shape("a.pre_encode.out.weight", 2)[0]
    shapes: Shapes = {
        "a.conv1d.0.weight": (first, 1, 3, 3),
        "a.conv1d.0.norm.weight": (first,),
        "a.conv1d.1.weight": (second, first, 3, 3),
        "a.conv1d.1.norm.weight": (second,),
        "a.input_projection.weight": (hidden, bands // 4 * second),
        "a.pre_encode.out.weight": (out, hidden),
        "a.pre_encode.out.bias": (out,),
        "mm.a.input_projection.weight": (width, out),
    }
    norms = ("ffn_norm", "ffn_post_norm", "ffn_norm_1", "ffn_post_norm_1", "norm_conv", "conv_norm")
    for i in range(contents.size("clip.audio.block_count", maximum=MAX_LAYERS)):
        block: Shapes = {f"attn_{name}": (hidden, hidden) for name in ("q", "k", "v", "out", "k_rel")}
        block |= {"conv_pw1": (2 * hidden, hidden), "conv_pw2": (hidden, hidden)}
        block |= {"conv_dw": (hidden, _CONV_KERNEL), "per_dim_scale": (hidden // heads,)}
        for half in ("", "_1"):
            block |= {f"ffn_up{half}": (inner, hidden), f"ffn_down{half}": (hidden, inner)}
        block |= dict.fromkeys((*norms, "attn_pre_norm", "attn_post_norm", "ln2"), (hidden,))
        shapes |= {f"a.blk.{i}.{name}.weight": shape for name, shape in block.items()}
    return shapes


def _audio_unified(_contents: _Contents, width: int) -> Shapes:
    return {"mm.a.input_projection.weight": (width, SAMPLES_PER_TOKEN)}


_SHAPES = {
    "gemma4v": _vision,
    "gemma4uv": _vision_unified,
    "gemma4a": _conformer,
    "gemma4ua": _audio_unified,
}
