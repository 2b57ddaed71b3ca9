"""What an exactly invertible sampler costs in quality: the pixel model's Table 3."""

from pathlib import Path

import torch

from ddim_tutorial import zoo
from ddim_tutorial.grids import from_uint8
from ddim_tutorial.metrics import frechet
from ddim_tutorial.noise import generators, randn
from ddim_tutorial.spacing import times
from ddim_tutorial.training.evaluate.inversion import COUPLED, NAIVE, draw
from ddim_tutorial.training.evaluate.measures import SPACING, classify, in_precision
from ddim_tutorial.training.evaluate.tables import Cell, fill
from ddim_tutorial.training.fashion_data import read_data

SAMPLERS = {"DDIM": NAIVE} | {name: name for name in COUPLED if not name.startswith("Rex")}


def fashion_table3(folder: Path, data: Path, precision: str = "no") -> None:
    """Table 3: the distance of samples to test pictures, by steps and sampler (the shape of BELM's
    Table 3, arXiv:2410.07273)."""
    bundle = zoo.load(folder)
    test_features, _ = classify(bundle.classifier, from_uint8(read_data(data, "test")[0]))

    def measure(S: int, sampler: str, samples: int) -> Cell:
        labels, parts = torch.arange(10).repeat(samples // 10), []
        for first in range(0, samples, 100):
            part = labels[first : first + 100]
            seeds = generators(range(first, first + len(part)))
            x_T = randn((len(part), *bundle.shape), seeds, device=bundle.device)
            model = in_precision(bundle.conditional(part), precision)
            grid = times(bundle.schedule.T, S, SPACING)
            parts.append(draw(SAMPLERS[sampler], model, x_T, grid, bundle.schedule).cpu())
        features, seen = classify(bundle.classifier, torch.cat(parts))
        accuracy = (seen == labels).float().mean().item()
        return {"frechet": frechet(features, test_features), "accuracy": accuracy}

    plan = [{"S": S, "sampler": name, "samples": 200} for S in (10, 20, 50) for name in SAMPLERS]
    header = {
        "seeds": "picture i of a cell: i",
        "what": (
            "Fréchet distance between features of the bundled classifier, not comparable with"
            " Inception's; EDICT takes two evaluations a step, the others one"
        ),
        "reference": "all 10,000 test pictures",
        "guidance": 1,
    }
    fill("fashion-table3", bundle, plan, measure, precision, lambda: header)
