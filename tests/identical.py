"""Equal to the last bit: types, order of keys, payloads of nan and signs of zero included."""

import struct
from typing import Any

import numpy as np
import torch


def assert_identical(first: Any, second: Any) -> None:
    """Compare two nests of plain values, tensors and arrays."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype
        assert first.shape == second.shape
        # Compared as bytes: nan payloads and the sign of zero count.
        assert _bytes_of(first) == _bytes_of(second)
    elif isinstance(first, (np.ndarray, np.generic)):
        assert (first.dtype, first.shape, first.tobytes()) == (second.dtype, second.shape, second.tobytes())
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_identical(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for ours, theirs in zip(first, second, strict=True):
            assert_identical(ours, theirs)
    elif isinstance(first, float):
        assert struct.pack("<d", first) == struct.pack("<d", second)
    else:
        assert first == second


def _bytes_of(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return plain.as_strided((plain.numel(),), (1,)).view(torch.uint8).numpy().tobytes()
