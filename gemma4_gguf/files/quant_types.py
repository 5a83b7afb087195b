"""Quantization types that a file can be asked for, by name."""

from __future__ import annotations

from dataclasses import dataclass

from gemma4_gguf.errors import QuantTypeError

PROJECTOR_QUANTS = ("F32", "F16", "BF16", "Q8_0")


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

    Raises:
        QuantTypeError: there is no such type; the message lists the known ones.
    """
    known = PROJECTOR_QUANTS if projector else tuple(MODEL_TYPES)
    key = name.upper()
    if key not in known:
        what = "projector type" if projector else "quantization type"
        raise QuantTypeError(f"{name!r} is no {what}; expected one of {', '.join(known)}.")
    return MODEL_TYPES[key]
