"""log(1 + exp(x)) in float32 with the very bits of PyTorch's softplus, which llama.cpp's converter uses.

PyTorch computes 32 numbers at a time with SLEEF's expf and log1pf (sleefsimdsp.c, error below 1 ulp; called
in ATen/native/cpu/Activation.cpp). Both are spelled out here in float32 steps, each rounded as theirs are.
What is left of a length that is no multiple of 32 goes to the platform's C library there, to the nearest
float32 here.
"""

from __future__ import annotations

import numpy as np

_GROUP = 32
# Above it PyTorch returns x itself.
_LINEAR_FROM = np.float32(20)

_LOG2_E = np.float32(1.442695040888963407)
_LN2_HIGH, _LN2_LOW = np.float32(0.693145751953125), np.float32(1.428606765330187045e-06)
_EXP = tuple(
    map(
        np.float32,
        (0.000198527617612853646, 0.00139304355252534151, 0.00833336077630519867, 0.0416664853692054749,
         0.166666671633720398, 0.5),
    )
)  # fmt: skip
_LN2, _LN2_REST = np.float32(0.69314718246459960938), np.float32(-1.904654323148236017e-09)
_LOG = tuple(map(np.float32, (0.3027294874, 0.3996108174, 0.6666694880)))
_ONE, _TWO = np.float32(1), np.float32(2)


def softplus(x: np.ndarray) -> np.ndarray:
    """Softplus of a float32 array, row by row as one sequence.

    Args:
        x: float32, any shape.

    Returns:
        float32 of the same shape.
    """
    flat = np.minimum(x.reshape(-1), _LINEAR_FROM)
    whole = len(flat) - len(flat) % _GROUP
    result = np.empty_like(flat)
    result[:whole] = _log1p(_exp(flat[:whole]))
    rest = np.exp(flat[whole:].astype(np.float64)).astype(np.float32)
    result[whole:] = np.log1p(rest.astype(np.float64))
    return np.where(x > _LINEAR_FROM, x, result.reshape(x.shape))


def _fma(a: np.ndarray, b: np.ndarray | np.float32, c: np.ndarray | np.float32) -> np.ndarray:
    """a·b + c rounded once: the product of two float32 is exact in float64."""
    product = np.multiply(a, b, dtype=np.float64)
    return np.add(product, c, dtype=np.float64).astype(np.float32)


def _exp(x: np.ndarray) -> np.ndarray:
    """SLEEF's expf_u10: x = q·ln2 + s, and a polynomial in s."""
    x = np.maximum(x, np.float32(-104))
    q = np.rint(x * _LOG2_E)
    s = _fma(q, -_LN2_LOW, _fma(q, -_LN2_HIGH, x))
    u = np.full_like(s, _EXP[0])
    for coefficient in _EXP[1:]:
        u = _fma(u, s, coefficient)
    return np.ldexp(_ONE + _fma(s * s, u, s), q.astype(np.int32))


def _log1p(x: np.ndarray) -> np.ndarray:
    """SLEEF's log1pf_u10: 1 + x = 2^e (1 + m), with sums in pairs of float32 (head, tail)."""
    e = np.frexp((x + _ONE) * np.float32(1 / 0.75))[1] - 1
    scale = np.ldexp(_ONE, -e)
    m = _fma(x, scale, scale - _ONE)
    e = e.astype(np.float32)
    head = e * _LN2
    tail = _fma(e, _LN2_REST, _fma(e, _LN2, -head))
    # r = m / (2 + m)
    divisor = _TWO + m
    divisor_tail = (_TWO - divisor) + m
    inverse = _ONE / divisor
    r = m * inverse
    remainder = _fma(-divisor_tail, inverse, _fma(-divisor, inverse, _ONE))
    r_tail = _fma(r, remainder, _fma(inverse, m, -r))
    square = r * r
    t = _fma(np.full_like(r, _LOG[0]), square, _LOG[1])
    t = _fma(t, square, _LOG[2])
    # e·ln2 + 2r, then + r³·t
    total = head + r * _TWO
    total_tail = (((head - total) + r * _TWO) + tail) + r_tail * _TWO
    cubic = square * r * t
    result = total + cubic
    return result + (((total - result) + cubic) + total_tail)
