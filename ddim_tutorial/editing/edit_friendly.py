r"""Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2023, arXiv:2304.06140): noises of a
stochastic sampler that make a given picture.

The states are drawn independently, :math:`x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,
\tilde\epsilon_t` with a new noise at each t (Eq. 6), and the noises z of the steps between them
follow: :math:`z = (x_s - \mu(x_t)) / \sigma` (Eq. 5). They are larger than standard normal ones.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..inversion.result import door
from ..noise import Generators, randn
from ..predict import EpsModel, Images, add_noise, predicted_eps
from ..require import require_eta, require_generator, require_images
from ..sampling import Past, Step, ddim_sigma, ddim_step, walk
from ..schedule import Schedule


class EditFriendly(NamedTuple):
    """A picture as a path and the noises that lead along it.

    times: decreasing. states: (S + 1, B, *dims), x at each of them. noises: (S, B, *dims), z of
    each step, in units of its sigma; where that is 0, on the step into s = 0, in units of x_0. eta:
    of the sampler, 1 is DDPM.
    """

    times: list[int]
    states: Float[Tensor, "S_plus_1 B *dims"]
    noises: Float[Tensor, "S B *dims"]
    eta: float


def _std(schedule: Schedule, t: int, s: int, eta: float) -> tuple[float, float]:
    """sigma of the step, and what its noise is multiplied with."""
    sigma = float(ddim_sigma(schedule.level(t), schedule.level(s), eta))
    return sigma, sigma or 1.0


def invert_edit_friendly(
    model: EpsModel,
    x_0: Images,
    times: Sequence[int],
    schedule: Schedule,
    *,
    eta: float = 1.0,
    generator: Generators = None,
) -> EditFriendly:
    """Draw a noisy state for every time, then find the noises between them: one evaluation a step.

    x_0: (B, *dims), the state at times[-1]. times: the decreasing grid. eta: above 0 to 1 (DDPM),
    DDIM's Eq. 16. generator: one, or one per image. With the noises :func:`replay` gives x_0 back
    exactly.

    Raises ValueError for eta = 0, which leaves no noise to find, and as ``invert`` does.
    """
    x_0, up = door(x_0, times, schedule)
    grid = up[::-1]
    require_eta(grid, schedule.alpha_bar, eta, False)
    require_generator(generator, len(x_0))
    if eta == 0:
        raise ValueError("eta=0: a deterministic sampler has no noises; pass eta=1, or use invert")
    states = [_noised(x_0, t, grid[-1], schedule, generator) for t in grid[:-1]]
    states.append(x_0)
    noises = []
    with torch.no_grad():
        for i, (t, s) in enumerate(pairwise(grid)):
            sigma, std = _std(schedule, t, s, eta)
            eps = predicted_eps(model, states[i], t)
            mu, _ = ddim_step(states[i], eps, schedule.level(t), schedule.level(s), sigma=sigma)
            noises.append((states[i + 1] - mu) / std)
            states[i + 1] = mu + std * noises[i]  # as replay rounds it, so that nothing adds up
    require_images("the noises", torch.cat(noises))
    return EditFriendly(grid, torch.stack(states), torch.stack(noises), eta)


def _noised(x: Tensor, t: int, end: int, schedule: Schedule, generator: Generators) -> Tensor:
    """A draw of x_t given the state x at ``end``."""
    noise = randn(x.shape, generator, device=x.device, dtype=x.dtype)
    return add_noise(x, noise, schedule.level(t) / schedule.level(end))


def replay(
    model: EpsModel, found: EditFriendly, schedule: Schedule, *, enter: int | None = None
) -> Iterator[Step]:
    """Sample with the noises of ``found``: the same model gives its picture back, another one an
    edit of it.

    enter: the time of ``found.times`` at whose state to begin, None for the first; the later, the
    more of the picture stays (T_skip in the paper). Yields every Step as ``trajectory`` does.
    """
    first = found.times[0] if enter is None else enter
    if first not in found.times[:-1]:
        raise ValueError(f"enter={enter!r}: pass one of the times {found.times[:-1]}")
    skipped = found.times.index(first)
    noises = dict(zip(found.times[:-1], found.noises, strict=True))

    def rule(t: int, s: int, x_t: Tensor, eps: Tensor, past: Past | None) -> tuple[Tensor, Tensor]:
        sigma, std = _std(schedule, t, s, found.eta)
        mu, x0_hat = ddim_step(x_t, eps, schedule.level(t), schedule.level(s), sigma=sigma)
        return mu + std * noises[t], x0_hat

    return walk(model, found.states[skipped], found.times[skipped:], rule)
