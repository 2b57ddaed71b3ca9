"""What the evaluations share: drawing pictures in a stated precision, judging and comparing
them."""

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ddim_tutorial import zoo
from ddim_tutorial.classifier import Classifier
from ddim_tutorial.noise import generators, randn
from ddim_tutorial.predict import EpsModel
from ddim_tutorial.sampling import sample
from ddim_tutorial.spacing import times

SPACING = "trailing"
NETWORK = {"no": "float32", "bf16": "bf16 autocast, float32 state"}  # a precision, in words


def option(precision: str) -> str:
    """What a command that computed in this precision was given, to be stored with its figures."""
    return "" if precision == "no" else f" --precision {precision}"


def nearest(x: Tensor, reference: Tensor) -> Tensor:
    """Root mean square difference of each x: (N, *dims) to the nearest of reference: (M, *dims),
    shape (N,)."""
    x, reference = x.flatten(1), reference.flatten(1)
    rows = [torch.cdist(part, reference).amin(1) for part in x.split(250)]
    return torch.cat(rows) / x.shape[1] ** 0.5


def classify(model: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, d) and labels (N,), on the CPU, that the clean classifier gives pictures x: (N,
    C, H, W) in [-1, 1]."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        features = torch.cat([model.features(part.to(device)) for part in x.split(500)])
        return features.cpu(), model.head(features).argmax(1).cpu()


def balanced(labels: Tensor, per_class: int) -> Tensor:
    """Indices of the first ``per_class`` pictures of each class, class after class."""
    return torch.cat([(labels == c).nonzero()[:per_class, 0] for c in labels.unique()])


def in_precision(model: EpsModel, precision: str) -> EpsModel:
    """The model itself ("no": float32), or with its network in bf16 where it gains by it
    (convolutions and products) while the state stays float32 ("bf16")."""
    if precision not in NETWORK:
        raise ValueError(f"precision: got {precision!r}, wanted one of {', '.join(NETWORK)}")
    if precision == "no":
        return model

    def eps(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(x_t.device.type, torch.bfloat16):
            return model(x_t, t).float()

    return eps


def draw(
    bundle: zoo.Bundle,
    labels: Tensor,
    steps: int,
    *,
    eta: float = 0.0,
    sigma_hat: bool = False,
    batch: int = 100,
    precision: str = "no",
) -> Tensor:
    """Pictures for labels (N,), guidance 1, on the CPU; picture i comes from seed i, whatever the
    steps, eta or batch."""
    parts, grid = [], times(bundle.schedule.T, steps, SPACING)
    for first in tqdm(range(0, len(labels), batch), desc=f"{len(labels)} pictures", leave=False):
        part = labels[first : first + batch]
        seeds = generators(range(first, first + len(part)))
        x_T = randn((len(part), *bundle.shape), seeds, device=bundle.device)
        model = in_precision(bundle.conditional(part), precision)
        options = {"eta": eta, "sigma_hat": sigma_hat, "generator": seeds}
        parts.append(sample(model, x_T, grid, bundle.schedule, **options).cpu())
    return torch.cat(parts)


def share(hits: Tensor) -> float:
    """The share of True in (N,), to four digits."""
    return round(hits.float().mean().item(), 4)


def quantiles(distances: Tensor) -> dict[str, float]:
    """Three quantiles of (N,) distances: the lowest is where copies would show."""
    return {
        name: round(distances.quantile(q).item(), 4)
        for name, q in (("1%", 0.01), ("10%", 0.1), ("50%", 0.5))
    }
