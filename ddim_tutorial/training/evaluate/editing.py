"""What each way to edit costs and keeps: a row for a method, a prompt, a guidance scale and the
time where it is entered.

python -m ddim_tutorial.training.evaluate.editing --poses 4
    -> notebooks/data/emoji_editing.json

The pictures are held-out ones in new poses (``--poses`` of each), or, for rows of ``drawn``
pictures, samples of their prompts. Rows stand alone: a run that is stopped goes on with the row
where it was, a row of fewer pictures is measured again, and a table of other weights is begun anew.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddim_tutorial import zoo
from ddim_tutorial.console import escape_unprintable
from ddim_tutorial.editing.methods import METHODS
from ddim_tutorial.editing.structure import structure_distance
from ddim_tutorial.grids import quantise
from ddim_tutorial.latent import decode
from ddim_tutorial.metrics import psnr
from ddim_tutorial.training.emoji.dependence import poses
from ddim_tutorial.training.evaluate.pairs import PAIRS, STEPS, Pair, Pictures, pictures
from ddim_tutorial.training.evaluate.rows import Row, fill, versions
from ddim_tutorial.training.evaluate.tables import TABLES

DRAWN_AT, ALL = 4.0, 1000  # the guidance of drawn pictures; enter here for the whole path


@contextmanager
def evaluations(network: nn.Module) -> Iterator[list[int]]:
    """Counts how many pictures the network is asked for; a doubled batch counts twice."""
    count = [0]

    def called(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        count[0] += len(given[0] if given else named["sample"])

    hook = network.register_forward_pre_hook(called, with_kwargs=True)
    try:
        yield count
    finally:
        hook.remove()


def shows(bundle: zoo.LatentBundle, x: Tensor, wanted: list[tuple[str, str]]) -> Tensor:
    """Whether the classifier sees the wanted (style, object) in each of pictures x, (N, 2) bool."""
    with torch.no_grad():
        logits = bundle.classifier(x.clamp(-1, 1).to(bundle.device))
    objects = logits[:, : len(bundle.names)].argmax(1).tolist()
    styles = logits[:, len(bundle.names) :].argmax(1).tolist()
    names = bundle.card["data"]["styles"]
    found = zip(styles, objects, wanted, strict=True)
    return torch.tensor([(names[s] == w[0], bundle.names[o] == w[1]) for s, o, w in found])


def right(pairs: list[Pair], seen: Tensor) -> Tensor:
    """Whether what a pair changes is as asked, (N,) bool, from :func:`shows`: the object, and where
    the style changes the style as well."""
    restyled = torch.tensor([pair.source[0] != pair.target[0] for pair in pairs])
    return seen[:, 1] & (seen[:, 0] | ~restyled)


def pose_distance(x: Tensor, what: Pictures) -> Tensor:
    """How far the measured poses of pictures x lie from the sources', (N,): root mean square over
    the five numbers, each in units of what it varies by within the family."""
    one, other = (poses(quantise(y)) for y in (x, what.x_0))
    return ((one - other) / what.pose_std).square().mean(1).sqrt()


def measurer(bundle: zoo.LatentBundle, count: int) -> Callable[..., Row]:
    """The function that measures one row from ``count`` pictures of each pair."""

    @cache
    def these(kind: str, scale: float) -> Pictures:
        return pictures(bundle, count, kind, scale)

    @cache
    def another(kind: str, scale: float) -> Tensor:
        what = these(kind, scale)
        z = METHODS["fresh sample"](what.scene, what.targets, DRAWN_AT, bundle.schedule.T)
        return decode(bundle.pipe.vae, z).cpu()

    def measure(method: str, kind: str, to: str, scale: float, enter: int) -> Row:
        what = these(kind, scale if kind == "drawn" else DRAWN_AT)
        scene = replace(what.scene, known={})  # each row pays for its own inversion
        prompts = what.targets if to == "target" else scene.sources
        with evaluations(bundle.pipe.unet) as count:
            z = METHODS[method](scene, prompts, scale, enter)
        x = decode(bundle.pipe.vae, z).cpu()
        row: Row = {"evaluations": count[0] / len(x)} | kept(x, what)
        row["latent PSNR"] = psnr(z, scene.z_0).median().item()
        if to == "source":
            return row
        fresh = another(kind, scale if kind == "drawn" else DRAWN_AT)
        nearer = pose_distance(x, what) < pose_distance(fresh, what)
        gain = psnr(x, what.x_0) - psnr(fresh, what.x_0)
        by = {side: [getattr(pair, side) for pair in what.pairs] for side in ("source", "target")}
        return row | {
            **{
                side: share(right(what.pairs, shows(bundle, x, asked)))
                for side, asked in by.items()
            },
            "pose nearer than a fresh sample's": share(nearer),
            "dB above a fresh sample": gain.median().item(),
        }

    return measure


def share(hits: Tensor) -> float:
    return hits.double().mean().item()


def kept(x: Tensor, what: Pictures) -> Row:
    """What pictures x keep of the sources': medians, of the PSNR in dB, and of those parts of the
    picture where the source's word is not looked at."""
    vae, outside = what.scene.bundle.pipe.vae, what.outside.expand_as(x)
    error = ((x - what.x_0).square() * outside).sum((1, 2, 3)) / outside.sum((1, 2, 3))
    return {
        "PSNR": psnr(x, what.x_0).median().item(),
        "PSNR outside": (10 * (4 / error).log10()).nanmedian().item(),  # NaN: nothing outside
        "structure distance": structure_distance(vae, x, what.x_0).median().item(),
        "pose distance": pose_distance(x, what).median().item(),
    }


def plan() -> list[Row]:
    """The rows: reconstructions first, then every method's own trade between target and source."""
    usual: Row = {"kind": "real", "to": "target", "scale": DRAWN_AT, "enter": ALL}
    back = {"to": "source"}
    names = [f"{name} inversion" for name in ("naive", "exact")]
    nulls = ["null text, Adam .01", "null text, Adam .1"]
    rows: list[Row] = [back | {"method": m, "scale": s} for m in names for s in (1.0, 4.0)]
    rows += [back | {"method": m} for m in ("negative prompt", *nulls)]
    rows += [back | {"method": "edit-friendly", "scale": 1.0}, {"method": "fresh sample"}]
    rows += [{"method": "SDEdit", "enter": t} for t in range(300, 1000, 100)]
    coupled = [f"{name} inversion" for name in ("EDICT, alternating", "BDIA")]
    rows += [{"method": m, "scale": s} for m in names for s in (1.0, 1.5, 2.0, 4.0)]
    rows += [{"method": m, "scale": s} for m in coupled for s in (1.0, 2.0, 4.0)]
    rows += [{"method": m, "enter": t} for m in names for t in range(400, 1000, 100)]
    rows += [{"method": "negative prompt", "scale": s} for s in (2.0, 4.0)]
    rows += [{"method": nulls[1]}]
    for method in ("edit-friendly", "FlowEdit"):
        rows += [{"method": method, "enter": t} for t in (400, 500, 600, 700, 800, ALL)]
    swaps = [name for name in METHODS if name.startswith("prompt-to-prompt")]
    rows += [{"method": m, "kind": kind} for kind in ("drawn", "real") for m in swaps]
    return [usual | row for row in rows]


def main(arguments: list[str] | None = None) -> None:
    escape_unprintable()
    parser = argparse.ArgumentParser(
        prog="python -m ddim_tutorial.training.evaluate.editing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--poses", type=int, default=1, help="pictures of each of the eight pairs")
    parser.add_argument("--folder", type=Path, help="the model, instead of the bundled one")
    asked = parser.parse_args(arguments)
    bundle = zoo.load(asked.folder or zoo.ZOO / "emoji")
    header: Row = {
        "command": f"python -m ddim_tutorial.training.evaluate.editing --poses {asked.poses}",
        "model": bundle.name,
        "sha256": bundle.sha256,
        "versions": versions(),
        "what": (
            f"{len(PAIRS)} pairs of held-out pictures, in --poses poses each; {STEPS} steps of the"
            " pipeline's grid; source, target: share of edits in which the classifier sees what the"
            " source shows and what was asked for; PSNR, distances: medians, to the source as the"
            " autoencoder gives it back; evaluations: of the network, a picture"
        ),
    }
    measure = measurer(bundle, asked.poses)
    fill(TABLES / "emoji_editing.json", header, plan(), len(PAIRS) * asked.poses, measure)


if __name__ == "__main__":
    main()
