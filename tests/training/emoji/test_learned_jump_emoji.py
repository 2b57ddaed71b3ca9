"""The learned jump of a tiny exported pipeline: from the command to ``zoo.load(.., fast=True)``,
and what its table asks and counts."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ddim_tutorial import sample, zoo
from ddim_tutorial.training.emoji import __main__ as command
from ddim_tutorial.training.emoji import consistency as recipe
from ddim_tutorial.training.emoji import jump_prompts, networks
from ddim_tutorial.training.emoji.captions import captions, tokenise
from ddim_tutorial.training.emoji.data import STYLES
from ddim_tutorial.training.emoji.objects import ALIASES
from ddim_tutorial.training.emoji.pictures import starts
from ddim_tutorial.training.evaluate import jump as table
from ddim_tutorial.training.evaluate import tables
from parts import relative
from training.emoji.planted import Known

SMALL = "--steps 2 --batch 4 --members 2 --precision no --lr 0.01"
RECIPES = {
    "ends": "--walks 8 --solver-steps 2",
    "distillation": "--stride 500",
}
PROMPTS = ["noto emoji of red apple", "t-rex"]


@pytest.fixture
def model(exported, tmp_path, monkeypatch):
    """A copy of the exported pipeline, and its run: (run folder, model folder, data)."""
    run, out, data = exported
    monkeypatch.setattr(recipe, "LOOK", PROMPTS)
    mine = tmp_path / "run"
    mine.mkdir()
    for name in ("data.safetensors", "family.safetensors"):
        (mine / name).symlink_to(run / name)
    return mine, Path(shutil.copytree(out, tmp_path / "model")), data


def distil(run, folder, name, more=""):
    options = f"consistency --recipe {name} --folder {folder} {SMALL} {RECIPES[name]} {more}"
    command.main(["--run", str(run), *options.split()])


def export(run, folder, name):
    options = f"export-jump --recipe {name} --folder {folder}"
    command.main(["--run", str(run), *options.split()])


@pytest.mark.parametrize(("name", "rank"), [("ends", 0), ("distillation", 0), ("ends", 4)])
def test_from_the_command_to_the_model(model, name, rank):
    run, folder, _ = model
    if rank:
        pytest.importorskip("peft")
    distil(run, folder, name, f"--rank {rank}")
    into = run / f"jump-{name}"
    assert (into / "samples-000002.png").stat().st_size > 1000
    export(run, folder, name)
    card = zoo.verify(folder)
    assert card["jump"]["steps"] == 2 and card["jump"]["scale"] == 4.0
    assert card["jump"]["command"].endswith(f"consistency --recipe {name}")
    plain, fast = (zoo.load(folder, device="cpu", fast=yes) for yes in (False, True))
    assert fast.scale == 4.0 and plain.scale is None and fast.sha256 != plain.sha256
    x_T, t = starts((4, 16, 16), 0, 2, seed=0), torch.tensor([1000, 300])
    seen, other = (bundle.space(PROMPTS, scale=4.0).model(x_T, t) for bundle in (fast, plain))
    if not rank:  # the averaged weights of the checkpoint, asked with the prompt alone
        unet, prefix = plain.pipe.unet, "ema.module.network.unet."
        state = load_file(into / "state.safetensors")
        average = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        half = load_file(folder / "jump" / "diffusion_pytorch_model.safetensors")
        assert half.keys() == average.keys()
        assert all(torch.equal(half[name], value.half()) for name, value in average.items())
        last = state[prefix.replace("ema.module", "model") + "conv_out.weight"]
        assert not torch.equal(last.half(), half["conv_out.weight"])
        unet.load_state_dict(average)
        text = plain.pipe.text_encoder(tokenise(plain.pipe.tokenizer, PROMPTS))[0]
        assert relative(seen, unet(x_T, t - 1, text).sample) < 3e-3
    assert relative(seen, other) > 1e-3
    space = fast.space(PROMPTS)
    assert space.times(1) == [1000, 0] and space.times(2) == [1000, 500, 0]
    assert (
        sample(space.model, x_T, space.times(2), space.schedule, eta=float("inf")).isfinite().all()
    )


def test_the_teacher_is_guided_and_speaks_of_its_pictures(model):
    run, folder, data = model
    teacher = recipe.teacher(folder, run, 2, 4.0, "no")
    torch.manual_seed(0)
    x_0, tokens = teacher.draw(2000)
    (tokenizer,) = networks.components(folder, "tokenizer")
    latents = load_file(run / "family.safetensors")
    of_picture = torch.cdist(x_0.flatten(1), latents["mean"].float().flatten(1)).argmin(1)
    rows = (data.split == 0).nonzero()[:, 0][latents["picture"][of_picture]].tolist()
    wanted = tokenise(tokenizer, data.captions(rows))
    empty = (tokens == tokenise(tokenizer, [""])).all(1)
    asked = (tokens == wanted).all(1)
    # of 2000: a tenth empty, half of the others the evaluation's caption; four deviations
    assert abs(empty.double().mean() - 0.1) < 0.027 and abs(asked.double().mean() - 0.45) < 0.045
    for i in (~empty & ~asked).nonzero()[:30, 0].tolist():
        name = int(data.objects[rows[i]])
        texts = captions(STYLES[data.styles[rows[i]]], data.names[name], data.tags[name])
        assert (tokenise(tokenizer, texts) == tokens[i]).all(1).any(), (name, tokens[i])
    space = zoo.load(folder, device="cpu").space(PROMPTS, scale=4.0)
    x_t, t = torch.randn(2, 4, 16, 16), torch.tensor([900, 200])
    ours = teacher.guided(tokenise(tokenizer, PROMPTS))(x_t, t)
    assert relative(ours, space.model(x_t, t)) < 1e-5


def test_a_jump_of_other_weights_is_refused(model, exported):
    run, folder, _ = model
    with pytest.raises(FileNotFoundError, match="start it by python -m"):
        export(run, folder, "distillation")
    distil(run, folder, "distillation")
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    from safetensors.torch import save_file

    save_file({k: v + 1 for k, v in load_file(unet).items()}, unet, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="distilled from the weights"):
        export(run, folder, "distillation")


def test_what_is_asked_is_of_the_whole_table(small_data):
    prompts, pictures, kinds = jump_prompts.prompts_of(small_data, 60)
    again = jump_prompts.prompts_of(small_data, 60)[0]
    assert prompts == again and kinds.bincount().tolist() == [20, 20, 20]
    assert (small_data.split[pictures] == 0).all()
    for prompt, row, kind in zip(prompts, pictures.tolist(), kinds.tolist(), strict=True):
        caption = small_data.captions([row])[0]
        name = small_data.names[small_data.objects[row]]
        if kind == 0:
            assert prompt == caption
        elif kind == 1:
            assert prompt != caption
        else:
            assert prompt in ALIASES[name]


def test_the_table_counts_passes_and_judges(model, exported, tmp_path, monkeypatch):
    run, folder, _ = model
    distil(run, folder, "distillation")
    export(run, folder, "distillation")
    monkeypatch.setattr(tables, "TABLES", tmp_path)
    monkeypatch.setattr(zoo.LatentBundle, "classifier", property(lambda b: Known(len(b.names))))
    rows = [("end", 100), ("jump, noise anew", 2), ("jump, eta=0", 1), ("ddim", 2)]
    plan = [{"sampler": name, "S": S, "seed": 0, "pictures": 6} for name, S in rows]
    monkeypatch.setattr(table, "END", ("ddim", "trailing", 4))
    monkeypatch.setattr(table, "plan", lambda *_: plan)
    for _ in range(2):
        table.emoji_jump(folder, run / "data.safetensors", count=6)
        file = json.loads((tmp_path / "emoji_jump.json").read_text())
    assert file["unet_sha256"] == zoo.load(folder, device="cpu", fast=True).sha256
    assert file["teacher_sha256"] == zoo.load(folder, device="cpu").sha256
    assert file["guidance"] == 4.0 and len(file["cells"]) == 4
    assert [cell["evaluations"] for cell in file["cells"]] == [200, 2, 1, 4]
    end, *others = file["cells"]
    assert end["error"] == 0 and end["gradient energy"] == 1 and "psnr" not in end
    for cell in others:
        assert cell["error"] > 1e-3 and cell["psnr"] > 0
        assert set(cell["top-1"]) == {"caption", "other caption", "alias"}


def test_the_judge_is_asked_of_the_right_pictures(exported, monkeypatch):
    """The pictures asked for, as they are: all right, but for the turned-over ones."""
    run, out, data = exported
    monkeypatch.setattr(zoo.LatentBundle, "classifier", property(lambda b: Known(len(b.names))))
    _, pictures, kinds = jump_prompts.prompts_of(data, 30)
    _, look = jump_prompts.questions(run / "data.safetensors", zoo.load(out, device="cpu"), 30)
    x = data.images[pictures].float() / 127.5 - 1
    assert look(x) == {
        "top-1": {"caption": 1, "other caption": 1, "alias": 1},
        "style": {"caption": 1},
    }
    x[kinds == 2] = 1.0
    assert look(x)["top-1"] == {"caption": 1, "other caption": 1, "alias": 0}
