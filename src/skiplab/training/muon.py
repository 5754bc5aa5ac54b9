"""Muon: steepest descent under the spectral norm, for filters (Jordan et al. 2024)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

# a, b, c: a s + b s^3 + c s^5 pulls every singular value s of (0, 1] towards 1, small ones fast.
QUINTIC = (3.4445, -4.7750, 2.0315)
EPS = 1e-7


def orthogonalize(matrix: Tensor, *, iterations: int) -> Tensor:
    """Return about U V^T of matrix = U S V^T, (M, N), by Newton-Schulz with a quintic.

    After 3 to 5 iterations the singular values are near 1, not at it. On CUDA it computes in
    bfloat16, as the iteration allows; elsewhere in the matrix's own precision.
    """
    a, b, c = QUINTIC
    x = matrix.bfloat16() if matrix.is_cuda else matrix
    x = x / (x.norm() + EPS)
    is_tall = x.size(0) > x.size(1)
    x = x.T if is_tall else x
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if is_tall else x).to(matrix.dtype)


def muon_rule(
    *, momentum: float, nesterov: bool, iterations: int, compiled: bool
) -> Callable[..., None]:
    """Make Muon: b <- momentum b + g; w <- sqrt(out) w / |w| - lr orthogonalize(b).

    With Nesterov g + momentum b is orthogonalized. Filters are (out, in, H, W), and as matrices
    (out, in * H * W).
    """

    whiten = torch.compile(orthogonalize, dynamic=False) if compiled else orthogonalize

    def update(
        params: Sequence[nn.Parameter],
        states: Sequence[dict[str, Tensor]],
        *,
        lr: float,
        grad_scale: Tensor | None,
        **_: object,
    ) -> None:
        assert grad_scale is None, "the scaler has unscaled the gradients before"
        for p, state in zip(params, states, strict=True):
            gradient = p.grad
            assert gradient is not None
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            average = state["momentum_buffer"].mul_(momentum).add_(gradient)
            direction = gradient.add(average, alpha=momentum) if nesterov else average
            p.mul_(len(p) ** 0.5 / p.norm())
            p.add_(
                whiten(direction.reshape(len(p), -1), iterations=iterations).reshape(p.shape),
                alpha=-lr,
            )

    return update
