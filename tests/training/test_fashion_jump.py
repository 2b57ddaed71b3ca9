"""The learned jump of a small pixel model: from the command to ``zoo.load(.., fast=True)`` and its
table."""

import gzip
import json
import struct

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from safetensors.torch import load_file

from ddim_tutorial import zoo
from ddim_tutorial.classifier import Classifier
from ddim_tutorial.predict import eps_from
from ddim_tutorial.training import fashion_jump as recipe
from ddim_tutorial.training.evaluate import jump as table
from ddim_tutorial.training.evaluate import tables
from parts import relative


@pytest.fixture
def model(tmp_path):
    """An untrained class-conditional model with a classifier."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=32, in_channels=1, out_channels=1, layers_per_block=1,
        block_out_channels=(8, 16), norm_num_groups=4, num_class_embeds=11,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    folder = tmp_path / "model"
    unet.save_pretrained(folder / "unet")
    DDIMScheduler(clip_sample=False).save_pretrained(folder / "scheduler")
    Classifier(widths=(8, 8, 8)).save(folder / "classifier")
    zoo.write_card(folder, {"name": "model", "classes": list("abcdefghij")})
    return folder


@pytest.fixture
def data(tmp_path):
    for stem, n in (("train", 30), ("t10k", 20)):
        for part, values in (("images-idx3", torch.randint(256, (n, 28, 28))),
                             ("labels-idx1", torch.arange(n) % 10)):  # fmt: skip
            header = struct.pack(f">4B{values.dim()}I", 0, 0, 8, values.dim(), *values.shape)
            path = tmp_path / f"{stem}-{part}-ubyte.gz"
            path.write_bytes(gzip.compress(header + values.byte().numpy().tobytes()))
    return tmp_path


def distil(model, data, runs, more="--recipe ends --walks 8 --solver-steps 2"):
    options = f"--steps 2 --batch 4 --precision no --lr 0.01 --folder {model} --data {data} {more}"
    recipe.main(["--runs", str(runs), "consistency", *options.split()])


def test_from_the_command_to_the_table(model, data, tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    distil(model, data, runs)
    recipe.main(["--runs", str(runs), "export", "--recipe", "ends", "--folder", str(model)])
    plain, fast = (zoo.load(model, "cpu", fast=yes) for yes in (False, True))
    assert fast.scale == 1.0 and zoo.verify(model)["jump"]["recipe"] == "ends"
    x, t, labels = torch.randn(3, 1, 32, 32), torch.tensor([1000, 500, 1]), torch.tensor([3, 10, 0])
    prefix = "ema.module.network.unet."
    state = load_file(runs / "jump-ends" / "state.safetensors")
    average = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    before = plain.conditional(labels)(x, t)
    plain.unet.load_state_dict(average)
    seen, answer = fast.conditional(labels)(x, t), plain.conditional(labels)(x, t)
    wanted = eps_from("v_prediction", x, answer, t, fast.schedule)
    assert fast.prediction == "v_prediction"
    assert relative(seen, wanted) < 3e-3 < min(relative(seen, answer), relative(seen, before))

    monkeypatch.setattr(tables, "TABLES", tmp_path)
    rows = [("end", 100), ("jump, noise anew", 2), ("dpmpp_2m", 4)]
    plan = [{"sampler": name, "S": S, "seed": 0, "pictures": 20} for name, S in rows]
    monkeypatch.setattr(table, "END", ("ddim", "trailing", 4))
    monkeypatch.setattr(table, "plan", lambda *_: plan)
    table.fashion_jump(model, data, count=20)
    cells = json.loads((tmp_path / "fashion_jump.json").read_text())["cells"]
    assert [cell["evaluations"] for cell in cells] == [100, 2, 4]  # guidance 1: one pass a step
    assert cells[0]["error"] == 0 and all(cell["frechet"] >= 0 for cell in cells)


def test_the_teacher_is_the_model_with_its_labels(model, data):
    teacher = recipe.teacher(model, data, 3.0)
    torch.manual_seed(0)
    x_0, labels = teacher.draw(1000)
    assert x_0.shape == (1000, 1, 32, 32) and -1 <= x_0.min() and x_0.max() <= 1
    assert abs((labels == 10).double().mean() - 0.1) < 0.04  # four standard deviations
    bundle = zoo.load(model, "cpu")
    x, t, mine = torch.randn(3, 1, 32, 32), torch.tensor([1000, 500, 1]), torch.tensor([3, 10, 0])
    free, asked = bundle.model(x, t), bundle.conditional(mine)(x, t)
    assert relative(teacher.guided(mine)(x, t), free + 3 * (asked - free)) < 1e-5


def test_a_table_of_another_guidance_is_refused(model, data, tmp_path):
    runs = tmp_path / "runs"
    distil(model, data, runs, "--recipe distillation --stride 500 --scale 2")
    recipe.main(["--runs", str(runs), "export", "--recipe", "distillation", "--folder", str(model)])
    with pytest.raises(ValueError, match="its jump has guidance 2 folded in"):
        table.fashion_jump(model, data, count=20)


def test_gradient_energy_is_the_mean_square_of_steps():
    ramp = torch.arange(5.0).expand(1, 1, 4, 5)
    assert table.gradient_energy(ramp) == 1.0  # across 1, down 0
    assert table.gradient_energy(3 * ramp.transpose(2, 3)) == 9.0


def test_a_row_is_drawn_from_its_own_noise():
    def model_of(fast, part):
        return lambda x_t, t: x_t * (0.5 + fast)

    from ddim_tutorial import generators, linear, randn

    cell = {"sampler": "jump, eta=0", "S": 1, "seed": 2, "pictures": 5}
    whole, parts = (table.drawn(model_of, (1, 2, 2), linear(), n, cell) for n in (5, 2))
    assert torch.equal(whole, parts)
    x_T, ab = randn((5, 1, 2, 2), generators(range(10, 15))), linear().level(1000)
    torch.testing.assert_close(whole, x_T * (1 - 1.5 * (1 - ab) ** 0.5) / ab**0.5)
    rows = {(row["sampler"], row["S"]) for row in table.plan(10, 2)}
    assert {(name, S) for name in table.JUMP for S in (1, 2, 4)} <= rows and ("ddim", 4) in rows
    assert len(table.plan(10, 2)) == 2 * len(rows)
