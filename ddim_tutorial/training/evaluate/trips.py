"""The numbers of a row of the inversion tables: errors, costs, what was found of the noise."""

from typing import Any

import torch
from torch import Tensor

from ddim_tutorial.inversion import Inversion

Row = dict[str, Any]


def relative(x: Tensor, wanted: Tensor) -> Tensor:
    """(B,) relative errors in the 2-norm, float64."""
    x, wanted = x.flatten(1).double(), wanted.flatten(1).double()
    return (x - wanted).norm(dim=1) / wanted.norm(dim=1)


def spread(errors: Tensor) -> dict[str, float]:
    return {"median": errors.median().item(), "max": errors.max().item()}


def cost(found: Inversion, tol: float) -> Row:
    """Evaluations a step; of a method that solves an equation, what is solved and where not. A walk
    of one step has no others: None."""
    row: Row = {"evaluations a step": found.evaluations / len(found.per_step)}
    residuals = torch.stack([step.residual for step in found.per_step])  # steps, pictures
    if residuals.isnan().any():
        return row
    unsolved = (residuals > tol).any(1)
    worst = max(found.per_step, key=lambda step: step.residual.max().item())
    times = [step.t for step in found.per_step]
    return row | {
        "solved pictures": (residuals <= tol).all(0).double().mean().item(),
        "unsolved steps": [t for t, open_ in zip(times, unsolved, strict=True) if open_],
        "residual": found.residual,
        "worst step": [worst.s, worst.t],
        "residual of the first step": residuals[0].max().item(),
        "residual of the others": residuals[1:].max().item() if len(residuals) > 1 else None,
    }


def four_tests(x: Tensor) -> Row:
    """Mean, std, kurtosis and the correlation of neighbours (of pictures alone) over all x."""
    z = (x.double() - x.double().mean()) / x.double().std()
    row = {"mean": x.mean().item(), "std": x.std().item(), "kurtosis": (z**4).mean().item()}
    if x.dim() == 4:
        across, down = z[..., 1:] * z[..., :-1], z[..., 1:, :] * z[..., :-1, :]
        row["neighbours"] = ((across.mean() + down.mean()) / 2).item()
    return row


def recovered(x_T: Tensor, true: Tensor) -> Row:
    """What was found of the noise that a picture was drawn from."""
    both = torch.stack([x_T.flatten(), true.flatten()]).double()
    return {
        "relative error": spread(relative(x_T, true)),
        "std": x_T.std().item(),
        "correlation": torch.corrcoef(both)[0, 1].item(),
    }
