"""How good the pixel model is: what its card says under "quality", its samples and examples."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ddim_tutorial import zoo
from ddim_tutorial.grids import from_uint8
from ddim_tutorial.metrics import frechet
from ddim_tutorial.training.evaluate.measures import (
    NETWORK,
    SPACING,
    balanced,
    classify,
    draw,
    nearest,
    option,
    quantiles,
    share,
)
from ddim_tutorial.training.fashion_data import NAMES, read_data, write_grid

ABOUT = {  # what the card says of the model beside its figures
    "title": "Fashion-MNIST, 32 x 32, class-conditional",
    "data": (
        "Fashion-MNIST (Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747): 60,000 training and"
        " 10,000 test pictures, 28 x 28 grey, padded with black to 32 x 32; Debian package"
        " dataset-fashion-mnist. examples.safetensors: the first 20 test pictures of each class"
    ),
    "licence": "weights MIT; pictures: Fashion-MNIST, MIT, Copyright 2017 Zalando SE",
    "classes": list(NAMES),
    "schedule": (
        "linear, T=1000, beta 1e-4 to 0.02; the network predicts eps; label 10 is the null class"
    ),
    "weaknesses": [  # seen in samples.png and in the figures under "quality"
        (
            "shirts are confused with T-shirts, pullovers and coats, as the judge confuses real"
            " ones, but more often"
        ),
        (
            "some patterned garments come out as speckles without a pattern, and a few trousers"
            " without their gap"
        ),
    ],
}


def fashion_quality(
    bundle: zoo.Bundle, data: Path, per_class: int = 200, precision: str = "no"
) -> tuple[dict[str, Any], Tensor]:
    """What the card says under "quality", and the pictures it was measured on, their classes 0..9
    in turn."""
    judge, labels = bundle.classifier, torch.arange(10).repeat(per_class)
    (train, train_labels), (test, test_labels) = read_data(data, "train"), read_data(data, "test")
    train, test = from_uint8(train), from_uint8(test)
    some_train, some_test = balanced(train_labels, per_class), balanced(test_labels, per_class)
    train_features, _ = classify(judge, train)
    test_features, test_seen = classify(judge, test)
    x = draw(bundle, labels, 50, precision=precision)
    other = draw(bundle, labels[:100], 50, precision="bf16" if precision == "no" else "no")
    features, seen = classify(judge, x)

    def distances(reference: Tensor) -> dict[str, float]:
        return frechet_beside(features, train_features[some_train], reference)

    own = "Fréchet distance (own classifier's features, not Inception's) to"
    to_nearest = f"to the nearest of {len(train)} training pictures"
    return {
        "classifier accuracy on the 10,000 test pictures": share(test_seen == test_labels),
        "samples": (
            f"{len(x)}, the same number of each class; {SPACING} grid, S=50, eta=0, guidance 1,"
            f" {NETWORK[precision]}, picture i from seed i"
        ),
        "bf16 autocast against float32, rms difference a pixel, 100 samples": round(
            (x[:100] - other).square().mean().sqrt().item(), 4
        ),
        "samples judged as their class": share(seen == labels),
        "samples judged as their class, by class": by_class(seen, labels),
        "test pictures judged as their class, by class": by_class(test_seen, test_labels),
        f"{own} {len(some_test)} test pictures": distances(test_features[some_test]),
        f"{own} all {len(test)} test pictures": distances(test_features),
        f"rms difference a pixel {to_nearest}": {
            "samples": quantiles(nearest(x.clamp(-1, 1), train)),
            "test pictures": quantiles(nearest(test[some_test], train)),
        },
        f"rms difference a feature {to_nearest}": {
            "samples": quantiles(nearest(features, train_features)),
            "test pictures": quantiles(nearest(test_features[some_test], train_features)),
        },
    }, x


def by_class(seen: Tensor, labels: Tensor) -> dict[str, float]:
    """The share of each class's pictures that are judged as it."""
    return {name: share(seen[labels == c] == c) for c, name in enumerate(NAMES)}


def frechet_beside(samples: Tensor, training: Tensor, reference: Tensor) -> dict[str, float]:
    """The distance of the samples' features to the reference's, beside that of as many training
    pictures: what a perfect model would reach."""
    found, floor = frechet(samples, reference), frechet(training, reference)
    return {
        "samples": round(found, 4),
        "as many training pictures": round(floor, 4),
        "ratio": round(found / floor, 2),
    }


def fashion(folder: Path, data: Path, precision: str = "no") -> None:
    """Measure the pixel model, choose its examples, and complete its card."""
    bundle = zoo.load(folder)
    quality, x = fashion_quality(bundle, data, precision=precision)
    print(json.dumps(quality, indent=2, ensure_ascii=False))
    by_row = x[:100].view(10, 10, *bundle.shape).transpose(0, 1).flatten(0, 1)
    write_grid(by_row, folder / "samples.png", columns=10)
    test, labels = read_data(data, "test")
    chosen = balanced(labels, 20)
    save_file({"images": test[chosen], "labels": labels[chosen]}, folder / "examples.safetensors")
    training = bundle.card["training"]
    command = f"python -m ddim_tutorial.training.evaluate fashion{option(precision)}"
    measured = {
        "command": [run["command"] for run in training.values()] + [command],
        "hours": round(sum(run["hours"] for run in training.values()), 2),
        "parameters": sum(p.numel() for p in bundle.unet.parameters()),
        "quality": quality,
    }
    zoo.write_card(folder, bundle.card | ABOUT | measured)
