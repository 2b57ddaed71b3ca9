"""The recipe on tiny configurations: a small data set, tiny networks, a run of one step and what is
exported of it."""

import json
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddim_tutorial.training.emoji import __main__ as recipe
from ddim_tutorial.training.emoji import diffusion, judge, networks
from ddim_tutorial.training.emoji.data import Emoji

NAMES = ["red apple", "blue book", "t-rex", "piñata", "man's shoe"]


def make_data(count: int = 8) -> Emoji:
    """Grey rectangles on white, of a level that names object and style. The third style of five
    objects is held out, one object in all styles, and one object has no blob."""
    names = [*NAMES, *(f"thing{i}" for i in range(count - len(NAMES)))]
    objects, styles = torch.arange(count).repeat_interleave(4), torch.arange(4).repeat(count)
    split = torch.where(objects == 1, 2, torch.where((objects < 6) & (styles == 2), 1, 0))
    images = torch.full((4 * count, 3, 64, 64), 255, dtype=torch.uint8)
    for i, image in enumerate(images):
        image[:, 10 : 40 + i % 5, 12 : 44 + i % 3] = 5 * i
    part = slice(0, -1)
    columns = (column[part] for column in (images, objects, styles, split))
    return Emoji(*columns, names, [["fruit"]] * count, {"pictures@1": {"licence": "MIT"}})


def write_data(data: Emoji, path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: getattr(data, key) for key in ("images", "objects", "styles", "split")}
    texts = {key: json.dumps(getattr(data, key)) for key in ("names", "tags", "packages")}
    save_file({key: value.clone() for key, value in tensors.items()}, path, metadata=texts)


@pytest.fixture
def small_data() -> Emoji:
    return make_data()


def new_tiny_vae():
    torch.manual_seed(0)
    return networks.new_vae((16, 16, 16)).eval()


@pytest.fixture
def tiny_vae():
    return new_tiny_vae()


@pytest.fixture
def tiny_corpus() -> diffusion.Corpus:
    """Three pictures of two members each."""
    torch.manual_seed(0)
    return diffusion.Corpus(
        torch.randn(6, 4, 8, 8).half(),
        torch.full((6, 4, 8, 8), 0.1).half(),
        torch.tensor([0, 0, 1, 1, 2, 2]),
        torch.randint(2, 50, (3, 3, 8)),
        torch.full((3,), 3),
        torch.ones(8, dtype=torch.long),
    )


@pytest.fixture
def tiny_networks(monkeypatch):
    make_tiny(monkeypatch)


def make_tiny(patch) -> None:
    """The diffusion training with tiny networks and one picture to look at."""
    text_encoder = partial(networks.new_text_encoder, width=32, layers=1)
    patch.setattr(diffusion, "new_text_encoder", text_encoder)
    patch.setattr(diffusion, "new_unet", partial(networks.new_unet, (32, 32, 32), 32))
    patch.setattr(diffusion, "LOOK", ("noto emoji of red apple",))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run of one step of a tiny model, exported: (run folder, exported folder, data)."""
    folder, data = tmp_path_factory.mktemp("emoji"), make_data()
    run, out = folder / "run", folder / "zoo"
    write_data(data, run / "data.safetensors")
    new_tiny_vae().save_pretrained(run / "vae")
    with pytest.MonkeyPatch.context() as patch:
        make_tiny(patch)
        settings = "--steps 1 --batch 4 --members 2 --precision no"
        recipe.main(["--run", str(run), "diffusion", *settings.split()])
    state = run / "diffusion" / "state.safetensors"
    # after one step weights and average are equal; and the log of a running training is ahead of
    # its checkpoint
    moved = {
        key: value + 0.01 if key.startswith("ema.module.unet") else value
        for key, value in load_file(state).items()
    }
    save_file(moved, state, metadata={"step": "1"})
    with (run / "diffusion" / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 2, "seconds": 9.0, "loss": 0.5}) + "\n")
    torch.manual_seed(0)
    network = judge.new_judge(len(data.names), (8, 8, 16))
    judge.save_judge(network, data.names, run / "judge.safetensors")
    recipe.main(["--run", str(run), "export", "--folder", str(out)])
    return run, out, data
