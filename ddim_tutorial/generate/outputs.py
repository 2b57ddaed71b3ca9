"""What is made of finished shards: a sheet to look at, a distance to a test set."""

import io
from pathlib import Path

import torch
from torch import Tensor

from ddim_tutorial.classifier import Classifier
from ddim_tutorial.files import write_whole
from ddim_tutorial.grids import from_uint8
from ddim_tutorial.metrics import frechet_metric
from ddim_tutorial.zoo import Bundle, LatentBundle

from .shards import Shards


def contact_sheet(shards: Shards, path: str | Path, count: int = 64, columns: int = 8) -> None:
    """The first ``count`` pictures as one PNG, row by row, on black."""
    from PIL import Image

    parts: list[Tensor] = []
    for images in shards.images():
        parts.append(images[: count - sum(map(len, parts))])
        if sum(map(len, parts)) == count:
            break
    pictures = torch.cat(parts)
    N, C, H, W = pictures.shape
    rows = -(-N // columns)
    empty = torch.zeros(rows * columns - N, C, H, W, dtype=torch.uint8)
    cells = torch.cat([pictures, empty]).view(rows, columns, C, H, W)
    sheet = cells.permute(0, 3, 1, 4, 2).reshape(rows * H, columns * W, C)
    content = io.BytesIO()
    Image.fromarray((sheet[..., 0] if C == 1 else sheet).numpy()).save(content, "png")
    write_whole(Path(path), content.getvalue())


def require_judge(bundle: Bundle | LatentBundle, data: Path) -> Bundle:
    """The bundle, if :func:`frechet_to_fashion` can judge by it: ValueError says why not,
    FileNotFoundError how to get the test set."""
    from ddim_tutorial.training.fashion_data import read_data

    if not isinstance(bundle, Bundle) or not (bundle.folder / "classifier").is_dir():
        raise ValueError(f"--frechet: {bundle.name} has no classifier to judge by; leave it out")
    try:
        import torchmetrics  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "--frechet needs torchmetrics: pip install 'ddim_tutorial[train]'"
        ) from error
    images, _ = read_data(data, "test")
    if images.shape[1:] != bundle.shape:
        raise ValueError(
            f"--frechet: the test set has pictures {tuple(images.shape[1:])}, {bundle.name} makes"
            f" {tuple(bundle.shape)}; leave it out"
        )
    return bundle


def frechet_to_fashion(shards: Shards, bundle: Bundle, data: Path) -> float:
    """Fréchet distance (Heusel et al. 2017, arXiv:1706.08500, Eq. 6) of the shards to the 10,000
    test pictures of Fashion-MNIST, between features of the bundle's classifier, not Inception's.

    One shard is in memory at a time: sums of features and of their products are kept."""
    from ddim_tutorial.training.fashion_data import read_data

    judge = bundle.classifier
    metric = frechet_metric(judge.head.in_features)
    metric.update(_features(judge, read_data(data, "test")[0]), real=True)
    for images in shards.images():
        metric.update(_features(judge, images), real=False)
    return metric.compute().item()


def _features(judge: Classifier, images: Tensor) -> Tensor:
    """(N, d) float64 of uint8 pictures (N, C, H, W)."""
    device = next(judge.parameters()).device
    with torch.inference_mode():
        parts = [judge.features(from_uint8(part).to(device)) for part in images.split(500)]
    return torch.cat(parts).double().cpu()
