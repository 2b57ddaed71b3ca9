"""What the learned jump of the emoji model is asked, and what the judge sees in its answers."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ddim_tutorial.grids import quantise
from ddim_tutorial.zoo import LatentBundle

from .captions import captions, trained_aliases
from .data import STYLES, Emoji, read_data
from .evaluate import require_split, some_rows
from .judge import judged

KINDS = ("caption", "other caption", "alias")


def prompts_of(data: Emoji, count: int) -> tuple[list[str], Tensor, Tensor]:
    """``count`` prompts of the whole caption table, a third each of KINDS: the caption of the
    evaluation and any other caption of trained pictures, and bare aliases of trained objects; the
    pictures (count,) that they ask for, and their kinds (count,). By a fixed seed."""
    own = torch.Generator().manual_seed(1)
    rows = some_rows(data, count)
    rows = rows[torch.arange(count) % len(rows)].tolist()
    aliases = trained_aliases(data)
    order = torch.randperm(len(aliases), generator=own).tolist()
    prompts, pictures, kinds = [], [], []
    for k, row in enumerate(rows):
        kind = k % 3 if aliases else k % 2
        name = int(data.objects[row])
        table = captions(STYLES[data.styles[row]], data.names[name], data.tags[name])
        prompt = table[0]
        if kind == 1:
            prompt = table[1 + int(torch.randint(len(table) - 1, (), generator=own))]
        elif kind == 2:
            prompt, row = aliases[order[k // 3 % len(order)]]
        prompts.append(prompt)
        pictures.append(row)
        kinds.append(kind)
    return prompts, torch.tensor(pictures), torch.tensor(kinds)


def questions(
    path: Path, bundle: LatentBundle, count: int
) -> tuple[list[str], Callable[[Tensor], dict[str, dict[str, float]]]]:
    """The prompts, and the judge on their pictures x: (count, 3, H, W) in [-1, 1]: the shares with
    the right object by kind, and with the right style where the caption of the evaluation names it.

    path: the data file; ValueError where its split is another than that of the ``bundle``, whose
    classifier judges.
    """
    data = read_data(path)
    require_split(data, bundle.folder, path)
    judge = bundle.classifier
    prompts, pictures, kinds = prompts_of(data, count)

    def look(x: Tensor) -> dict[str, dict[str, float]]:
        names, styles = judged(judge, quantise(x))
        right = (names == data.objects[pictures]).double()
        style = (styles == data.styles[pictures]).double()
        shares = {KINDS[k]: right[kinds == k].mean().item() for k in range(3) if (kinds == k).any()}
        return {"top-1": shares, "style": {KINDS[0]: style[kinds == 0].mean().item()}}

    return prompts, look
