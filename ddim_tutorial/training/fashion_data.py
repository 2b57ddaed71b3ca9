"""Fashion-MNIST (Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747) as tensors of 32 x 32 pictures,
and a grid of them as a file."""

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ddim_tutorial.grids import to_uint8

DATA = Path("/usr/share/datasets/fashion-mnist")
NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def read_idx(path: Path) -> np.ndarray:
    """A gzipped IDX file of unsigned bytes: big-endian header (0, 0, 8, dimensions), the shape,
    then the values."""
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\0\0\x08":
        raise ValueError(
            f"{path}: got a file that starts with {content[:4]!r}, wanted an IDX file of unsigned"
            " bytes (0, 0, 8, dimensions)"
        )
    shape = np.frombuffer(content, ">u4", content[3], 4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
    if values.size != shape.prod():
        raise ValueError(
            f"{path}: got {values.size} values for the shape {shape.tolist()}: the file is cut"
            " short"
        )
    return values.reshape(shape)


def read_data(folder: str | Path = DATA, split: str = "train") -> tuple[Tensor, Tensor]:
    """Pictures (N, 1, 32, 32) uint8 padded with black from 28 x 28, and labels (N,) int64, of
    'train' or 'test'."""
    stem = Path(folder) / {"train": "train", "test": "t10k"}[split]
    paths = [
        stem.with_name(f"{stem.name}-{part}.gz")
        for part in ("images-idx3-ubyte", "labels-idx1-ubyte")
    ]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]} is not there: install Debian's dataset-fashion-mnist package "
            "(apt install dataset-fashion-mnist), or give a folder with Fashion-MNIST's four .gz "
            "files by --data FOLDER"
        )
    images, labels = (torch.from_numpy(read_idx(path).copy()) for path in paths)
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{folder}: got pictures of shape {tuple(images.shape)} and labels"
            f" {tuple(labels.shape)}, wanted (N, 28, 28) and (N,)"
        )
    return F.pad(images, (2, 2, 2, 2))[:, None], labels.long()


def write_grid(x: Tensor, path: Path, columns: int) -> None:
    """x: (N, 1, 32, 32) in [-1, 1] as one PNG, row by row, each picture twice its size."""
    from PIL import Image

    rows = to_uint8(x).reshape(-1, columns, 32, 32).transpose(0, 2, 1, 3).reshape(-1, 32 * columns)
    Image.fromarray(rows.repeat(2, 0).repeat(2, 1)).save(path)
