"""The pictures outside the notebooks: ``python -m tools.figures`` draws figures/,
``--check`` compares it.

Every PNG has a JSON file beside it that says how it was made: command, seed, model and the sha256
of its weights, the text for those who cannot see it, and the PSNR in dB below which a redrawn
picture counts as another one.
"""

import argparse
import io
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ddim_tutorial.console import escape_unprintable
from ddim_tutorial.metrics import psnr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ddim_tutorial.zoo import Bundle, LatentBundle

FOLDER = Path("figures")


@dataclass(frozen=True)
class Recipe:
    """How a figure is made: ``draw(bundle, generator)`` with the model ``zoo.load(model)`` and a
    CPU generator."""

    draw: "Callable[[Any, torch.Generator], Figure]"
    alt: str
    model: str = "fashion"
    seed: int = 0
    psnr_floor: float = 40.0


def read_png(data: bytes) -> Tensor:
    """A PNG file as (H, W, 3) uint8, as it looks on a white page."""
    from PIL import Image

    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return torch.from_numpy(np.array(Image.alpha_composite(white, picture).convert("RGB")))


def draw_jump_grid(bundle: "Bundle", generator: torch.Generator) -> "Figure":
    from ddim_tutorial.grids import jump_grid
    from ddim_tutorial.sampling import trajectory
    from ddim_tutorial.spacing import times

    x_T = torch.randn((1, *bundle.shape), generator=generator).to(bundle.device)
    ankle_boot = 9
    grid = times(bundle.schedule.T, 50)
    return jump_grid(list(trajectory(bundle.conditional(ankle_boot), x_T, grid, bundle.schedule)))


def draw_latent_grid(bundle: "LatentBundle", generator: torch.Generator) -> "Figure":
    """The run of notebook 05."""
    from ddim_tutorial.grids import jump_grid
    from ddim_tutorial.noise import randn
    from ddim_tutorial.sampling import trajectory

    space = bundle.space("Image of cassette player", scale=7.5)
    z_T = randn((1, *bundle.shape), [generator], device=bundle.device)
    steps = list(trajectory(space.model, z_T, space.times(100), bundle.schedule))
    return jump_grid(steps[::10], space.decode, columns=10)


FIGURES = {
    "latent_grid": Recipe(
        draw_latent_grid,
        alt=(
            "Ten moments of a run of 100 DDIM steps on the emoji model, prompt 'Image of cassette"
            " player', from noise on the left to a dark box with light bars, the model's cassette,"
            " on the right. Top row: the state, decoded, coloured noise that clears up. Middle row:"
            " the predicted clean picture, decoded, a dark blur at first, a frame in the second"
            " column, the box with its bars from the fourth on. Bottom row: their difference on one"
            " scale, strong at first and nearly nothing at the end."
        ),
        model="emoji",
        seed=1,
    ),
    "jump_grid": Recipe(
        draw_jump_grid,
        alt=(
            "Eight moments of one DDIM run on the Fashion-MNIST model, from pure noise on the left"
            " to an ankle boot on the right. Top row: the noisy state x_t. Middle row: the clean"
            " picture that the model predicts from it in one jump, a grainy boot at first, then a"
            " blurred one, then ever sharper. Bottom row: their difference, strong until past the"
            " middle of the run and nearly nothing at its end."
        ),
    ),
}


def make(folder: Path, recipes: Mapping[str, Recipe] = FIGURES) -> None:
    """Write NAME.png and NAME.json into ``folder`` for every recipe."""
    from ddim_tutorial import zoo
    from ddim_tutorial.grids import to_png

    folder.mkdir(parents=True, exist_ok=True)
    for name, recipe in recipes.items():
        bundle = zoo.load(recipe.model, device="cpu")
        figure = recipe.draw(bundle, torch.Generator().manual_seed(recipe.seed))
        (folder / f"{name}.png").write_bytes(to_png(figure))
        sidecar = {
            "command": f"python -m tools.figures {name}",
            "seed": recipe.seed,
            "model": recipe.model,
            "model_sha256": bundle.sha256,
            "alt": recipe.alt,
            "psnr_floor": recipe.psnr_floor,
        }
        (folder / f"{name}.json").write_text(
            json.dumps(sidecar, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def check(folder: Path, recipes: Mapping[str, Recipe] = FIGURES) -> list[str]:
    """Draw every recipe again and say where ``folder`` differs: picture, sidecar, missing file.
    Empty: nothing does."""
    problems = []
    with TemporaryDirectory() as temporary:
        fresh = Path(temporary)
        make(fresh, recipes)
        for name, recipe in recipes.items():
            stored, drawn = folder / f"{name}.png", fresh / f"{name}.png"
            if not stored.exists() or not stored.with_suffix(".json").exists():
                problems.append(
                    f"{stored}: the picture or its JSON file is missing; run make figures"
                )
                continue
            recorded, expected = (
                json.loads(p.with_suffix(".json").read_text(encoding="utf-8"))
                for p in (stored, drawn)
            )
            problems += [
                f"{stored.with_suffix('.json')}: {key} is {recorded.get(key)!r}, wanted"
                f" {expected.get(key)!r}"
                for key in sorted(recorded.keys() | expected.keys())
                if recorded.get(key) != expected.get(key)
            ]
            a, b = read_png(stored.read_bytes()), read_png(drawn.read_bytes())
            if a.shape != b.shape:
                problems.append(
                    f"{stored}: its shape is {tuple(a.shape)}, {tuple(b.shape)} was drawn"
                )
            elif not (seen := psnr(a[None], b[None], 255).item()) >= recipe.psnr_floor:
                problems.append(
                    f"{stored}: PSNR {seen:.1f} dB to the picture drawn now, "
                    f"{recipe.psnr_floor:.0f} dB wanted"
                )
    return problems


def main(arguments: list[str] | None = None) -> int:
    escape_unprintable()
    parser = argparse.ArgumentParser(
        prog="python -m tools.figures", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)}; default: all"
    )
    parser.add_argument(
        "--check", action="store_true", help="draw into a temporary folder and compare"
    )
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - FIGURES.keys():
        parser.error(f"unknown figure {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}")
    recipes = {name: FIGURES[name] for name in options.names or FIGURES}
    if not options.check:
        make(options.folder, recipes)
        print(f"drew {', '.join(recipes)} into {options.folder}/")
        return 0
    problems = check(options.folder, recipes)
    if not options.names:  # only a check of all knows what does not belong there
        problems += [
            f"{path}: no recipe draws it; remove it"
            for path in sorted(options.folder.glob("*"))
            if path.stem not in FIGURES
        ]
    print("\n".join(problems) or f"{len(recipes)} figures agree with {options.folder}/")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
