"""How good the emoji model is: ``python -m ddim_tutorial.training.evaluate emoji``.

Samples are decoded and shown to the judge; beside every figure stands what the judge makes of the
pictures themselves in new poses, encoded and decoded. All random numbers are seeded. The figures go
into the card of the evaluated folder, with 64 unselected samples (samples.png) and the attention
maps of three prompts (attention.png). ``quick`` measures a run that is still training.
"""

import json
import platform
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm

from ddim_tutorial.metrics import psnr

from . import dependence
from .attention import save_maps
from .captions import trained_aliases
from .data import RUN, Emoji
from .export import ZOO, trained
from .family import content
from .judge import draw_members
from .pictures import save_grid, starts
from .subject import SAME, Subject, read_pipeline, subject

STEPS, SCALE = 50, 4.0
SCALES = (1.0, SCALE, 7.5)
MAPS = ("noto emoji of red apple", "twemoji emoji of dog face", "fluent emoji of alarm clock")


def derangement(count: int, generator: torch.Generator) -> Tensor:
    """A permutation of 0..count-1 that is one cycle: every prompt goes to another sample."""
    order = torch.randperm(count, generator=generator)
    result = torch.empty_like(order)
    result[order] = order.roll(1)
    return result


def quantiles(values: Tensor) -> dict[str, float]:
    """Median and 10 % and 90 % quantiles."""
    low, middle, high = values.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=values.dtype)).tolist()
    return {"10 %": low, "median": middle, "90 %": high}


def nearest(latents: Tensor, bank: Tensor) -> Tensor:
    """Root mean square difference of each of latents (N, ...) to the nearest of bank (M, ...),
    (N,)."""
    parts = [
        torch.cdist(latents.flatten(1).float(), part.flatten(1).float()).amin(1)
        for part in bank.split(4096)
    ]
    return torch.stack(parts).amin(0) / latents[0].numel() ** 0.5


def some_rows(data: Emoji, count: int) -> Tensor:
    """``count`` training pictures by a fixed seed, (count,)."""
    train = (data.split == 0).nonzero()[:, 0]
    return train[torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:count]]


def trained_prompts(subject: Subject, rows: Tensor, drawn: dict[float, Tensor]) -> dict[str, Any]:
    """The samples ``drawn`` for ``rows`` by guidance, what chance would give, and the ceiling."""
    figures = {f"guidance {scale:g}": subject.score(z, rows) for scale, z in drawn.items()}
    shuffled = rows[derangement(len(rows), torch.Generator().manual_seed(0))]
    figures[f"guidance {SCALE:g}, prompts shuffled"] = subject.score(drawn[SCALE], shuffled)
    return figures | {SAME: subject.ceiling(rows)}


def held_out(subject: Subject, split: int, seed: int) -> tuple[dict[str, Any], Tensor]:
    """The prompts of the held-out pairs (1) or of the objects it never saw (2), and the samples."""
    rows = (subject.data.split == split).nonzero()[:, 0]
    drawn = subject.draw(subject.data.captions(rows.tolist()), STEPS, SCALE, seed)
    return {"samples": subject.score(drawn, rows), SAME: subject.ceiling(rows)}, drawn


def without_style(subject: Subject, rows: Tensor) -> dict[str, dict[str, float]]:
    """The share with the right object for prompts that name no style: the names of the objects of
    ``rows``, and every alias of a trained object, "image of ALIAS" and bare. Each with the
    ceiling, of a training picture of the object."""
    data = subject.data
    aliases = trained_aliases(data)
    kinds = {
        "image of NAME": [(f"image of {data.names[data.objects[i]]}", int(i)) for i in rows],
        "image of ALIAS": [(f"image of {alias}", i) for alias, i in aliases],
        "ALIAS": aliases,
    }
    figures = {}
    for kind, pairs in kinds.items():
        if pairs:
            asked = torch.tensor([i for _, i in pairs])
            drawn = subject.draw([text for text, _ in pairs], STEPS, SCALE, seed=2)
            figures[f"{len(pairs)} of '{kind}'"] = {
                "object": subject.score(drawn, asked)["object"],
                SAME: subject.ceiling(asked)["object"],
            }
    return figures


def table(subject: Subject, rows: Tensor, drawn: dict[float, Tensor]) -> dict[str, Any]:
    """Object / style against steps and guidance for the prompts of ``rows``, the first of those
    that were ``drawn`` with 50 steps: picture i depends on its own seed, they are not drawn
    again."""
    prompts = subject.data.captions(rows.tolist())

    def cell(steps: int, scale: float) -> str:
        known = steps == STEPS and scale in drawn
        latents = drawn[scale][: len(rows)] if known else subject.draw(prompts, steps, scale)
        return "{object:.2f} / {style:.2f}".format(**subject.score(latents, rows))

    figures: dict[str, Any] = {
        f"S {steps}": {f"{scale:g}": cell(steps, scale) for scale in (1.0, 2.0, SCALE, 7.5)}
        for steps in tqdm((5, 10, 20, 50, 100), desc="table")
    }
    return figures | {SAME: "{object:.2f} / {style:.2f}".format(**subject.ceiling(rows))}


def distances(subject: Subject, rows: Tensor, samples: dict[str, Tensor]) -> dict[str, Any]:
    """How far from all members of all training pictures lie the ``samples``, held-out pictures, and
    the training pictures of ``rows`` in poses that were not trained on."""
    data, generator = subject.data, torch.Generator().manual_seed(3)
    contents = [content(image) for image in data.images]
    rest = (data.split > 0).nonzero()[:, 0]
    real = {
        kind: subject.encode(draw_members(data.images, contents, part, generator))
        for kind, part in (("held-out pictures", rest), ("training pictures, new poses", rows))
    }
    return {k: quantiles(nearest(z, subject.bank)) for k, z in (samples | real).items()}


def measure(subject: Subject, count: int = 300, table_count: int = 60) -> tuple[dict, Tensor]:
    """All figures of the card, and the latents of the ``count`` trained prompts at guidance 4."""
    data = subject.data
    rows, rest = some_rows(data, count), data.split > 0
    prompts = data.captions(rows.tolist())
    drawn = {scale: subject.draw(prompts, STEPS, scale) for scale in SCALES}
    everything = torch.arange(len(data.images))
    rebuilt = psnr(subject.decode(subject.encode(data.images[rest])), data.images[rest], 255)
    pairs, of_pairs = held_out(subject, split=1, seed=1)
    never, _ = held_out(subject, split=2, seed=3)
    samples = {"samples, trained prompts": drawn[SCALE], "samples, held-out pairs": of_pairs}
    at = f"{STEPS} steps, guidance {SCALE:g}"
    return {
        "the judge on all pictures": {SAME: subject.ceiling(everything)},
        "autoencoder PSNR, held-out pictures, dB": quantiles(rebuilt),
        f"{len(rows)} trained prompts, {STEPS} steps": trained_prompts(subject, rows, drawn),
        f"{int((data.split == 1).sum())} held-out (style, object) pairs, {at}": pairs,
        f"{int((data.split == 2).sum())} prompts for objects it never saw, {at}": never,
        f"prompts without a style, {at}": without_style(subject, rows[:100]),
        f"object / style of {len(rows[:table_count])} trained prompts against steps S and"
        " guidance": table(subject, rows[:table_count], drawn),
        "latent distance to the nearest member of the training pictures' families, root mean"
        " square": distances(subject, rows, samples),
        f"dependence on x_T, {STEPS} steps": {
            f"guidance {scale:g}": dependence.measure(subject, rows, drawn[scale], scale, STEPS)
            for scale in (1.0, SCALE)
        },
    }, drawn[SCALE]


def rounded(value):
    """Floats to three digits, all the way down."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return round(value, 3) if isinstance(value, float) else value


def require_split(data: Emoji, folder: Path, path: Path) -> None:
    """ValueError unless the held-out pictures of ``data`` are the examples in ``folder``."""
    wanted = load_file(folder / "examples.safetensors")["images"]
    if not torch.equal(wanted, data.images[data.split > 0]):
        raise ValueError(
            f"{path}: its held-out pictures are not those of {folder}; the packages of its card"
            " make them"
        )


def emoji(
    folder: Path = ZOO,
    data: Path = RUN / "data.safetensors",
    *,
    count: int = 300,
    table_count: int = 60,
    precision: str = "no",
) -> dict:
    """Measure the exported pipeline in ``folder`` with the judge and the families that lie beside
    the file ``data``, print the figures, and store them in its card with samples.png: the first 64
    of the ``count`` trained prompts, one seed each, unselected.

    Raises ValueError for a data file with another split than the model's: training pictures could
    count as held out.
    """
    from ddim_tutorial.zoo import write_card

    what = subject(read_pipeline(folder), Path(data).parent, precision)
    require_split(what.data, folder, data)
    quality, latents = measure(what, count, table_count)
    quality = rounded(quality)
    prompts = what.data.captions(some_rows(what.data, count).tolist())[:64]
    save_grid(folder / "samples.png", what.decode(latents[:64]), prompts, columns=8)
    save_maps(what.pipe, what.decode, list(MAPS), folder / "attention.png")
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    card |= {
        "quality": quality,
        "measured": {
            "precision": precision.replace("no", "float32"),
            "torch": torch.__version__,
            "machine": platform.machine(),
        },
        "samples": f"samples.png: the first {len(prompts)} of the {count} trained prompts,"
        f" {STEPS} steps, guidance {SCALE:g}, picture i from seed i",
    }
    write_card(folder, card)
    print(json.dumps(quality, indent=2))
    return quality


def quick(run: Path = RUN, *, count: int = 60, steps: int = 20, precision: str = "bf16") -> dict:
    """Print, for the last checkpoint of ``run``, what compares two runs at equal minutes: the
    judge's shares, the seeds' and the correlation of the x_T read back with the empty prompt."""
    what = subject(trained(run), run, precision)
    rows = some_rows(what.data, count)
    prompts = what.data.captions(rows.tolist())
    one, other = (what.draw(prompts, steps, SCALE, seed) for seed in (0, 4))
    x_T, _ = dependence.read_back(what, None, one, SCALE, steps, dependence.METHODS["naive"])
    truth = starts(one.shape[1:], 0, count, seed=0)
    figures = {
        f"{len(rows)} trained prompts, {steps} steps, guidance {SCALE:g}, {precision}": {
            "samples": what.score(one, rows),
            SAME: what.ceiling(rows),
        },
        "seeds": dependence.seeds(what, rows, one, other),
        "x_T read back with the empty prompt, naive": dependence.likeness(x_T, truth),
    }
    print(json.dumps(rounded(figures), indent=2))
    return figures
