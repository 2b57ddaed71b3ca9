"""FlowEdit between two Gaussians has a closed form: the same, whatever the noise."""

import math
from itertools import pairwise

import pytest
import torch

from ddim_tutorial import analytic, generators, scaled_linear, times
from ddim_tutorial.editing import flow_edit

SCHEDULE = scaled_linear()
STD = 0.3
MEANS = torch.tensor([[-0.5, 0.2, 1.0], [0.5, -1.0, 0.0]], dtype=torch.float64)
SOURCE, TARGET = (analytic.gaussian(mean, STD, SCHEDULE) for mean in MEANS)
X_0 = MEANS[0] + STD * torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).double()


def rho(t):
    return math.sqrt((1 - SCHEDULE.level(t)) / SCHEDULE.level(t))


@pytest.mark.parametrize("first", [0, 2, 7])
def test_between_two_gaussians(first):
    """eps = rho (x/sqrt(ab) - mean) / (std^2 + rho^2), so what is left of the way, D - (mean' -
    mean), shrinks by 1 + (rho_s - rho_t) rho_t / (std^2 + rho_t^2) in each step."""
    grid = times(1000, 10)[first:]
    left = 1.0
    for t, s in pairwise(grid):
        left *= 1 + (rho(s) - rho(t)) * rho(t) / (STD**2 + rho(t) ** 2)
    expected = X_0 + (1 - left) * (MEANS[1] - MEANS[0])
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        found = flow_edit(SOURCE, TARGET, X_0, grid, SCHEDULE, generator=generator)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_in_small_steps_it_goes_the_whole_way():
    """The integral of the same equation: all but std / sqrt(std^2 + rho_T^2) of it."""
    found = flow_edit(SOURCE, TARGET, X_0, times(1000, 1000), SCHEDULE)
    left = STD / math.sqrt(STD**2 + rho(1000) ** 2)
    torch.testing.assert_close(found, X_0 + (1 - left) * (MEANS[1] - MEANS[0]), rtol=0, atol=5e-3)


def test_the_same_model_twice_changes_nothing_and_each_step_has_a_new_noise():
    asked = []

    def noted(x, t):
        asked.append(x)
        return SOURCE(x, t)

    grid = times(1000, 5)
    found = flow_edit(noted, noted, X_0, grid, SCHEDULE, generator=generators(range(4)))
    torch.testing.assert_close(found, X_0, rtol=0, atol=0)
    assert len(asked) == 10
    noises = []
    for t, x_t in zip(grid, asked[::2], strict=False):
        ab = SCHEDULE.level(t)
        noises.append((x_t - ab**0.5 * X_0) / (1 - ab) ** 0.5)
    assert all((a - b).abs().min() > 1e-6 for a, b in pairwise(noises))
    again = flow_edit(SOURCE, SOURCE, X_0[1:2], grid, SCHEDULE, generator=generators([1]))
    torch.testing.assert_close(again, X_0[1:2])


def test_increasing_times_are_refused():
    with pytest.raises(ValueError, match="increase"):
        flow_edit(SOURCE, TARGET, X_0, [0, 500], SCHEDULE)
