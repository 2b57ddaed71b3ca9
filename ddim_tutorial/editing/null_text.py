r"""Null-text optimisation (Mokady et al. 2022, arXiv:2211.09794): an empty prompt for each step
that makes guided sampling follow the path of the inversion without guidance.

At each step from t to s the states of the empty prompt are moved so that the guided step ends in
the path's z_s (Eq. 4 there): :math:`\min_\varnothing \|z^*_s - z_s(\bar z_t, \varnothing, C)\|^2`.

Negative-prompt inversion (Miyake et al. 2023, arXiv:2305.16807) takes the source prompt itself as
the empty one, without optimising: ``from_pipeline(pipe, target, negative_prompt=source)``. With
target = source guidance then does nothing, whatever its scale.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..guidance import cfg_batched
from ..inversion import Inversion, invert
from ..inversion.result import door
from ..latent import LatentSpace
from ..predict import EpsModel, Images, predicted_eps
from ..require import require_images, require_int, require_positive, require_scale
from ..sampling import ddim_step
from ..schedule import Schedule


class NullText(NamedTuple):
    """What null-text optimisation found.

    z_T: (B, *dims), where the path begins. times: decreasing. null_conditions: (S, B, tokens, dim),
    the empty prompt of each step. loss: (S, B), mean square distance to the path's z_s after each.
    evaluations: network calls on the batch, for the path and for the optimisation; gradients: how
    many of them were followed by a backward pass.
    """

    z_T: Tensor
    times: list[int]
    null_conditions: Float[Tensor, "S B tokens dim"]
    loss: Float[Tensor, "S B"]
    evaluations: int
    gradients: int


def invert_null_text(
    space: LatentSpace,
    z_0: Images,
    times: Sequence[int],
    scale: float,
    *,
    iterations: int = 10,
    lr: float = 0.01,
    tol: float = 1e-5,
    method: Callable[..., Inversion] = invert,
) -> NullText:
    """Find the path of z_0 at scale 1, then the empty prompts that follow it at ``scale``.

    space: of the prompts of z_0, one for all or one for each, at any scale. z_0: (B, 4, h, w).
    times: the decreasing grid. scale: of the guidance to come. iterations: of Adam, a step, at
    most; it stops where each picture's loss is below ``tol``. lr: Adam's; the paper has 0.01,
    falling, and ten iterations. method: the inversion that finds the path, naive in the paper.

    A picture does not depend on the others of its batch but for when the iterations stop.
    """
    require_scale(scale)
    require_int("iterations", iterations, 0)
    for name, value in (("lr", lr), ("tol", tol)):
        require_positive(name, value)
    z, up = door(z_0, times, space.schedule)
    conditional = cfg_batched(space.network, space.condition, space.null_condition, 1.0)
    path, evaluations = [z], 0
    for s, t in pairwise(up):
        found = method(conditional, path[-1], [t, s], space.schedule)
        path.append(found.x_T)
        evaluations += found.evaluations
    z, grid = path[-1], up[::-1]
    null = space.null_condition.float().expand(len(z), -1, -1).clone()
    nulls, losses, gradients = [], [], 0
    for i, (t, s) in enumerate(pairwise(grid)):
        step = _GuidedStep(space.network, conditional, z, t, s, space.schedule, scale)
        null, asked, learnt = step.optimise(null, path[-2 - i], iterations, lr, tol)
        with torch.no_grad():
            z = step(null)
        nulls.append(null)
        losses.append(_error(z, path[-2 - i]))
        evaluations, gradients = evaluations + 2 + asked, gradients + learnt
    require_images("the state that null-text optimisation ends in", z)
    return NullText(path[-1], grid, torch.stack(nulls), torch.stack(losses), evaluations, gradients)


def _error(z: Tensor, wanted: Tensor) -> Float[Tensor, " B"]:
    return (z - wanted).square().flatten(1).mean(1)


class _GuidedStep:
    """One step from (z, t) to s as a function of the empty prompt; the prompt's own eps is asked
    once."""

    def __init__(
        self,
        network: Callable[[Tensor, Tensor, Tensor], Tensor],
        conditional: EpsModel,
        z: Tensor,
        t: int,
        s: int,
        schedule: Schedule,
        scale: float,
    ):
        self.network, self.z, self.t, self.scale = network, z, t, scale
        self.levels = schedule.level(t), schedule.level(s)
        with torch.no_grad():
            self.eps_c = predicted_eps(conditional, z, t)

    def __call__(self, null: Tensor) -> Tensor:
        eps_u = predicted_eps(lambda z, t: self.network(z, t, null), self.z, self.t)
        eps = eps_u + self.scale * (self.eps_c - eps_u)
        return ddim_step(self.z, eps, *self.levels)[0]

    def optimise(
        self, null: Tensor, wanted: Tensor, iterations: int, lr: float, tol: float
    ) -> tuple[Tensor, int, int]:
        """``null`` after at most ``iterations`` steps of Adam, the evaluations, and the steps."""
        null = null.clone().requires_grad_()
        adam = torch.optim.Adam([null], lr=lr)
        for done in range(iterations):
            with torch.enable_grad():
                error = _error(self(null), wanted)
            if bool((error < tol).all()):
                return null.detach(), done + 1, done
            (null.grad,) = torch.autograd.grad(error.sum(), null)
            adam.step()
        return null.detach(), iterations, iterations


def null_text_model(space: LatentSpace, found: NullText, scale: float) -> EpsModel:
    """The noise model guided from the empty prompts of ``found``: with its own prompts it samples
    the picture from ``found.z_T``, with others an edit of it.

    space: of the prompts to sample with, one for each picture or one for all; with one picture in
    ``found`` any number of prompts. Asked at another time than those of ``found`` it raises
    ValueError.
    """
    at = dict(zip(found.times[:-1], found.null_conditions, strict=True))
    models = {t: cfg_batched(space.network, space.condition, null, scale) for t, null in at.items()}

    def guided(z_t: Tensor, t: Tensor) -> Tensor:
        time = int(t.flatten()[0])
        if time not in models:
            raise ValueError(f"t={time}: there are empty prompts for the times {[*models]} alone")
        return models[time](z_t, t)

    return guided
