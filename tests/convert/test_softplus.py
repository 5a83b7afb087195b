"""Softplus against PyTorch, bit by bit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gemma4_gguf.convert.softplus import softplus

# What torch 2.13 answers, bit by bit: 32 numbers at once, and 16 of them alone.
SOFTPLUS_OF = (
    -4.5, -3.0, -2.25, -1.5, -1.25, -1.0, -0.875, -0.75, -0.625, -0.5, -0.4765625, -0.375, -0.25, -0.125,
    -0.0625, -0.0, 0.0625, 0.125, 0.25, 0.375, 0.45507812, 0.5, 0.625, 0.75, 0.875, 1.0, 1.5, 2.25, 3.0, 4.5,
    12.0, 25.0,
)  # fmt: skip
SOFTPLUS_BITS = (
    0x3C35019A, 0x3D470388, 0x3DCD3918, 0x3E4E3F49, 0x3E80FCD9, 0x3EA063D6, 0x3EB26754, 0x3EC613F5,
    0x3EDB7EA8, 0x3EF2BA38, 0x3EF74A80, 0x3F05EB68, 0x3F1370C4, 0x3F21F203, 0x3F299217, 0x3F317218,
    0x3F399217, 0x3F41F202, 0x3F5370C4, 0x3F65EB67, 0x3F72442F, 0x3F795D1C, 0x3F86DFAA, 0x3F9184FD,
    0x3F9C99D5, 0x3FA818F5, 0x3FD9C7E9, 0x401669C9, 0x40431C0E, 0x40905A81, 0x41400006, 0x41C80000,
)  # fmt: skip


def test_softplus_has_the_bits_of_torch() -> None:
    x = np.array(SOFTPLUS_OF, dtype=np.float32)
    assert softplus(x.reshape(1, -1)).view(np.uint32).tolist() == [list(SOFTPLUS_BITS)]
    assert softplus(x[3:19]).view(np.uint32).tolist() == list(SOFTPLUS_BITS[3:19])
    wide = np.linspace(-90, 30, 4001, dtype=np.float32)
    exact = [math.log1p(math.exp(v)) for v in wide.tolist()]
    np.testing.assert_allclose(softplus(wide), exact, rtol=3e-7, atol=1e-38)


@pytest.mark.reference
def test_softplus_equals_torch_everywhere() -> None:
    torch = pytest.importorskip("torch")
    bits = np.arange(0x10000, dtype=np.uint32) << 16
    x = bits.view(np.float32)
    x = x[np.abs(x) < 80]
    x = np.concatenate([x, np.random.default_rng(0).normal(0, 3, 1_000_000).astype(np.float32)])
    x = x[: len(x) // 32 * 32]
    expected = torch.nn.functional.softplus(torch.from_numpy(x)).numpy()
    assert (softplus(x).view(np.uint32) != expected.view(np.uint32)).sum() == 0
