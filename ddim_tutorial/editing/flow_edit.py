r"""FlowEdit (Kulikov et al. 2024, arXiv:2412.08629, Algorithm 1) for noise models: an edit without
inversion.

In :math:`\rho = \sqrt{1-\bar\alpha}/\sqrt{\bar\alpha}` the probability-flow equation is
:math:`d(x/\sqrt{\bar\alpha}) = \epsilon\,d\rho`. The difference D of the edited to the given
picture moves along the difference of two such flows, both asked under the same noise:
:math:`dD = [\epsilon_{target}(x_t + \sqrt{\bar\alpha_t} D) - \epsilon_{source}(x_t)]\,d\rho` with
:math:`x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,z`, z new in each step.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch

from ..inversion.result import door
from ..noise import Generators, randn
from ..predict import EpsModel, Images, add_noise, predicted_eps
from ..require import require_generator
from ..schedule import Schedule


def flow_edit(
    source: EpsModel,
    target: EpsModel,
    x_0: Images,
    times: Sequence[int],
    schedule: Schedule,
    *,
    generator: Generators = None,
) -> Images:
    """x_0 edited from what ``source`` models to what ``target`` does: two evaluations a step.

    x_0: (B, *dims). times: decreasing; where they begin decides how much is edited (n_max in the
    paper). generator: one, or one per image. One noise a step (n_avg = 1 in the paper).
    """
    x_0, up = door(x_0, times, schedule)
    require_generator(generator, len(x_0))
    D = torch.zeros_like(x_0)
    with torch.no_grad():
        for t, s in pairwise(up[::-1]):
            ab_t = schedule.level(t)
            noise = randn(x_0.shape, generator, device=x_0.device, dtype=x_0.dtype)
            x_t = add_noise(x_0, noise, ab_t)
            moved = predicted_eps(target, x_t + math.sqrt(ab_t) * D, t)
            still = predicted_eps(source, x_t, t)
            D = D + (_rho(schedule.level(s)) - _rho(ab_t)) * (moved - still).to(D.dtype)
    return x_0 + D


def _rho(ab: float) -> float:
    return math.sqrt((1 - ab) / ab)
