"""A device without float64, as Apple's GPU is. The CPU plays its part: what it is asked for in
float64 is refused, but for the numbers of the schedule, which live on the CPU by right."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ddim_tutorial import (
    analytic,
    cosine,
    eps_from_v,
    invert,
    invert_fixed_point,
    jump,
    randn,
    sample,
    slerp,
    times,
)
from ddim_tutorial import schedule as schedules
from ddim_tutorial.pixel import eps_model
from parts import relative

SCHEDULE = cosine()
GRID = times(1000, 5)


class NoFloat64(TorchDispatchMode):
    """Refuses every float64 tensor but numbers and the schedule itself."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, torch.Tensor) and x.dtype == torch.float64 and x.dim():
                if x.shape != SCHEDULE.alpha_bar.shape:  # the schedule itself
                    raise TypeError(f"{func}: this device has no float64")
        return out


def model(x_t, t):
    """In float32, as a network is: the exact eps of N(0, .7^2 I)."""
    ab = SCHEDULE.at(t, x_t)
    return (1 - ab).sqrt() * x_t / (ab * 0.49 + 1 - ab)


class Network(torch.nn.Module):
    def forward(self, x, timestep):
        return torch.tanh(x) + timestep.view(-1, 1, 1, 1) / 1000


def v_network():
    return eps_model(Network(), prediction="v_prediction", schedule=SCHEDULE)


X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
T = torch.tensor([7, 600])
CALLS = {
    "a time for each image": lambda: SCHEDULE.at(T, X),
    "jump": lambda: jump(model, X, T, SCHEDULE),
    "slerp": lambda: slerp(X, X.flip(0), 0.3),
    "sample": lambda: sample(model, X, GRID, SCHEDULE),
    "sample, eta": lambda: sample(
        model, X, GRID, SCHEDULE, eta=1.0, generator=torch.Generator().manual_seed(1)
    ),
    "naive inversion": lambda: invert(model, X, GRID, SCHEDULE).x_T,
    "fixed point": lambda: invert_fixed_point(model, X, GRID, SCHEDULE, tol=1e-4).x_T,
    "a v network": lambda: jump(v_network(), X, 500, SCHEDULE),
    "a v network's loop": lambda: sample(v_network(), X, [500, 300, 0], SCHEDULE),
    "v by hand": lambda: eps_from_v(X, X, SCHEDULE.at(T, X)),
    "noise": lambda: randn((2, 3), torch.Generator().manual_seed(1)),
}


@pytest.mark.parametrize("call", list(CALLS))
def test_everything_works_without_float64(call, monkeypatch):
    wanted = CALLS[call]()
    monkeypatch.setattr(schedules, "NO_FLOAT64", {"cpu"})
    with NoFloat64():
        seen = CALLS[call]()
    assert relative(seen, wanted) <= 2e-5


def test_the_stand_in_refuses():
    """Where the device is not known to lack float64, it is asked for it and refuses."""
    with NoFloat64(), pytest.raises(TypeError, match="no float64"):
        slerp(X, X.flip(0), 0.3)


@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_closed_forms_go_to_the_cpu_and_come_back(kind, monkeypatch):
    """They need float64, and are asked on the CPU where the device has none."""
    moved = []
    monkeypatch.setattr(schedules, "NO_FLOAT64", {"cpu"})
    monkeypatch.setattr(torch.Tensor, "cpu", lambda x: moved.append(x.shape) or x)
    means = torch.zeros(3, 3, 4, 4)
    exact = {
        "gaussian": lambda: analytic.gaussian(0.3, 0.7, SCHEDULE),
        "mixture": lambda: analytic.mixture(means, 0.7, torch.ones(3), SCHEDULE),
    }[kind]()
    moved.clear()
    assert exact(X, T).dtype == torch.float32 and X.shape in moved
