"""How exact arithmetic must be: compared with plain torch, so that no tolerance is ever tuned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def assert_error_ratio(ours: Tensor, baseline: Tensor, exact: Tensor, ratio: float = 2.0) -> None:
    """Our error against fp64 is at most `ratio` times that of plain torch in the same dtype, plus one rounding step."""
    assert ours.shape == baseline.shape == exact.shape
    assert ours.dtype == baseline.dtype
    assert exact.isfinite().all(), "the case itself is broken"
    if exact.numel() == 0:
        return
    error, torch_error = ((x.double() - exact).abs().max() for x in (ours, baseline))
    allowed = ratio * torch_error + torch.finfo(ours.dtype).eps * exact.abs().max()
    assert error <= allowed, f"error {error:.2e}, plain torch {torch_error:.2e}, allowed {allowed:.2e}"  # NaN fails


def assert_same_bits(ours: Tensor, expected: Tensor) -> None:
    """Equal in shape, dtype and every bit: NaN equals itself, 0.0 is not -0.0."""
    assert (ours.shape, ours.dtype, ours.device) == (expected.shape, expected.dtype, expected.device)
    integer = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[ours.element_size()]
    assert torch.equal(ours.contiguous().view(integer), expected.contiguous().view(integer))


def assert_equal_on(device: torch.device, outputs: Sequence[Tensor], references: Sequence[Tensor]) -> None:
    """Contiguous, on the device, and equal to references on the CPU."""
    for ours, reference in zip(outputs, references, strict=True):
        torch.testing.assert_close(ours.cpu(), reference, rtol=0, atol=0)
        assert ours.is_contiguous()
        assert ours.device.type == device.type
