"""The two recipes of the learned jump on a line, where the end of every trajectory is known: their
losses, what they learn, what a stopped run goes on with, and a LoRA against the package peft."""

from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ddim_tutorial import add_noise, analytic, sample, scaled_linear
from ddim_tutorial.consistency import consistency_function, pseudo_huber
from ddim_tutorial.metrics import relative_error
from ddim_tutorial.training import consistency as recipe
from ddim_tutorial.training import ends, jump, loop, lora
from ddim_tutorial.training.loop import Settings, fit
from parts import relative, tiny_unet

SCHEDULE = scaled_linear()
MEANS, STDS = torch.tensor([[-1.0], [1.0]]), torch.tensor([0.3, 0.1])
LINE = analytic.mixture(MEANS, STDS, torch.tensor([2.0, 1.0]), SCHEDULE)
SIDES = [analytic.mixture(MEANS[k : k + 1], STDS[k].item(), torch.ones(1), SCHEDULE)
         for k in range(2)]  # fmt: skip


def draw(batch):
    side = (torch.rand(batch) < 1 / 3).long()
    return MEANS[side] + STDS[side, None] * torch.randn(batch, 1), side


def teacher(scale=0.0, **changes):
    """The mixture as what is asked without a condition (scale 0), or guided to the labels' side."""

    def network(x_t, t, condition):
        parts = torch.stack([model(x_t, t) for model in (*SIDES, LINE)])
        return parts[condition, torch.arange(len(x_t))]

    return recipe.Teacher(
        network, torch.tensor([2]), scale, SCHEDULE, draw, lambda labels: labels, sha256="line"
    )._replace(**changes)


class Correction(nn.Module):
    """The mixture's eps and a small network's addition to it, zero at first."""

    def __init__(self, width=48):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(5, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, x_t, t, condition):
        ab = SCHEDULE.at(t, x_t)
        seen = [x_t, x_t.square(), ab, (1 - ab).sqrt(), LINE(x_t, t)]
        return LINE(x_t, t) + self.layers(torch.cat(seen, 1))


def jump_error(network, t):
    """Of the jump from noisy data at t to the exact end."""
    torch.manual_seed(9)
    x_0, labels = draw(2000)
    times = torch.full((2000,), t)
    x_t = add_noise(x_0, torch.randn_like(x_0), SCHEDULE.at(t, x_0))
    with torch.no_grad():
        x0_hat = consistency_function(recipe.bound(network, labels), x_t, times, SCHEDULE)
    return relative_error(x0_hat, LINE.end(x_t, times).float())


OPTIONS = {
    "ends": recipe.Options("ends", 400, batch=64, lr=1e-2, walks=1024, solver_steps=20),
    "distillation": recipe.Options("distillation", 400, batch=64, lr=1e-2, stride=100, decay=0.8),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_either_recipe_learns_the_end(name, tmp_path):
    network = Correction()
    before = {t: jump_error(network, t) for t in (600, 800, 1000)}
    learned = recipe.train(network, teacher(), tmp_path, OPTIONS[name], "no")
    for t, error in before.items():
        assert error > 0.5 and jump_error(learned, t) < 0.7 * error, (t, error)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_the_ends_of_the_pool_are_the_exact_ones(scale):
    """Of pure noise and of noised data; guided by 1, those of the label's own side."""
    torch.manual_seed(1)
    parts = [ends.solve(teacher(scale), 64, 100, noised) for noised in (False, True)]
    for part, noised in zip(parts, (False, True), strict=True):
        assert (part["t"].max() < 1000) == noised and part["t"].min() >= 1
        x, end = part["x"].double(), part["end"][part["walk"]].double()
        exact = [model.end(x, part["t"]) for model in (*SIDES, LINE)]
        if scale == 3:  # no closed form: only that it leads elsewhere
            assert relative_error(end, exact[2]) > 0.05
            continue
        side = part["labels"][part["walk"]]
        wanted = exact[2] if not scale else torch.where(side[:, None] == 1, exact[1], exact[0])
        assert relative_error(end, wanted) < 0.03
    starts = parts[0]["x"][parts[0]["t"] == 1000]
    assert starts.std().item() == pytest.approx(1, abs=0.4) and len(starts) == 64


def test_a_pool_is_solved_once_and_goes_on_where_it_was(tmp_path):
    fill = partial(ends.fill_pool, teacher(), tmp_path, batch=4, steps=3, precision="no")
    pool = fill(10)  # three shards of four
    assert len(pool.end) == 12 == len(pool.labels) and len(pool.x) == len(pool.t) == len(pool.walk)
    assert pool.walk.unique().tolist() == list(range(12))
    shards = sorted(tmp_path.glob("*.safetensors"))
    whole = [load_file(path) for path in shards]
    kept = shards[0].stat().st_mtime_ns
    shards[1].unlink()
    torch.manual_seed(123)  # whatever was drawn before
    state = torch.get_rng_state()
    again = fill(10)
    assert torch.equal(state, torch.get_rng_state()) and shards[0].stat().st_mtime_ns == kept
    for path, old in zip(shards, whole, strict=True):
        for name, value in load_file(path).items():
            assert torch.equal(value, old[name]), (path.name, name)
    for one, other in zip(pool, again, strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match=r"solved with the weights line, the teacher has others"):
        ends.fill_pool(teacher(sha256="others"), tmp_path, 10, 4, 3, "no")


def test_a_batch_of_the_pool_belongs_together():
    pool = ends.Pool(
        x=torch.arange(6.0)[:, None].half(), t=torch.arange(1, 7),
        walk=torch.tensor([0, 1, 0, 1, 2, 2]), end=10 * torch.arange(3.0)[:, None].half(),
        labels=torch.tensor([7, 8, 9]),
    )  # fmt: skip
    x_t, t, labels, end = pool.draw(600)
    assert torch.equal(x_t[:, 0], t - 1.0) and x_t.dtype == end.dtype == torch.float32
    walk = pool.walk[t - 1]
    assert torch.equal(labels, pool.labels[walk]) and torch.equal(end[:, 0], 10.0 * walk)
    assert (t.bincount(minlength=7)[1:] > 60).all()  # 100 each, four deviations of 9.1
    _, t, _, _ = pool.draw(600, first=0.5)
    assert 300 < (t == 6).sum() < 400 and (t.bincount(minlength=7)[1:6] > 25).all()  # 350; 50 each


class Known(nn.Module):
    """Answers the exact end of a distribution, or that moved by ``shift``."""

    def __init__(self, shift=0.0):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, x_t, t, condition):
        end = LINE.end(x_t, t) + self.shift
        ab = SCHEDULE.at(t, x_t)
        return ((x_t - ab.sqrt() * end) / (1 - ab).sqrt()).to(x_t.dtype)


def test_the_losses_of_a_network_that_knows_the_ends():
    """Zero but for the solver; and of one that is off by a number, that number."""
    torch.manual_seed(2)
    part = ends.solve(teacher(), 64, 200, False)
    pool = ends.Pool(*(part[name] for name in ends.Pool._fields))
    fine = {"teacher": teacher(), "batch": 256}
    for shift, low, high in ((0.0, 0.0, 0.02), (0.5, 0.48, 0.52)):
        by_ends, figures = recipe.ends_loss(Known(shift), pool=pool, **fine)
        assert low <= by_ends < high and set(figures) == {
            f"t to {k}" for k in (250, 500, 750, 1000)
        }
        # both answers are off by as much: but at s = 0, where the boundary condition holds
        student = recipe.Student(Known(shift), averaged=True)
        by_steps, figures = recipe.distillation_loss(student, stride=10, decay=0.5, **fine)
        assert by_steps < 0.02
    student = recipe.Student(Known(0.5), averaged=True)
    only, _ = recipe.distillation_loss(student, stride=1000, decay=0.5, **fine)
    assert only > 0.1  # one step to 0: the target is the teacher's own, and not moved


def test_a_distillation_step_asks_the_guided_teacher_and_the_average():
    """One step by hand: x_s of the guided eps, the target of the averaged network."""
    net = recipe.Student(Correction(), averaged=True)
    with torch.no_grad():
        for p in net.network.parameters():
            p.add_(0.3 * torch.randn_like(p))
    guided, decay = teacher(3.0), 0.75
    old = {name: p.clone() for name, p in net.target.named_parameters()}
    torch.manual_seed(5)
    loss, _ = recipe.distillation_loss(net, guided, 8, stride=200, decay=decay)
    for name, p in net.target.named_parameters():
        new = net.network.get_parameter(name)
        torch.testing.assert_close(p, decay * old[name] + (1 - decay) * new)
    torch.manual_seed(5)
    x_0, labels = draw(8)
    t = 200 * torch.randint(1, 6, (8,))
    x_t = add_noise(x_0, torch.randn_like(x_0), SCHEDULE.at(t, x_0))
    side = torch.where(labels[:, None] == 1, SIDES[1](x_t, t), SIDES[0](x_t, t))
    eps = LINE(x_t, t) + 3 * (side - LINE(x_t, t))
    ab_t, ab_s = SCHEDULE.at(t, x_t), SCHEDULE.at(t - 200, x_t)
    x_s = ab_s.sqrt() * (x_t - (1 - ab_t).sqrt() * eps) / ab_t.sqrt() + (1 - ab_s).sqrt() * eps
    end = consistency_function(recipe.bound(net.target, labels), x_s, t - 200, SCHEDULE)
    mine = consistency_function(recipe.bound(net, labels), x_t, t, SCHEDULE)
    torch.testing.assert_close(loss, pseudo_huber(mine, end).mean())
    loss.backward()
    assert all(p.grad is None for p in net.target.parameters())
    assert any(p.grad.abs().max() > 0 for p in net.network.parameters())


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", OPTIONS)
def test_a_killed_run_goes_on_bit_for_bit(name, tmp_path, monkeypatch):
    options = OPTIONS[name]._replace(steps=6, batch=4, walks=8, solver_steps=2)
    settings = partial(Settings, save_minutes=0.0)
    monkeypatch.setattr(recipe, "Settings", settings)

    def run(folder, on_save=None):
        return recipe.train(Correction(4), teacher(), folder, options, "no", on_save)

    def kill(network, step):
        assert isinstance(network, Correction)
        if step == 3:
            raise Killed

    run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", on_save=kill)
    run(tmp_path / "killed")
    whole, killed = (
        load_file(tmp_path / part / "state.safetensors") for part in ("whole", "killed")
    )
    assert whole.keys() == killed.keys()
    assert any(key.startswith("model.target.") for key in whole) == (name == "distillation")
    for key in whole:
        torch.testing.assert_close(killed[key], whole[key], rtol=0, atol=0, msg=key)


def test_another_run_in_the_same_folder_is_refused(tmp_path):
    options = OPTIONS["distillation"]
    recipe.claim(tmp_path, options, teacher())
    recipe.claim(tmp_path, options._replace(steps=9, lr=1.0), teacher())  # may go on differently
    for other, model, key in (
        (options._replace(rank=4), teacher(), "rank=0, got 4"),
        (options._replace(stride=50), teacher(), "stride=100, got 50"),
        (options, teacher(2.0), r"scale=0\.0, got 2\.0"),
        (options, teacher(sha256="new"), "teacher='line', got 'new'"),
    ):
        with pytest.raises(ValueError, match=f"the run was begun with {key}"):
            recipe.claim(tmp_path, other, model)
    with pytest.raises(ValueError, match="stride=300: it divides T=1000 with a rest"):
        recipe.claim(tmp_path / "new", options._replace(stride=300), teacher())
    with pytest.raises(ValueError, match="wanted 'distillation' or 'ends'"):
        recipe.claim(tmp_path / "new", options._replace(recipe="progressive"), teacher())


# LoRA


def unet_loss(net, x):
    return (net(x, torch.full((len(x),), 500), None) - x).square().mean(), {}


class Plain(jump.Unet):
    """A U-Net that takes no condition."""

    def forward(self, x_t, t, condition):
        return self.unet(x_t, t - 1).sample


def test_a_lora_starts_as_the_network_and_moves_nothing_else(tmp_path):
    pytest.importorskip("peft")
    x, t, unet = torch.randn(3, 2, 8, 8), torch.full((3,), 500), tiny_unet()
    before, wanted = {k: v.clone() for k, v in unet.state_dict().items()}, unet(x, 499).sample
    network = Plain(jump.new_network(unet, 2).unet)
    torch.testing.assert_close(network(x, t, None), wanted)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert 0 < trained < 0.5 * sum(v.numel() for v in before.values())
    ema = fit(network, partial(unet_loss, x=x), tmp_path, Settings(3, 1e-2, 1), precision="no")
    for name, value in ema.state_dict().items():
        name = name.removeprefix("unet.").replace(".base_layer", "")
        if "lora_" not in name:
            assert torch.equal(value, before[name]), name
    assert relative(ema(x, t, None), wanted) > 1e-3


@pytest.mark.parametrize("rank", [0, 2])
def test_what_is_saved_is_read_back_into_the_network(rank, tmp_path):
    """Half precision; a LoRA is merged into the weights by our own two lines, and peft's network is
    what it is to equal."""
    if rank:
        pytest.importorskip("peft")
    from ddim_tutorial.zoo.jump import find_jump, learn_jump

    unet = tiny_unet()
    network = jump.new_network(unet, rank)
    with torch.no_grad():
        for p in network.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    lora.save_jump(network.unet, tmp_path, 4.0)
    fresh, x = tiny_unet(), torch.randn(3, 2, 8, 8)
    assert learn_jump(fresh, find_jump(tmp_path), ("epsilon",)) == (4.0, "epsilon")
    wanted = network.unet(x, 10).sample
    assert relative(tiny_unet()(x, 10).sample, wanted) > 0.1
    assert relative(fresh(x, 10).sample, wanted) < 2e-3
    assert not any(p.requires_grad for p in fresh.parameters())


def test_a_lora_without_peft_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ImportError, match="rank=8: training a LoRA needs the package peft"):
        lora.add_lora(tiny_unet(), 8)


def test_the_precision_reaches_the_walks_and_the_training(tmp_path, monkeypatch):
    seen = {}

    def in_precision(model, precision):
        seen["walks"] = precision
        return model

    def fit(model, loss_fn, folder, settings, *, precision, on_save):
        seen["fit"] = precision
        return model

    monkeypatch.setattr(ends, "in_precision", in_precision)
    monkeypatch.setattr(recipe, "fit", fit)
    options = OPTIONS["ends"]._replace(steps=1, walks=4, batch=4, solver_steps=2)
    recipe.train(Correction(4), teacher(), tmp_path, options, "bf16")
    assert seen == {"walks": "bf16", "fit": "bf16"}


def test_the_sampler_takes_what_was_learned():
    """``sample`` on the network that knows: pure noise to its end in one jump."""
    x_T = torch.randn(50, 1)
    model = recipe.bound(Known(), torch.zeros(50, dtype=torch.long))
    seen = sample(model, x_T, [1000, 0], SCHEDULE)
    wanted = LINE.end(x_T, torch.full((50,), 1000)).float()
    torch.testing.assert_close(seen, wanted, rtol=1e-4, atol=1e-4)
    assert loop.processes().num_processes == 1
