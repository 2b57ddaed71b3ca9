"""How good the emoji model is: ``python -m ddim_tutorial.training.evaluate emoji``.

Retrieval: of a sample's latent, the training pictures whose latent means are nearest (Euclidean).
All random numbers are seeded; the figures go into the card of the evaluated folder, with 64
unselected samples as samples.png.
"""

import json
import platform
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm

from ddim_tutorial.training.emoji import (
    ALIASES,
    RUN,
    ZOO,
    Emoji,
    components,
    decode,
    encode,
    new_pipeline,
    psnr,
    read_data,
    sample,
    save_grid,
)
from ddim_tutorial.training.loop import mixed_precision

STEPS, SCALE = 50, 4.0
WEAKNESSES = [  # of the bundled weights, seen in samples.png and in the figures under "quality"
    (
        "Much of it is memory: what it draws for a trained prompt is nearly always nearest to the"
        " very picture asked for, and nearer to it than held-out pictures are to any (the distances"
        " under quality). Asked for an object in a style in which it never saw it, it mostly draws"
        " the object, but in another style; an object that it never saw it hardly ever draws."
    ),
    (
        "Names and aliases without their style ('image of bee', 'padlock') are drawn less surely"
        " than the captions of the evaluation; some aliases give another object."
    ),
    (
        "Fine detail is soft, and things of many thin parts stay unclear: of the 64 in samples.png"
        " some 46 can be named by eye with the prompt in view, but not the skis, the clamp, the"
        " satellite, the snail or the deer."
    ),
]


def distances(latents: Tensor, others: Tensor) -> Tensor:
    """Root mean square differences (N, M) between latents (N, ...) and others (M, ...)."""
    return (
        torch.cdist(latents.flatten(1).double(), others.flatten(1).double())
        / latents[0].numel() ** 0.5
    )


def retrieval(
    latents: Tensor,
    objects: Tensor,
    styles: Tensor,
    bank: Tensor,
    bank_objects: Tensor,
    bank_styles: Tensor,
) -> dict[str, float]:
    """Shares of the samples (N, ...) whose nearest picture of the bank (M, ...) shows the right
    object ("top-1"), has the right style ("style"), and of those with the right object among the
    nearest five ("top-5")."""
    nearest = distances(latents, bank).topk(5, largest=False).indices
    right = bank_objects[nearest] == objects[:, None]
    return {
        "top-1": right[:, 0].double().mean().item(),
        "top-5": right.any(1).double().mean().item(),
        "style": (bank_styles[nearest[:, 0]] == styles).double().mean().item(),
    }


def without_style(
    pipe, data: Emoji, asked: Tensor, bank: Tensor, bank_objects: Tensor, bank_styles: Tensor
) -> dict[str, dict[str, float]]:
    """Retrieval for prompts that name no style: the names of the ``asked`` objects, and every alias
    of an object of the bank, "image of ALIAS" and bare."""
    known = set(bank_objects.tolist())
    aliases = [
        (alias, i)
        for i, name in enumerate(data.names)
        if i in known
        for alias in ALIASES.get(name, [])
    ]
    kinds = {
        "image of NAME": [(f"image of {data.names[i]}", i) for i in asked.tolist()],
        "image of ALIAS": [(f"image of {alias}", i) for alias, i in aliases],
        "ALIAS": aliases,
    }
    shares = {}
    for kind, pairs in kinds.items():
        if pairs:
            objects = torch.tensor([i for _, i in pairs])
            latents = sample(pipe, [text for text, _ in pairs], steps=STEPS, scale=SCALE, seed=2)
            found = retrieval(latents, objects, objects, bank, bank_objects, bank_styles)
            shares[f"{len(pairs)} of '{kind}'"] = {key: found[key] for key in ("top-1", "top-5")}
    return shares


def other_styles(
    latents: Tensor,
    objects: Tensor,
    styles: Tensor,
    bank: Tensor,
    bank_objects: Tensor,
    bank_styles: Tensor,
) -> float:
    """Share of the samples with the right object among the nearest five training pictures of the
    other styles."""
    between = distances(latents, bank).masked_fill(styles[:, None] == bank_styles, torch.inf)
    nearest = between.topk(5, largest=False).indices
    return (bank_objects[nearest] == objects[:, None]).any(1).double().mean().item()


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


def measure(
    pipe, data: Emoji, count: int = 300, table_count: int = 60
) -> tuple[dict, Tensor, list[str]]:
    """All figures of the card; the latents of the ``count`` trained prompts at scale 4; these
    prompts."""
    generator = torch.Generator().manual_seed(0)
    train, pairs = (data.split == 0).nonzero()[:, 0], (data.split == 1).nonzero()[:, 0]
    mean, _ = encode(pipe.vae, data.images)
    bank = (mean[train], data.objects[train], data.styles[train])
    rows = train[torch.randperm(len(train), generator=generator)[:count]]
    prompts = data.captions(rows.tolist())
    truth = (data.objects[rows], data.styles[rows])

    rest = data.split > 0
    rebuilt = psnr(decode(pipe.vae, mean[rest]), data.images[rest])
    quality = {
        "autoencoder PSNR, held-out pictures, dB": {
            "mean": rebuilt.mean().item(),
            **quantiles(rebuilt),
        }
    }

    drawn = {scale: sample(pipe, prompts, steps=STEPS, scale=scale) for scale in (1.0, SCALE, 7.5)}
    trained = {
        f"guidance {scale:g}": retrieval(latents, *truth, *bank) for scale, latents in drawn.items()
    }
    kept = drawn[SCALE]
    shuffle = derangement(len(rows), generator)
    trained[f"guidance {SCALE:g}, prompts shuffled"] = retrieval(
        kept, *(part[shuffle] for part in truth), *bank
    )
    quality[f"{len(rows)} trained prompts, {STEPS} steps"] = trained

    latents = sample(pipe, data.captions(pairs.tolist()), steps=STEPS, scale=SCALE, seed=1)
    asked = (data.objects[pairs], data.styles[pairs])
    shuffle = derangement(len(pairs), generator)
    quality[f"{len(pairs)} held-out (style, object) pairs, guidance {SCALE:g}"] = {
        "top-5 of the other styles": other_styles(latents, *asked, *bank),
        "prompts shuffled": other_styles(latents, *(part[shuffle] for part in asked), *bank),
        "the held-out pictures themselves": other_styles(mean[pairs], *asked, *bank),
        "style": retrieval(latents, *asked, *bank)["style"],
    }

    between = distances(bank[0], bank[0]).fill_diagonal_(torch.inf)
    quality["latent distance to the nearest training picture, root mean square"] = {
        "samples, trained prompts": quantiles(distances(kept, bank[0]).amin(1)),
        "samples, held-out pairs": quantiles(distances(latents, bank[0]).amin(1)),
        "held-out pictures": quantiles(distances(mean[rest], bank[0]).amin(1)),
        "training pictures to the nearest other": quantiles(between.amin(1)),
    }

    quality[
        f"share of the trained prompts, guidance {SCALE:g}, whose sample is nearest to the very"
        " picture asked for"
    ] = (
        (distances(kept, bank[0]).argmin(1) == torch.searchsorted(train, rows))
        .double()
        .mean()
        .item()
    )
    quality[f"prompts without a style, guidance {SCALE:g}"] = without_style(
        pipe, data, truth[0][:100], *bank
    )
    never = (data.split == 2).nonzero()[:, 0]
    latents = sample(pipe, data.captions(never.tolist()), steps=STEPS, scale=SCALE, seed=3)
    quality[
        f"{len(never)} prompts for objects it never saw, among all pictures, theirs as well"
    ] = retrieval(latents, data.objects[never], data.styles[never], mean, data.objects, data.styles)

    some = [part[:table_count] for part in truth]

    def cell(steps: int, scale: float) -> str:
        """Picture i depends on its own seed: the first of ``drawn`` need not be drawn again."""
        latents = (
            drawn[scale][:table_count]
            if steps == STEPS and scale in drawn
            else sample(pipe, prompts[:table_count], steps=steps, scale=scale)
        )
        return "{top-1:.2f} / {top-5:.2f}".format(**retrieval(latents, *some, *bank))

    quality[f"top-1 / top-5 of {len(some[0])} trained prompts against steps S and guidance"] = {
        f"S {steps}": {f"{scale:g}": cell(steps, scale) for scale in (1.0, 2.0, SCALE, 7.5)}
        for steps in tqdm((5, 10, 20, 50, 100), desc="table")
    }
    return quality, kept, prompts


def rounded(value):
    """Floats to three digits, all the way down."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return round(value, 3) if isinstance(value, float) else value


def emoji(
    folder: str | Path = ZOO,
    data: str | Path = RUN / "data.safetensors",
    count: int = 300,
    table_count: int = 60,
) -> dict:
    """Measure the exported pipeline in ``folder`` against the data file, print the figures, and
    store them in its card with samples.png: the first 64 of the ``count`` random trained prompts,
    one seed each, unselected.

    Raises ValueError for a data file with another split than the model's: training pictures could
    count as held out.
    """
    from ddim_tutorial.zoo import write_card

    folder, examples = Path(folder), read_data(Path(data))
    held_out = load_file(folder / "examples.safetensors")["images"]
    if not torch.equal(held_out, examples.images[examples.split > 0]):
        raise ValueError(
            f"{data}: its held-out pictures are not those of {folder}; the packages of "
            "its card make them"
        )
    vae, text_encoder, tokenizer, unet = components(
        folder, "vae", "text_encoder", "tokenizer", "unet"
    )
    pipe = new_pipeline(vae.eval(), text_encoder.eval(), tokenizer, unet.eval())
    quality, latents, prompts = measure(pipe, examples, count, table_count)
    quality = rounded(quality)
    save_grid(folder / "samples.png", decode(vae, latents[:64]), prompts[:64], columns=8)
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    measured = {
        "precision": mixed_precision().replace("no", "float32"),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    samples = (
        f"samples.png: the first {min(64, count)} of the {count} trained prompts, {STEPS} steps,"
        f" guidance {SCALE:g}, picture i from seed i"
    )
    if folder == ZOO:
        card["weaknesses"] = [
            text for text in card["weaknesses"] if text not in WEAKNESSES
        ] + WEAKNESSES
    write_card(folder, {**card, "quality": quality, "measured": measured, "samples": samples})
    print(json.dumps(quality, indent=2))
    return quality
