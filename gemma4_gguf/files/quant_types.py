"""Quantization types by name: those that a file can be asked for, and those that file names end in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gemma4_gguf.errors import QuantTypeError

PROJECTOR_QUANTS = ("BF16", "F16", "F32", "Q8_0")  # best first: BF16 is what the audio tower wants

# Types of other tools, too: their files are opened and paired, even if this library writes none such.
_TYPE_IN_NAME = re.compile(
    r"(?:^|[-_.])((?:UD-)?(?:I?Q[1-8](?!\d)\w*|TQ[12]_0|MXFP4\w*|NVFP4\w*|BF16|F16|F32))$", re.I
)
_PART_IN_NAME = re.compile(r"-\d{5}-of-\d{5}$", re.I)
_PROJECTOR_IN_NAME = re.compile(r"^mmproj[-_.]?|[-_.]?mmproj", re.I)


@dataclass(frozen=True)
class QuantType:
    """An output type a user can ask for.

    Args:
        name: as asked for and as written into file names.
        file_type: number of llama.cpp's llama_ftype, stored as general.file_type. A mix of our own has none:
            it stores that of the nearest type, and its name as general.gemma4.recipe.
        base: ggml type of a tensor that no rule treats specially.
    """

    name: str
    file_type: int
    base: str

    @property
    def by_converter(self) -> bool:
        """Whether upstream's converter writes this type itself."""
        return self.name in PROJECTOR_QUANTS


QUANT_TYPES = {
    quant.name: quant
    for quant in (
        QuantType("F32", 0, "F32"),
        QuantType("F16", 1, "F16"),
        QuantType("BF16", 32, "BF16"),
        QuantType("Q8_0", 7, "Q8_0"),
        QuantType("Q6_K", 18, "Q6_K"),
        QuantType("Q5_K_M", 17, "Q5_K"),
        QuantType("Q5_K_S", 16, "Q5_K"),
        QuantType("Q5_0", 8, "Q5_0"),
        QuantType("Q4_K_M", 15, "Q4_K"),
        QuantType("Q4_K_S", 14, "Q4_K"),
        QuantType("Q4_0", 2, "Q4_0"),
        QuantType("IQ4_NL", 25, "IQ4_NL"),
        QuantType("IQ4_XS", 30, "IQ4_XS"),
        QuantType("Q3_K_M", 12, "Q3_K"),
        QuantType("Q3_K_S", 11, "Q3_K"),
        QuantType("Q2_K", 10, "Q2_K"),
    )
}
# Mixes of our own, which other tools do not write but read like any other file.
COMPACT = QuantType("Q4_COMPACT", 14, "Q4_K")
RECIPE_KEY = "general.gemma4.recipe"
MODEL_TYPES = {**QUANT_TYPES, COMPACT.name: COMPACT}


def quant_type(name: str, *, projector: bool = False) -> QuantType:
    """Looks up an output type by name, in any case.

    Args:
        name: such as "Q4_K_M".
        projector: of a projector, which has fewer types.

    Returns:
        The type.

    Raises:
        QuantTypeError: there is no such type; the message lists the known ones.
    """
    known = PROJECTOR_QUANTS if projector else tuple(MODEL_TYPES)
    key = name.upper()
    if key not in known:
        what = "projector type" if projector else "quantization type"
        raise QuantTypeError(f"{name!r} is no {what}; expected one of {', '.join(known)}.")
    return MODEL_TYPES[key]


@dataclass(frozen=True)
class FileName:
    """What the name of a GGUF file says, by the rules that all llama.cpp apps share.

    Args:
        model: the model it belongs to, without type, "mmproj" and number of the part; may be empty.
        quant: its type in capitals, such as "Q4_K_M" or "UD-IQ2_XXS"; None if it names none.
        is_projector: it is a projector.
        is_part: it is one of several parts.
    """

    model: str
    quant: str | None
    is_projector: bool
    is_part: bool

    @property
    def projector_rank(self) -> int:
        """How good a projector of this type is: 0 is best, unknown types come last."""
        known = self.quant in PROJECTOR_QUANTS
        return PROJECTOR_QUANTS.index(str(self.quant)) if known else len(PROJECTOR_QUANTS)


def read_name(path: str | Path) -> FileName:
    """Reads the name of a GGUF file; folders and the ending do not count.

    Args:
        path: of a file, which need not be there.

    Returns:
        What the name says.
    """
    whole = Path(path).stem
    name = _PART_IN_NAME.sub("", whole)
    model = _PROJECTOR_IN_NAME.sub("", name)
    match = _TYPE_IN_NAME.search(model)
    return FileName(
        model=model[: match.start()] if match else model,
        quant=match[1].upper() if match else None,
        is_projector="mmproj" in name.lower(),
        is_part=name != whole,
    )


def name_with(quant: QuantType, path: str | Path) -> str:
    """The name of a GGUF file once it is of another type.

    Args:
        quant: the type.
        path: of the file.

    Returns:
        Such as "mmproj-gemma-BF16.gguf".
    """
    rest = _TYPE_IN_NAME.sub("", Path(path).stem)
    return f"{rest}-{quant.name}.gguf" if rest else f"{quant.name}.gguf"
