"""The pictures that the table of notebook 10 edits: held-out ones in new poses, or drawn ones, each
with what it is to become."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ddim_tutorial import zoo
from ddim_tutorial.editing import Attention, attention_maps
from ddim_tutorial.editing.methods import Scene
from ddim_tutorial.grids import from_uint8, quantise
from ddim_tutorial.inversion import invert
from ddim_tutorial.noise import generators, randn
from ddim_tutorial.sampling import sample
from ddim_tutorial.training.emoji.dependence import poses
from ddim_tutorial.training.emoji.family import members

STEPS, THRESHOLD = 20, 0.3
DRAWN = 2_000_000  # the seed of the first drawn picture
RELATIVES = 16  # members of a family that say how much a pose varies


class Pair(NamedTuple):
    """A held-out picture by its (style, object), another (style, object), and the word of the
    source's prompt whose place the edit may change."""

    source: tuple[str, str]
    target: tuple[str, str]
    word: str


PAIRS = (
    Pair(("blob", "red apple"), ("fluent", "red apple"), "apple"),
    Pair(("fluent", "blue heart"), ("fluent", "red heart"), "heart"),
    Pair(("blob", "dog face"), ("blob", "cat face"), "dog"),
    Pair(("noto", "mouse face"), ("noto", "rabbit face"), "mouse"),
    Pair(("twemoji", "bus"), ("twemoji", "delivery truck"), "bus"),
    Pair(("noto", "taxi"), ("noto", "police car"), "taxi"),
    Pair(("blob", "grinning face"), ("blob", "smiling face with sunglasses"), "face"),
    Pair(("blob", "volleyball"), ("blob", "soccer ball"), "volleyball"),
)


def prompt(what: tuple[str, str]) -> str:
    return "{} emoji of {}".format(*what)


class Pictures(NamedTuple):
    """A scene with what its edits are held against: pictures (N, 3, H, W) in [-1, 1] as the
    autoencoder gives them back; the pair of each; where the edit may change nothing, (N, 1, H, W)
    bool; what each number of a pose varies by within a family, (N, 5)."""

    scene: Scene
    x_0: Tensor
    pairs: list[Pair]
    outside: Tensor
    pose_std: Tensor

    @property
    def targets(self) -> list[str]:
        return [prompt(pair.target) for pair in self.pairs]


def pictures(bundle: zoo.LatentBundle, count: int, kind: str, scale: float) -> Pictures:
    """``count`` pictures of each pair: "real", held-out ones in poses by a fixed seed, or "drawn"
    at ``scale``."""
    pairs = [pair for pair in PAIRS for _ in range(count)]
    sources = [prompt(pair.source) for pair in pairs]
    rows = [bundle.captions.index(prompt(pair.source)) for pair in PAIRS]
    images = quantise(bundle.examples.images[rows])
    families = [members(image, RELATIVES + count, seed=i)[0] for i, image in enumerate(images)]
    space, z_T = bundle.space(sources, scale=scale), None
    if kind == "real":
        z_0 = space.encode(from_uint8(torch.cat([f[:count] for f in families])).to(bundle.device))
    else:
        z_T = randn(
            (len(pairs), *bundle.shape),
            generators(range(DRAWN, DRAWN + len(pairs))),
            device=bundle.device,
        )
        z_0 = sample(space.model, z_T, space.times(STEPS), space.schedule)
    scene = Scene(bundle, z_0, sources, 0, STEPS, z_T)
    spread = torch.stack([poses(f[count:]).std(0) for f in families])
    words = [pair.word for pair in pairs]
    x_0 = space.decode(z_0).clamp(-1, 1).cpu()
    return Pictures(
        scene, x_0, pairs, outside(scene, words, x_0), spread.repeat_interleave(count, 0)
    )


def outside(scene: Scene, words: list[str], x_0: Tensor) -> Tensor:
    """Where the network does not look at each picture's word, (N, 1, H, W): its map, at naive
    inversion, is at most THRESHOLD of its maximum."""
    space, seen = scene.space(scene.sources, 1.0), []
    for z, source, word in zip(scene.z_0.split(1), scene.sources, words, strict=True):
        with Attention(scene.bundle.pipe, source) as run:
            one = scene.space([source], 1.0)
            invert(one.model, z, scene.grid(space.schedule.T), space.schedule)
        seen.append(attention_maps(run, word))
    maps = F.interpolate(torch.stack(seen)[:, None], x_0.shape[-2:], mode="bilinear")
    return maps <= THRESHOLD * maps.amax((2, 3), keepdim=True)
