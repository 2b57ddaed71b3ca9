"""Muon: gradient descent whose update of each matrix is orthogonalised."""

import torch
from torch import Tensor, distributed, nn

COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of the Newton-Schulz iteration, as torch has them


def as_matrix(x: Tensor, like: Tensor) -> Tensor:
    """A convolution's weight or gradient x (out, in, h, w) as (out, h * w * in) or
    (out, in * h * w): the order in which the weight ``like`` lies in memory."""
    if like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    return x.reshape(len(x), -1)


def orthogonal(
    matrix: Tensor,
    coefficients: tuple[float, float, float] = COEFFICIENTS,
    steps: int = 5,
    eps: float = 1e-7,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """U V^T of a matrix U S V^T, (m, n), with singular values of 0.7 to 1.2 in place of 1:
    Newton-Schulz iterations, computed in ``dtype``. (torch's own are always in bf16, a hundred
    times slower than float32 on a processor that has to emulate it.)"""
    a, b, c = coefficients
    x = matrix.to(dtype)
    wide = len(x) <= x.size(1)
    x = x if wide else x.T
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.T).to(matrix.dtype)


def shared_orthogonal(matrices: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """:func:`orthogonal` of each matrix. In a launch of several processes, which all have the same
    matrices, each computes its share and sends it to the others."""
    several = distributed.is_available() and distributed.is_initialized()
    rank, count = (distributed.get_rank(), distributed.get_world_size()) if several else (0, 1)
    results = [
        orthogonal(matrix, dtype=dtype) if i % count == rank else torch.empty_like(matrix)
        for i, matrix in enumerate(matrices)
    ]
    if count > 1:
        for i, result in enumerate(results):
            distributed.broadcast(result, src=i % count)
    return results


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) with torch's defaults,
    for convolutions as well: each update is orthogonalised, so that what few examples ask for
    moves the weights as much as what many do.

    ``dtype`` is the precision of the orthogonalisation; the weights and their momentum keep
    theirs. Raises ValueError for a weight that is not one matrix in memory."""

    def __init__(
        self,
        weights: list[Tensor],
        lr: float,
        weight_decay: float,
        dtype: torch.dtype = torch.float32,
    ):
        self.weights, self.dtype = weights, dtype
        matrices = [nn.Parameter(as_matrix(weight.detach(), weight)) for weight in weights]
        for matrix, weight in zip(matrices, weights, strict=True):
            if matrix.data_ptr() != weight.data_ptr():
                raise ValueError(
                    f"weights: one of shape {tuple(weight.shape)} does not lie in memory as a"
                    " matrix; make it contiguous or channels_last"
                )
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": 0.95})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        group = self.param_groups[0]
        matrices, directions = [], []
        for matrix, weight in zip(group["params"], self.weights, strict=True):
            if weight.grad is None:
                continue
            gradient = as_matrix(weight.grad, weight)
            momentum = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(gradient))
            momentum.lerp_(gradient, 1 - group["momentum"])
            matrices.append(matrix)
            directions.append(gradient.lerp(momentum, group["momentum"]))
        for matrix, update in zip(matrices, shared_orthogonal(directions, self.dtype), strict=True):
            matrix.mul_(1 - group["lr"] * group["weight_decay"])
            as_large_as_adamw = 0.2 * max(matrix.shape) ** 0.5
            matrix.sub_(update, alpha=group["lr"] * as_large_as_adamw)
