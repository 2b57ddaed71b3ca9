"""The learned jump: from a guided noise model to a network whose jump is the end of its ODE, by one
of two recipes, for any teacher.

distillation  Neighbours on a trajectory must have one end: a picture is noised to t, the guided
              teacher takes one DDIM step of many times to s, and f(x_t, t) learns f(x_s, s) of a
              moving average of itself (Song et al. 2023, arXiv:2303.01469, Algorithm 2; Luo et al.
              2023, arXiv:2310.04378, Algorithm 1, without its skipped solver).
ends          The teacher's walks are solved first, :mod:`.ends`; f(x_t, t) learns the end of the
              walk that x_t lies on.

Both measure with the pseudo-Huber distance, start from the teacher's weights and fold the guidance
in: the student answers with one evaluation what the guided teacher takes two for at each step.
"""

import json
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ddim_tutorial.consistency import consistency_function, pseudo_huber, self_consistency
from ddim_tutorial.guidance import cfg_batched
from ddim_tutorial.predict import EpsModel, add_noise, eps_from
from ddim_tutorial.sampling import ddim_step
from ddim_tutorial.schedule import Schedule
from ddim_tutorial.training.ends import Pool, fill_pool
from ddim_tutorial.training.log import by_quarter
from ddim_tutorial.training.loop import Settings, fit, processes

RECIPES = ("distillation", "ends")
Network = Callable[[Tensor, Tensor, Tensor], Tensor]  # x_t, t in 1..T, condition -> eps


class Teacher(NamedTuple):
    """What is distilled. network: frozen. null: (1, ...), the condition that guidance leads away
    from, at ``scale``. draw: the number of pictures to x_0 (B, *dims) and their labels, integers
    (B, ...), on the device of ``null``; condition: labels to what the network takes. grid: the
    spacing of times on which its walks are solved. sha256: of its weights."""

    network: Network
    null: Tensor
    scale: float
    schedule: Schedule
    draw: Callable[[int], tuple[Tensor, Tensor]]
    condition: Callable[[Tensor], Tensor]
    grid: str = "trailing"
    sha256: str = ""

    def guided(self, labels: Tensor) -> EpsModel:
        """The model of the ODE whose ends are learned, for these ``labels``."""
        return cfg_batched(self.network, self.condition(labels), self.null, self.scale)


class Unet(nn.Module):
    """A U-Net of diffusers as (x_t, t, condition) -> eps: t from 1 on, where it counts from 0.
    ``prediction``: what it answers, on a ``schedule``; None for epsilon."""

    def __init__(
        self, unet: nn.Module, prediction: str = "epsilon", schedule: Schedule | None = None
    ):
        super().__init__()
        self.unet, self.prediction, self.schedule = unet, prediction, schedule

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        x_t = x_t.contiguous(memory_format=torch.channels_last)
        answer = self.unet(x_t, t - 1, condition).sample
        if self.schedule is None:
            return answer
        return eps_from(self.prediction, x_t, answer, t, self.schedule)


class Student(nn.Module):
    """The network that learns, and beside it ``target``, its moving average: both are in the
    checkpoint, so that a resumed run has the same targets. No gradient reaches the target."""

    def __init__(self, network: nn.Module, averaged: bool):
        super().__init__()
        self.network = network
        self.target = deepcopy(network).requires_grad_(False) if averaged else None

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return self.network(x_t, t, condition)

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """target <- decay target + (1 - decay) network, of what is trained of it."""
        pairs = zip(self.target.parameters(), self.network.parameters(), strict=True)
        for averaged, current in pairs:
            if current.requires_grad:
                averaged.lerp_(current, 1 - decay)


def bound(network: Network, condition: Tensor) -> EpsModel:
    """The network with its condition, as the core asks it."""
    return lambda x_t, t: network(x_t, t, condition)


def distillation_loss(
    net: nn.Module, teacher: Teacher, batch: int, *, stride: int, decay: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Recipe "distillation". t: even over stride, 2 stride .. T; the target first follows the
    weights that the last update left."""
    student = getattr(net, "module", net)
    student.follow(decay)
    schedule = teacher.schedule
    with torch.no_grad():
        x_0, labels = teacher.draw(batch)
        t = stride * torch.randint(1, schedule.T // stride + 1, (batch,)).to(x_0.device)
        x_t = add_noise(x_0, torch.randn_like(x_0), schedule.at(t, x_0))
        eps = teacher.guided(labels)(x_t, t).to(x_t.dtype)
        x_s, _ = ddim_step(x_t, eps, schedule.at(t, x_t), schedule.at(t - stride, x_t))
        condition = teacher.condition(labels)
    model, target = bound(net, condition), bound(student.target, condition)
    errors = self_consistency(model, target, x_t, t, x_s, t - stride, schedule)
    return errors.mean(), by_quarter(errors, t, schedule.T)


def ends_loss(
    net: nn.Module, teacher: Teacher, pool: Pool, batch: int, first: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Recipe "ends": states of the pool against the ends of their walks."""
    x_t, t, labels, end = (part.to(teacher.null.device) for part in pool.draw(batch, first))
    with torch.no_grad():
        condition = teacher.condition(labels)
    f = consistency_function(bound(net, condition), x_t, t, teacher.schedule)
    errors = pseudo_huber(f, end)
    return errors.mean(), by_quarter(errors, t, teacher.schedule.T)


class Options(NamedTuple):
    """How long and how to learn. steps: updates; walks, solver_steps: of recipe "ends", how many
    are solved first and in how many steps; first: also of "ends", the share of a batch that is
    pure noise, where every picture's first jump starts (0: as much of it as of the walks' other
    states); stride, decay: of recipe "distillation", the times of the teacher's step (50: t = 1000,
    750, 500 and 250 are among them, where four jumps start) and how slowly the target follows;
    rank: of a LoRA, 0 trains all weights; prediction: what the student answers. An error of its
    epsilon is multiplied by sqrt((1 - ab) / ab) in the jump, 157 at the end of ``linear()``, one of
    its v by sqrt(1 - ab) (Salimans & Ho 2022, arXiv:2202.00512, sec. 4); but v is what a teacher of
    epsilon answers only where ab is near 1."""

    recipe: str
    steps: int = 4000
    batch: int = 16
    lr: float = 3e-4
    walks: int = 2048
    solver_steps: int = 12
    first: float = 0.0
    stride: int = 50
    decay: float = 0.95
    rank: int = 0
    prediction: str = "epsilon"
    seed: int = 0


def train(
    network: nn.Module,
    teacher: Teacher,
    folder: Path,
    options: Options,
    precision: str,
    on_save: Callable[[nn.Module, int], None] | None = None,
) -> nn.Module:
    """The learned network, averaged: ``network`` trained in ``folder``, where a run that was
    stopped goes on. ``network`` starts with the teacher's weights, in memory of its own.

    Raises ValueError for an unknown recipe, a stride that does not divide T, and a folder that
    holds the run of another recipe or teacher.
    """
    claim(folder, options, teacher)
    if options.recipe == "ends":
        counts = options.walks, options.batch, options.solver_steps
        pool = fill_pool(teacher, folder / "ends", *counts, precision)
        size = {"batch": options.batch, "first": options.first}
        loss = partial(ends_loss, teacher=teacher, pool=pool, **size)
    else:
        steps = {"stride": options.stride, "decay": options.decay}
        loss = partial(distillation_loss, teacher=teacher, batch=options.batch, **steps)
    student = Student(network, averaged=options.recipe == "distillation")
    settings = Settings(
        steps=options.steps, lr=options.lr, warmup=100, decay_from=0.6, ema=0.995,
        seed=options.seed,
    )  # fmt: skip
    save = None if on_save is None else lambda ema, step: on_save(ema.network, step)
    return fit(student, loss, folder, settings, precision=precision, on_save=save).network


def claim(folder: Path, options: Options, teacher: Teacher) -> None:
    """Write what the run is into ``folder``; ValueError where another one lies there."""
    if options.recipe not in RECIPES:
        raise ValueError(f"recipe: got {options.recipe!r}, wanted 'distillation' or 'ends'")
    if options.recipe == "distillation" and teacher.schedule.T % options.stride:
        raise ValueError(
            f"stride={options.stride}: it divides T={teacher.schedule.T} with a rest, and the last"
            " step would miss x_0; pass a divisor, such as 50"
        )
    path = folder / "jump.json"
    names = "recipe", "rank", "prediction", "batch", "solver_steps", "first", "stride", "decay"
    mine: dict[str, Any] = {name: getattr(options, name) for name in names}
    mine |= {"scale": teacher.scale, "grid": teacher.grid, "teacher": teacher.sha256}
    old = json.loads(path.read_text()) if path.exists() else mine
    if differing := sorted(key for key in mine if old.get(key) != mine[key]):
        key = differing[0]
        raise ValueError(
            f"{path}: the run was begun with {key}={old.get(key)!r}, got {mine[key]!r}; give the"
            " same again, or another --run for another one"
        )
    if processes().is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(mine, indent=2) + "\n")
