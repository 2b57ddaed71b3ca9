"""The loop reads nothing back from the device: it runs without values, is one graph, and counts no
host reads."""

import pytest
import torch
from diffusers import DDIMScheduler
from torch.utils._python_dispatch import TorchDispatchMode

from ddim_tutorial import analytic, guidance, invert, linear, sample, times, trajectory
from parts import relative, tiny_unet

SCHEDULE = linear()
GRID = times(1000, 10)
OPTIONS = [{}, {"eta": 0.5}, {"eta": 1.0, "sigma_hat": True}]


@pytest.fixture(autouse=True)
def without_the_type_checker():
    """Its own look at the arguments is neither traced nor counted."""
    from jaxtyping import config

    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)


def network(unet):
    return lambda x_t, t: unet(x_t, t - 1).sample


class HostReads(TorchDispatchMode):
    """Counts what a value on the device is fetched with: .item(), float(), bool(), tolist() of one
    number."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_whole_loop_runs_without_values(options):
    """On the meta device there is nothing to read: a loop that looks at a value raises."""
    unet = tiny_unet().to("meta")
    x_T = torch.randn(2, 2, 8, 8, device="meta")
    x_0 = sample(network(unet), x_T, GRID, SCHEDULE, **options)
    assert x_0.is_meta and x_0.shape == x_T.shape and x_0.dtype == torch.float32


def test_naive_inversion_and_guidance_run_without_values():
    model = network(tiny_unet().to("meta"))
    x_0 = torch.randn(2, 2, 8, 8, device="meta")
    guided = guidance.cfg(model, model, 3.0)
    assert invert(guided, x_0, GRID, SCHEDULE).x_T.is_meta
    assert invert(guided, x_0, GRID, SCHEDULE, eps_time="source").x_T.is_meta
    climbing = guidance.classifier(model, lambda x, t: x.sum((1, 2, 3)), 1.0, SCHEDULE)
    assert sample(climbing, x_0, GRID, SCHEDULE).is_meta


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_loop_reads_nothing_back(options, device):
    model = network(tiny_unet(device))
    walk = trajectory(model, torch.randn(2, 2, 8, 8).to(device), GRID, SCHEDULE, **options)
    with HostReads() as reads:
        steps = sum(1 for _ in walk)
    assert steps == 10 and reads.count == 0


def test_host_reads_are_counted():
    """The counter counts, and diffusers' scheduler is what it counts."""
    with HostReads() as reads:
        torch.ones(3).sum().item()
        bool(torch.ones(1) > 0)
    assert reads.count == 2
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(10)
    x = torch.randn(1, 2)
    with HostReads() as reads:
        for timestep in scheduler.timesteps:
            x = scheduler.step(x, timestep, x).prev_sample
    assert reads.count >= 10


@pytest.mark.parametrize("device_check", [pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device"))])  # fmt: skip
def test_the_loop_never_waits_for_the_gpu(device_check):
    model = network(tiny_unet(device_check))
    walk = trajectory(model, torch.randn(2, 2, 8, 8, device=device_check), GRID, SCHEDULE)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in walk:
            pass
    finally:
        torch.cuda.set_sync_debug_mode("default")


def smooth(x_t, t):
    """A stand-in for a network that costs dynamo no time."""
    return torch.tanh(x_t) + t.view(-1, 1, 1, 1) / 1000


class Convolution(torch.nn.Module):
    """The smallest network that eps_model takes."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x, timestep):
        return torch.tanh(self.conv(x)) + timestep.view(-1, 1, 1, 1) / 1000


def test_the_loop_is_one_graph(device):
    x_T, grid = torch.randn(2, 2, 8, 8).to(device), times(1000, 3)
    torch._dynamo.reset()
    report = torch._dynamo.explain(lambda x: sample(smooth, x, grid, SCHEDULE))(x_T)
    assert report.graph_count == 1 and report.graph_break_count == 0, report.break_reasons


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_loop_compiles_as_a_whole(options, device):
    """fullgraph=True raises at the first graph break."""
    x_T, grid = torch.randn(2, 2, 8, 8).to(device), times(1000, 3)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: sample(smooth, x, grid, SCHEDULE, **options), fullgraph=True, backend="eager"
    )
    torch.manual_seed(1)
    seen = compiled(x_T)
    torch.manual_seed(1)
    assert relative(seen, sample(smooth, x_T, grid, SCHEDULE, **options)) <= 1e-6


def test_naive_inversion_is_one_graph(device):
    x_0, grid = torch.randn(2, 2, 8, 8).to(device), times(1000, 3)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: invert(smooth, x, grid, SCHEDULE).x_T, fullgraph=True, backend="eager"
    )
    assert relative(compiled(x_0), invert(smooth, x_0, grid, SCHEDULE).x_T) <= 1e-6


def test_a_compiled_network_serves_as_well(device):
    from ddim_tutorial.pixel import eps_model

    torch._dynamo.reset()
    x_T, grid = torch.randn(2, 2, 8, 8).to(device), times(1000, 3)
    network = Convolution().to(device)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    wanted = sample(eps_model(network), x_T, grid, SCHEDULE)
    assert relative(sample(eps_model(compiled), x_T, grid, SCHEDULE), wanted) <= 1e-6


def test_closed_forms_read_nothing_back_either(device):
    walk = trajectory(
        analytic.gaussian(0.3, 0.7, SCHEDULE), torch.randn(2, 3).to(device), GRID, SCHEDULE
    )
    with HostReads() as reads:
        for _ in walk:
            pass
    assert reads.count == 0
