"""Guidance as functions from noise models to noise models: the sampler does not know of it."""

from collections.abc import Callable

import torch
from jaxtyping import Shaped
from torch import Tensor

from .predict import EpsModel
from .require import require_like, require_scale
from .schedule import Schedule


def _combine(eps_u: Tensor, eps_c: Tensor, scale: float) -> Tensor:
    """eps_u + scale (eps_c - eps_u); Ho & Salimans' w is scale - 1 (arXiv:2207.12598, Eq. 6)."""
    require_like("the conditional model's eps", eps_c, eps_u)
    return eps_u + scale * (eps_c - eps_u)


def cfg(conditional: EpsModel, unconditional: EpsModel, scale: float) -> EpsModel:
    """Classifier-free guidance in two calls a step (Ho & Salimans 2022, arXiv:2207.12598, Eq. 6).

    scale: 1 is the conditional model, 0 the unconditional one, each with its one call; above 1
    extrapolates. What is no finite number is refused (ValueError).
    """
    require_scale(scale)
    if scale in (0, 1):
        return conditional if scale else unconditional
    return lambda x_t, t: _combine(unconditional(x_t, t), conditional(x_t, t), scale)


def cfg_batched(
    model: Callable[[Tensor, Tensor, Tensor], Tensor],
    condition: Shaped[Tensor, "..."],
    null_condition: Shaped[Tensor, "..."],
    scale: float,
) -> EpsModel:
    """:func:`cfg` in one call on a doubled batch: the form that Stable Diffusion's pipelines run.

    model(x_t, t, c) -> eps; condition, null_condition: (B, ...), or (1, ...) for the whole batch.
    """
    require_scale(scale)

    def rows(c: Tensor, batch: int) -> Tensor:
        if len(c) not in (1, batch):
            raise ValueError(
                f"a condition has {len(c)} rows for a batch of {batch}: pass {batch} rows, or one"
                " for all"
            )
        return c.expand(batch, *c.shape[1:])

    if scale in (0, 1):
        return lambda x_t, t: model(x_t, t, rows(condition if scale else null_condition, len(x_t)))

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        both = torch.cat([rows(null_condition, len(x_t)), rows(condition, len(x_t))])
        eps_u, eps_c = model(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        return _combine(eps_u, eps_c, scale)

    return guided


def classifier(
    model: EpsModel, log_prob: Callable[[Tensor, Tensor], Tensor], scale: float, schedule: Schedule
) -> EpsModel:
    r"""Classifier guidance (Dhariwal & Nichol 2021, arXiv:2105.05233, Algorithm 2):
    :math:`\hat\epsilon = \epsilon - s\sqrt{1-\bar\alpha_t}\,\nabla_{x_t} \log p(y \mid x_t)`.

    log_prob: (x_t, t) -> (B,), log p(y_i | x_t_i) of the wanted label of each image, which can be
    differentiated in x_t.
    scale: 0 is the plain model, 1 the posterior of a perfect classifier.
    """
    require_scale(scale)
    if scale == 0:
        return model

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            x = x_t.detach().clone().requires_grad_()
            values = log_prob(x, t.clone())
            if getattr(values, "shape", None) != t.shape or not values.requires_grad:
                raise ValueError(
                    f"log_prob returned {values!r:.60}, wanted shape {tuple(t.shape)}: one "
                    "log-probability per image, differentiable in x_t"
                )
            (grad,) = torch.autograd.grad(values.sum(), x)
        eps = model(x_t, t)
        require_like("the model's eps", eps, x_t)
        return eps - scale * (1 - schedule.at(t, x_t)).sqrt() * grad

    return guided
