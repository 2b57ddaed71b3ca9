"""figures/ is what its recipes draw, and the comparison notices when it is not."""

import io
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import nbval_pictures
from parts import tiny_unet
from tools import figures
from tools.figures import FIGURES, Recipe, check, make, read_png

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(
    not nbval_pictures.COMPARED,
    reason="another matplotlib than the lock's lays out text differently",
)
def test_the_stored_figures_are_what_the_recipes_draw():
    assert check(ROOT / "figures") == []
    assert {path.stem for path in (ROOT / "figures").iterdir()} == FIGURES.keys()


def test_the_readme_shows_them_with_their_alt_text():
    shown = re.findall(
        r"!\[([^\]]*)\]\(figures/(\w+)\.png\)", (ROOT / "README.md").read_text(encoding="utf-8")
    )
    assert shown and all(FIGURES[name].alt == alt for alt, name in shown)


def test_transparent_pixels_are_white_as_on_the_page():
    buffer = io.BytesIO()
    Image.new("RGBA", (2, 3), (9, 9, 9, 0)).save(buffer, "PNG")
    assert torch.equal(read_png(buffer.getvalue()), torch.full((3, 2, 3), 255, dtype=torch.uint8))


def draw(bundle, generator):
    from ddim_tutorial.grids import image_grid

    x_t = torch.randn((8, *bundle.shape), generator=generator)
    return image_grid(bundle.model(x_t, torch.full((8,), 500))[:, :1], columns=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A diffusers folder with a small random network and its card."""
    from diffusers import DDIMScheduler

    from ddim_tutorial import zoo

    folder = tmp_path_factory.mktemp("model")
    tiny_unet().save_pretrained(folder / "unet")
    DDIMScheduler(clip_sample=False).save_pretrained(folder / "scheduler")
    zoo.write_card(folder, {"name": "tiny"})
    return folder


@pytest.fixture
def recipes(model) -> dict[str, Recipe]:
    return {"noise": Recipe(draw, alt="Eight random pictures.", model=str(model), seed=3)}


def test_a_figure_carries_its_provenance(tmp_path, recipes, model):
    make(tmp_path, recipes)
    card = json.loads((model / "card.json").read_text())
    assert json.loads((tmp_path / "noise.json").read_text()) == {
        "command": "python -m tools.figures noise",
        "seed": 3,
        "model": str(model),
        "psnr_floor": 40.0,
        "alt": "Eight random pictures.",
        "model_sha256": card["files"]["unet/diffusion_pytorch_model.safetensors"],
    }
    assert check(tmp_path, recipes) == []


def mirror(folder, model):
    path = folder / "noise.png"
    Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)


def shrink(folder, model):
    path = folder / "noise.png"
    Image.open(path).resize((50, 50)).save(path)


def forge(folder, model):
    path = folder / "noise.json"
    path.write_text(path.read_text().replace('"seed": 3', '"seed": 4'))


def retrain(folder, model):
    from ddim_tutorial import zoo

    path = model / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({key: value * 1.0001 for key, value in load_file(path).items()}, path)
    zoo.write_card(model, {"name": "tiny"})


def lose(folder, model):
    (folder / "noise.json").unlink()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (mirror, "PSNR"),
        (shrink, "shape"),
        (forge, "seed is 4, wanted 3"),
        (retrain, "model_sha256"),
        (lose, "missing"),
    ],
)
def test_each_fault_is_found_and_named(tmp_path, recipes, model, fault, said):
    make(tmp_path, recipes)
    fault(tmp_path, model)
    (found,) = check(tmp_path, recipes)
    assert said in found


def test_the_command_draws_and_then_agrees(tmp_path, recipes, monkeypatch, capsys):
    monkeypatch.setattr(figures, "FIGURES", recipes)
    assert (
        figures.main(["--folder", str(tmp_path)])
        == figures.main(["--folder", str(tmp_path), "--check"])
        == 0
    )
    assert "1 figures agree" in capsys.readouterr().out
    (tmp_path / "old.png").touch()
    assert figures.main(["--folder", str(tmp_path), "--check"]) == 1
    assert "no recipe draws it" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        figures.main(["--folder", str(tmp_path), "nosie"])
