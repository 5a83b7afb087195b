"""Softplus function: log(1 + exp(x)) in float32, bit for bit as PyTorch's, which llama.cpp's converter uses.

PyTorch computes 32 numbers at a time with SLEEF's expf and log1pf (sleefsimdsp.c, error below 1 ulp; called
in ATen/native/cpu/Activation.cpp). Both are spelled out here in float32 steps, each rounded as theirs are.
What is left of a length that is no multiple of 32 goes to the platform's C library there, and is computed
here as glibc before 2.41 does (fdlibm, s_log1pf.c); real models have no such rest.
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
_LIBM_LN2_HIGH, _LIBM_LN2_LOW = np.float32(6.9313812256e-01), np.float32(9.0580006145e-06)
_LIBM_LOG = tuple(
    map(
        np.float32,
        (1.4798198640e-01, 1.5313838422e-01, 1.8183572590e-01, 2.2222198546e-01, 2.8571429849e-01,
         4.0000000596e-01, 6.6666668653e-01),
    )
)  # fmt: skip
_SQRT2_BITS = 0x3504F7  # fraction of a float32 from which it is nearer to the next power of two
_HALF, _ONE, _TWO = np.float32(0.5), np.float32(1), np.float32(2)


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
    # glibc's expf is the nearest float32 but for one case in a thousand.
    result[whole:] = _log1p_libm(np.exp(flat[whole:].astype(np.float64)).astype(np.float32))
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


def _log1p_libm(x: np.ndarray) -> np.ndarray:
    """fdlibm's log1pf for x ≥ 0: 1 + x = 2^k (1 + f), and log(1 + f) from s = f / (2 + f)."""
    u = _ONE + x
    bits = u.view(np.int32)
    fraction = bits & 0x7FFFFF
    above = fraction >= _SQRT2_BITS
    k = (bits >> 23) - 127
    correction = np.where(k > 0, _ONE - (u - x), x - (u - _ONE)) / u
    f = (fraction | np.where(above, 0x3F000000, 0x3F800000)).astype(np.int32).view(np.float32) - _ONE
    small = x.view(np.int32) < 0x3ED413D7  # below sqrt(2) - 1 the power is 1 and nothing is lost in 1 + x
    k = np.where(small, 0, k + above).astype(np.float32)
    f, correction = np.where(small, x, f), np.where(small, 0, correction).astype(np.float32)
    half = _HALF * f * f
    s = f / (_TWO + f)
    z = s * s
    r = np.full_like(z, _LIBM_LOG[0])
    for coefficient in _LIBM_LOG[1:]:
        r = coefficient + z * r
    tail = s * (half + z * r)
    powers = k * _LIBM_LN2_HIGH - ((half - (tail + (k * _LIBM_LN2_LOW + correction))) - f)
    return np.where(k == 0, f - (half - tail), powers)
