"""The recipes: a killed run, the learning rate, the losses against models that know the answer, the
data reader."""

import gzip
import json
import math
import os
import struct
import subprocess
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ddim_tutorial import zoo
from ddim_tutorial.classifier import Classifier
from ddim_tutorial.gan import Generator
from ddim_tutorial.metrics import frechet
from ddim_tutorial.schedule import linear
from ddim_tutorial.training import fashion, fashion_data, gan, muon
from ddim_tutorial.training.checkpoint import finished
from ddim_tutorial.training.evaluate import measures, tables
from ddim_tutorial.training.log import summary
from ddim_tutorial.training.loop import Settings, build_optimizers, fit, learning_rate

SETTINGS = Settings(steps=4, lr=1e-2, warmup=2, ema=0.8, log_every=1, save_minutes=0.0)
PRECISIONS = {"no": torch.float32, "bf16": torch.bfloat16}
PICTURES = torch.randint(
    256, (40, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
)
LABELS = torch.arange(40) % 10


def tiny_unet() -> nn.Module:
    from diffusers import UNet2DModel

    unet = UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        attention_head_dim=4,
        up_block_types=("UpBlock2D", "UpBlock2D"),
        num_class_embeds=11,
    )
    return unet.to(memory_format=torch.channels_last)


def tiny_pair() -> nn.Module:
    return gan.Pair(Generator(latent=3, widths=(8, 8, 4, 4)), gan.new_discriminator(widths=(4, 8)))


RECIPES = {
    "diffusion": (
        tiny_unet,
        partial(fashion.diffusion_loss, schedule=linear(), weight=fashion.as_v),
    ),
    "classifier": (partial(Classifier, widths=(8, 8)), fashion.classifier_loss),
    "noisy-classifier": (
        partial(Classifier, widths=(8, 8), time=True),
        partial(fashion.noisy_classifier_loss, schedule=linear()),
    ),
    "gan": (tiny_pair, lambda pair, data, batch: gan.gan_loss(pair, data[0], batch)),
}


class Killed(Exception):
    pass


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_killed_run_goes_on_bit_for_bit(recipe, precision, tmp_path):
    build, loss = RECIPES[recipe]
    loss = partial(loss, data=(PICTURES, LABELS), batch=4)

    def run(folder, seed, on_save=None):
        torch.manual_seed(seed)  # the weights a resumed run starts with must not matter
        return fit(build(), loss, tmp_path / folder, SETTINGS, precision=precision, on_save=on_save)

    def kill(ema, step):
        if step == 2:
            raise Killed

    whole = run("whole", seed=0)
    with pytest.raises(Killed):
        run("killed", seed=0, on_save=kill)
    resumed = run("killed", seed=1)
    states = [load_file(tmp_path / folder / "state.safetensors") for folder in ("whole", "killed")]
    assert states[0].keys() == states[1].keys() and any(
        key.startswith("optimizer.") for key in states[0]
    )
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    moved = [
        not torch.equal(a, b)
        for a, b in zip(whole.parameters(), run("whole", seed=1).parameters(), strict=True)
    ]
    assert not any(moved), "a finished run trains no further"


@pytest.mark.parametrize("order", [("no", "bf16", "no"), ("bf16", "no", "bf16")])
def test_each_run_of_a_process_trains_in_its_own_precision(order, tmp_path):
    """One network, trained three times: its convolution says what autocast made of it."""
    network, x, seen = nn.Sequential(nn.Conv2d(1, 1, 1)), torch.ones(1, 1, 2, 2), []
    network[0].register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    for i, precision in enumerate(order):

        def loss(net):
            return (net(x) - 1).square().mean(), {}

        folder = tmp_path / str(i)
        average = fit(network, loss, folder, replace(SETTINGS, steps=2), precision=precision)
        assert json.loads((folder / "settings.json").read_text())["precision"] == precision
        assert seen == [PRECISIONS[precision]] * 2
        assert network(x).dtype == average(x).dtype == torch.float32
        assert seen[2:] == [torch.float32] * 2
        seen.clear()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_muon_computes_in_the_precision_of_its_run(precision, tmp_path, monkeypatch):
    asked = []

    def orthogonal(matrix, dtype):
        asked.append(dtype)
        return matrix

    monkeypatch.setattr(muon, "orthogonal", orthogonal)
    settings = replace(SETTINGS, steps=1)

    def loss(net):
        return net(torch.ones(1, 2)).float().square().sum(), {}

    fit(nn.Linear(2, 2), loss, tmp_path, settings, precision=precision, matrices={"weight"})
    assert asked == [PRECISIONS[precision]]


HALVES = """
import sys
import torch
from safetensors.torch import save_file
from torch import nn
from ddim_tutorial.training.loop import Settings, fit, processes

def loss(net):
    rows = slice(processes().process_index, None, processes().num_processes)
    return (net(INPUTS[rows]) - TARGETS[rows]).square().mean(), {}

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
INPUTS, TARGETS = torch.randn(8, 3), torch.randn(8, 3)
settings = Settings(steps=5, lr=1e-2, warmup=1, ema=0.5, log_every=1)
matrices = {f"{i}.weight" for i in range(3)}
mean = fit(net, loss, sys.argv[1], settings, precision="no", matrices=matrices)
save_file(mean.state_dict(), f"{sys.argv[1]}/mean-{processes().process_index}.safetensors")
"""


def test_two_processes_train_one_network(tmp_path):
    """Each sees half of the rows, so the mean of their gradients is the gradient of all."""
    script = tmp_path / "halves.py"
    script.write_text(HALVES)
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    means = []
    for name, launch in (("one", []), ("two", two)):
        subprocess.run(
            [sys.executable, *launch, script, tmp_path / name],
            check=True,
            env=os.environ | {"PYTHONPATH": os.getcwd(), "CUDA_VISIBLE_DEVICES": ""},
        )
        means += [load_file(path) for path in sorted((tmp_path / name).glob("mean-*"))]
        assert len((tmp_path / name / "log.jsonl").read_text().splitlines()) == 5
    alone, first, second = means
    for key, wanted in alone.items():
        torch.testing.assert_close(first[key], wanted, rtol=1e-5, atol=1e-6)
        assert torch.equal(first[key], second[key])


def test_an_unknown_precision_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"precision: got 'fp16', wanted one of no, bf16"):
        fit(Line(), slopes([1.0]), tmp_path / "run", SETTINGS, precision="fp16")
    assert not (tmp_path / "run").exists()


class Line(nn.Module):
    """One weight, whose loss is weight * slope(step)."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0]))


def slopes(values):
    """A loss with the gradient values[k] in its k-th step."""
    values = iter(values)
    return lambda net: ((net.weight * next(values)).sum(), {"half": torch.tensor(math.nan)})


@pytest.mark.parametrize("bad", [1, 3, 4])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path, bad):
    """Whether it comes alone in its line of the log, beside finite ones, or between the log's
    lines."""
    settings = replace(SETTINGS, steps=6, log_every=3, save_minutes=0.0)
    good = replace(settings, steps=bad)
    if bad:
        fit(Line(), slopes([1.0] * bad), tmp_path, good, precision="no")
    before = (tmp_path / "state.safetensors").read_bytes()
    with pytest.raises(FloatingPointError, match=r"not finite by step .*state\.safetensors"):
        fit(Line(), slopes([math.nan] + [1.0] * 6), tmp_path, settings, precision="no")
    assert (tmp_path / "state.safetensors").read_bytes() == before


def test_nan_between_two_lines_is_not_averaged_away(tmp_path):
    settings = replace(SETTINGS, steps=6, log_every=3, save_minutes=60.0)
    with pytest.raises(FloatingPointError):
        fit(Line(), slopes([1.0, math.nan, 1.0, 1.0, 1.0, 1.0]), tmp_path, settings, precision="no")
    assert not (tmp_path / "state.safetensors").exists()


def test_the_average_and_the_clipping_are_those_of_the_formulas(tmp_path):
    """Two steps of AdamW without decay: the average has the decay min(ema, (1 + n) / (10 + n)) at
    its n-th update, the first of which copies; and gradients of 100 and 1 move the weight alike
    once they are clipped to 1."""
    settings = replace(
        SETTINGS, steps=2, lr=0.1, warmup=1, decay_from=1.0, weight_decay=0.0, ema=0.15
    )
    weights = []
    for gradients in ([100.0, 1.0], [1.0, 1.0]):
        seen = []
        average = fit(
            Line(),
            slopes(gradients),
            tmp_path / str(gradients),
            settings,
            precision="no",
            on_save=lambda ema, step, seen=seen: seen.append(ema.weight.item()),
        )
        state = load_file(tmp_path / str(gradients) / "state.safetensors")
        one, two = seen[0], state["model.weight"].item()
        assert (
            average.weight.item()
            == pytest.approx(0.15 * one + 0.85 * two, abs=1e-6)
            != pytest.approx(two)
        )
        weights.append(two)
    assert weights[0] == pytest.approx(weights[1], abs=1e-6)


def test_seconds_go_on_from_the_checkpoint_and_a_cut_line_of_the_log_is_dropped(tmp_path, capsys):
    settings = replace(SETTINGS, steps=2, log_every=2)
    fit(Line(), slopes([1.0] * 2), tmp_path, settings, precision="no")
    state = tmp_path / "state.safetensors"
    steps, seconds = finished(state)
    assert steps == 2 and seconds > 0
    save_file(load_file(state), state, metadata={"step": "2", "seconds": "5000"})
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 2, "lo')
    fit(Line(), slopes([1.0] * 2), tmp_path, replace(settings, steps=4, lr=0.5), precision="no")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4] and lines[1]["seconds"] > 5000
    assert summary(tmp_path) == {"steps": 4, "hours": 1.39, "precision": "no"}
    said = capsys.readouterr().out
    assert (
        "lr was 0.01, the run continues with 0.5" in said
        and "steps was 2" in said
        and "ema was" not in said
        and "precision was" not in said
    )
    fit(Line(), slopes([1.0]), tmp_path, replace(settings, steps=5), precision="bf16")
    assert "precision was 'no', the run continues with 'bf16'" in capsys.readouterr().out
    state.write_bytes(b"\x00" * 5)
    with pytest.raises(ValueError, match=r"state\.safetensors: truncated or damaged"):
        fit(Line(), slopes([1.0]), tmp_path, settings, precision="no")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_muon_turns_a_gradient_into_an_orthogonal_update(layout, precision):
    """One step from zero moments is -lr 0.2 sqrt(max(m, n)) U V^T for a gradient U S V^T, roughly:
    the iteration that orthogonalises stops with singular values between 0.7 and 1.2."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(6, 8, 3).to(memory_format=layout)
    before, weight = convolution.weight.detach().clone(), convolution.weight
    gradient = torch.randn(8, 6, 3, 3).to(memory_format=layout) * torch.logspace(0, -2, 8).view(
        8, 1, 1, 1
    )
    weight.grad = gradient.clone(memory_format=torch.preserve_format)
    settings = replace(SETTINGS, weight_decay=0.0)
    optimizers = build_optimizers(convolution, settings, {"weight"}, PRECISIONS[precision])
    optimizers["muon"].step()
    update = ((before - weight.detach()) / (SETTINGS.lr * 0.2 * 54**0.5)).flatten(1)
    u, _, v = torch.linalg.svd(gradient.flatten(1), full_matrices=False)
    along = u.mT @ update @ v.mT
    assert (along - along.diagonal().diag()).abs().max() < 0.05
    assert 0.6 < along.diagonal().min() and along.diagonal().max() < 1.3
    (adamw,) = optimizers["optimizer"].param_groups
    assert len(adamw["params"]) == 1  # the bias


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has it from 2.9 on")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(8, 54), (54, 8), (16, 16)])
def test_muon_agrees_with_torch_in_either_precision(shape, precision):
    """torch's own step computes in bf16, eight bits; ten steps from the same gradients end within
    one in fifty."""
    torch.manual_seed(0)
    layer = nn.Linear(*shape[::-1])
    theirs = nn.Parameter(layer.weight.detach().clone())
    start = theirs.detach().clone()
    settings = replace(SETTINGS, lr=0.01, weight_decay=0.1)
    optimizers = [
        build_optimizers(layer, settings, {"weight"}, PRECISIONS[precision])["muon"],
        torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(10):
        gradient = torch.randn(shape)
        layer.weight.grad, theirs.grad = gradient.clone(), gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    moved = (theirs - start).norm()
    assert moved > 0.05 * start.norm()
    assert (layer.weight - theirs).norm() < 0.02 * moved


def test_learning_rate_rises_stays_and_falls_along_a_cosine():
    settings = Settings(steps=1100, lr=0.5, warmup=50, decay_from=1 / 11, final=0.1)
    rate = partial(learning_rate, settings=settings)
    assert rate(0) == pytest.approx(0.5 / 50) and rate(24) == pytest.approx(0.5 / 2)
    assert rate(49) == rate(75) == rate(100) == 0.5
    for step in (100, 350, 600, 850, 1100):
        cosine = 0.5 + 0.5 * math.cos(math.pi * (step - 100) / 1000)
        assert rate(step) == pytest.approx(0.5 * (0.1 + 0.9 * cosine))
    assert learning_rate(3, replace(settings, warmup=0)) == 0.5


class Network(nn.Module):
    """What the loss takes for a diffusers network: ``eps(x_t, timestep, labels)``."""

    def __init__(self, eps):
        super().__init__()
        self.eps = eps

    def forward(self, x_t, timestep, labels):
        return SimpleNamespace(sample=self.eps(x_t, timestep, labels))


def test_the_diffusion_loss_of_a_model_that_knows_the_picture_is_zero():
    # the network counts time from 0, so that a mistake by one in either place shows
    schedule = linear()
    x_0 = PICTURES[:1].float() / 127.5 - 1

    def oracle(x_t, timestep, y):
        ab_t = schedule.alpha_bar[timestep + 1].view(-1, 1, 1, 1)
        return (x_t - ab_t.sqrt() * x_0) / (1 - ab_t).sqrt()

    loss, bands = fashion.diffusion_loss(
        Network(oracle), (PICTURES[:1], LABELS[:1]), schedule, batch=256, weight=fashion.as_v
    )
    assert loss < 1e-7 and all(value < 1e-5 for value in bands.values())


@pytest.mark.parametrize(
    ("weight", "formula"),
    [
        (fashion.as_v, lambda ab: min(1 / ab, 500)),
        (fashion.middle_first, lambda ab: max(min(1, 20 * (1 - ab) / ab), min(0.1 / ab, 50))),
    ],
)
def test_the_diffusion_loss_of_a_model_that_knows_nothing_is_the_mean_weight(weight, formula):
    schedule, asked = linear(), []

    def ignorant(x_t, timestep, y):
        asked.append(y)
        return torch.zeros_like(x_t)

    loss, bands = fashion.diffusion_loss(
        Network(ignorant), (PICTURES, LABELS), schedule, 4000, weight
    )
    weights = [formula(alpha_bar) for alpha_bar in schedule.alpha_bar[1:].tolist()]
    assert loss.item() == pytest.approx(sum(weights) / 1000, rel=5e-3)
    assert all(value.item() == pytest.approx(1, abs=0.02) for value in bands.values())
    null = (asked[0] == fashion.NULL).float().mean().item()
    assert null == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 4000))


def test_spread_times_cover_all_strata_and_favour_none():
    t = torch.stack([fashion.spread_times(50) for _ in range(400)])
    assert t.min() == 1 and t.max() == 1000
    assert torch.equal((t - 1) // 20, torch.arange(50).expand_as(t))
    counts = torch.bincount((t.flatten() - 1) % 20, minlength=20).float()
    assert (counts - 1000).abs().max() < 5 * math.sqrt(
        1000 * 50
    )  # the 50 times of a batch move together


def write_idx(path, values):
    header = struct.pack(f">4B{values.dim()}I", 0, 0, 8, values.dim(), *values.shape)
    path.write_bytes(gzip.compress(header + values.numpy().tobytes()))


@pytest.fixture
def data(tmp_path):
    for stem, n in (("train", 7), ("t10k", 3)):
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte.gz", PICTURES[:n, 0, :28, :28])
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte.gz", LABELS[:n].byte())
    return tmp_path


def test_the_reader_pads_pictures_with_black(data):
    for split, n in (("train", 7), ("test", 3)):
        images, labels = fashion_data.read_data(data, split)
        assert (
            images.shape == (n, 1, 32, 32)
            and images.dtype == torch.uint8
            and labels.tolist() == list(range(n))
        )
        assert torch.equal(images[:, :, 2:30, 2:30], PICTURES[:n, :, :28, :28])
        assert images.long().sum() == PICTURES[:n, :, :28, :28].long().sum()


def test_the_reader_refuses_what_is_not_the_data_set(data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dataset-fashion-mnist.*--data"):
        fashion_data.read_data(tmp_path / "nowhere")
    labels = data / "train-labels-idx1-ubyte.gz"
    write_idx(labels, LABELS[:6].byte())
    with pytest.raises(ValueError, match=r"\(6,\)"):
        fashion_data.read_data(data)
    labels.write_bytes(gzip.compress(b"not an IDX file"))
    with pytest.raises(ValueError, match="IDX"):
        fashion_data.read_data(data)
    labels.write_bytes(gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, 7) + bytes(5)))
    with pytest.raises(ValueError, match="cut short"):
        fashion_data.read_data(data)


def test_frechet_of_shifted_and_stretched_features_has_a_closed_form():
    x = torch.randn(400, 5)
    x = (x - x.mean(0)) @ torch.linalg.qr(torch.randn(5, 5)).Q
    # commuting covariances C and 4 C: |shift|^2 + tr C (2 - 1)^2
    wanted = 5 * 0.3**2 + x.var(0).sum().item()
    assert frechet(x, 2 * x + 0.3) == pytest.approx(wanted, rel=1e-4)
    assert frechet(x, x) == pytest.approx(0, abs=1e-6)


def test_nearest_is_the_rms_difference_to_the_nearest():
    reference = torch.randn(30, 1, 4, 4)
    x = reference[[3, 20]] + torch.tensor([0.01, -0.02]).view(2, 1, 1, 1)
    torch.testing.assert_close(
        measures.nearest(x, reference), torch.tensor([0.01, 0.02]), rtol=1e-3, atol=0
    )


def test_balanced_takes_the_first_of_each_class():
    assert measures.balanced(torch.tensor([1, 0, 1, 1, 0, 0]), 2).tolist() == [1, 4, 0, 2]


def test_mirrored_pictures_are_the_picture_or_its_mirror_image():
    x = PICTURES.float()
    seen = fashion.mirrored(x)
    same, turned = ((seen == y).flatten(1).all(1) for y in (x, x.flip(3)))
    assert torch.equal(same, ~turned) and 5 < same.sum() < 35


def test_a_classifier_takes_the_time_it_was_built_for():
    x, t = torch.randn(2, 1, 32, 32), torch.tensor([0, 1000])
    with pytest.raises(ValueError, match=r"t: got a t.*time=False"):
        Classifier()(x, t)
    noisy = Classifier(time=True).eval()
    with pytest.raises(ValueError, match=r"t: got no t.*time=True"):
        noisy(x)
    assert not torch.equal(noisy(x, t), noisy(x, t.flip(0)))
    labels = torch.tensor([4, 7])
    every = torch.stack([noisy.log_prob(torch.full((2,), c))(x, t) for c in range(10)], 1)
    torch.testing.assert_close(every.exp().sum(1), torch.ones(2))
    torch.testing.assert_close(noisy.log_prob(labels)(x, t), every[[0, 1], labels])


def test_a_table_is_filled_cell_by_cell_and_begun_anew_for_other_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "TABLES", tmp_path)
    measured = []

    def measure(S, method):
        measured.append((S, method))
        if S == 20 and len(measured) == 2:
            raise KeyboardInterrupt
        return {"rms": S / 100}

    plan = [{"S": 10, "method": "naive"}, {"S": 20, "method": "naive"}]
    bundle = replace(zoo.load("fashion"), sha256="a")
    with pytest.raises(KeyboardInterrupt):
        tables.fill("tiny-table", bundle, plan, measure, "no", lambda: {"what": "test"})
    tables.fill("tiny-table", bundle, plan, measure, "no", lambda: {"what": "never asked"})
    table = json.loads((tmp_path / "tiny_table.json").read_text())
    assert measured == [(10, "naive"), (20, "naive"), (20, "naive")]
    assert (
        table["what"] == "test"
        and table["unet_sha256"] == "a"
        and table["command"].endswith("evaluate tiny-table")
    )
    assert [(cell["S"], cell["rms"]) for cell in table["cells"]] == [(10, 0.1), (20, 0.2)]

    tables.fill(
        "tiny-table", replace(bundle, sha256="b"), plan[:1], measure, "no", lambda: {"what": "new"}
    )
    path = tmp_path / "tiny_table.json"
    table, before = json.loads(path.read_text()), path.read_bytes()
    assert table["unet_sha256"] == "b" and table["what"] == "new" and len(table["cells"]) == 1
    with pytest.raises(ValueError, match=r"tiny_table\.json: .*float32, wanted bf16"):
        tables.fill(
            "tiny-table", replace(bundle, sha256="b"), plan, measure, "bf16", lambda: {"what": "no"}
        )
    assert path.read_bytes() == before


@pytest.mark.parametrize("precision", PRECISIONS)
def test_pictures_are_drawn_and_tables_filled_in_the_precision_asked_for(
    precision, tmp_path, monkeypatch
):
    bundle, seen = zoo.load("fashion"), []
    hook = bundle.unet.conv_in.register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    x = measures.draw(bundle, torch.tensor([1, 5]), 2, precision=precision)
    hook.remove()
    assert x.dtype == torch.float32 and set(seen) == {PRECISIONS[precision]}
    monkeypatch.setattr(tables, "TABLES", tmp_path)
    tables.fill("tiny", bundle, [{"S": 2}], lambda S: {"rms": 0.1}, precision, dict)
    table = json.loads((tmp_path / "tiny.json").read_text())
    assert table["network"] == measures.NETWORK[precision]
    assert table["command"].endswith("tiny" if precision == "no" else "tiny --precision bf16")


def test_pictures_are_drawn_in_float32_unless_told():
    bundle, labels = zoo.load("fashion"), torch.tensor([1])
    assert torch.equal(
        measures.draw(bundle, labels, 2), measures.draw(bundle, labels, 2, precision="no")
    )
    with pytest.raises(ValueError, match=r"precision: got 'float16', wanted one of no, bf16"):
        measures.draw(bundle, labels, 2, precision="float16")


def test_a_grid_ends_where_its_name_says():
    ends = {
        cell["S"]: tables.GRIDS[cell["grid"]](1000, cell["S"])[-1]
        for cell in tables.table2_plan()
        if "ends at 1" in cell["grid"]
    }
    assert set(ends.values()) == {1}


OTHERS = ("inversion", "emoji_editing", "watermark", "purification")  # their own tests hold them
STORED = [path for path in sorted(tables.TABLES.glob("*.json")) if not path.stem.startswith(OTHERS)]


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_table_belongs_to_the_bundled_weights(path):
    table = json.loads(path.read_text())
    assert table["unet_sha256"] == zoo.load(table["model"], fast="jump" in path.stem).sha256
    command = f"python -m ddim_tutorial.training.evaluate {path.stem.replace('_', '-')}"
    if path.stem == "emoji_levers":
        command = "python -m tools.levers --model emoji"
    if "bf16" in table.get("network", ""):
        command += " --precision bf16"  # without it the command refuses the stored table
    assert table["command"] == command


def test_the_bundled_card_says_the_precision_in_its_command_too():
    card = zoo.load("fashion").card
    command = "python -m ddim_tutorial.training.evaluate fashion"
    if "bf16 autocast, picture i" in card["quality"]["samples"]:
        command += " --precision bf16"
    assert card["command"][-1] == command
