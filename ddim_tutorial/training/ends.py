"""States of a teacher's trajectories with the ends that they lead to, solved once and kept: what
the recipe "ends" of the learned jump regresses on.

Every second shard starts from pure noise at T, the others from training pictures noised to any t:
the sampler's second jump starts from a picture that was noised again, which no trajectory from pure
noise has passed.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from ddim_tutorial.files import whole
from ddim_tutorial.predict import add_noise
from ddim_tutorial.solvers import dpmpp_2m
from ddim_tutorial.spacing import times
from ddim_tutorial.training.evaluate.measures import in_precision
from ddim_tutorial.training.loop import processes

if TYPE_CHECKING:
    from ddim_tutorial.training.consistency import Teacher


class Pool(NamedTuple):
    """x: (N, *dims) float16, the states; t: (N,) in 1..T; walk: (N,), which of the M walks each
    lies on; end: (M, *dims) float16; labels: (M, ...) integers, what the walks were guided by."""

    x: Tensor
    t: Tensor
    walk: Tensor
    end: Tensor
    labels: Tensor

    def draw(self, batch: int, first: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A batch of states by torch's generator, evenly, but the share ``first`` of it among those
        at the largest t: (x_t, t, labels, end), float32."""
        rows = torch.randint(len(self.x), (batch,))
        if count := round(first * batch):
            noise = (self.t == self.t.max()).nonzero()[:, 0]
            rows[:count] = noise[torch.randint(len(noise), (count,))]
        walk = self.walk[rows]
        return self.x[rows].float(), self.t[rows], self.labels[walk], self.end[walk].float()


@torch.no_grad()
def solve(
    teacher: "Teacher", count: int, steps: int, noised: bool, precision: str = "no"
) -> dict[str, Tensor]:
    """``count`` walks of the guided teacher to their ends, DPM-Solver++ 2M in ``steps`` steps from
    T, or in those that are left from a random t on where training pictures are ``noised``; the
    fields of :class:`Pool`."""
    schedule = teacher.schedule
    x_0, labels = teacher.draw(count)
    grid = times(schedule.T, steps, teacher.grid, schedule)
    x_t = torch.randn_like(x_0)
    if noised:
        t = int(torch.randint(1, schedule.T + 1, ()))
        grid = [t, *(s for s in grid if s < t)]
        x_t = add_noise(x_0, x_t, schedule.at(t, x_0))
    model = in_precision(teacher.guided(labels), precision)
    walk = list(dpmpp_2m(model, x_t, grid, schedule))
    return {
        "x": torch.cat([step.x_t for step in walk]).half().cpu(),
        "t": torch.tensor([step.t for step in walk]).repeat_interleave(count),
        "walk": torch.arange(count).repeat(len(walk)),
        "end": walk[-1].x_s.half().cpu().contiguous(),
        "labels": labels.cpu().contiguous(),
    }


def fill_pool(
    teacher: "Teacher", folder: Path, walks: int, batch: int, steps: int, precision: str
) -> Pool:
    """``walks`` walks or a few more, ``batch`` a shard, in ``folder``; shards that are there are
    not solved again, and shard i depends on i alone. Several processes share them.

    Raises ValueError for shards of other weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count, here = -(-walks // batch), processes()
    mine = range(here.process_index, count, here.num_processes)
    for i in tqdm(mine, desc="walks", mininterval=10, disable=not here.is_main_process):
        if not (path := shard(folder, i)).exists():
            started = time.monotonic()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1_000_003 * (i + 1))
                parts = solve(teacher, batch, steps, bool(i % 2), precision)
            seconds = str(time.monotonic() - started)
            metadata = {"teacher": teacher.sha256, "seconds": seconds}
            with whole(path) as temporary:
                save_file(parts, temporary, metadata=metadata)
    here.wait_for_everyone()
    return read_pool(folder, count, teacher.sha256)


def shard(folder: Path, i: int) -> Path:
    return folder / f"{i:05d}.safetensors"


def read_pool(folder: Path, count: int, sha256: str) -> Pool:
    """The first ``count`` shards of ``folder`` as one pool."""
    parts, before = [], 0
    for i in range(count):
        with safe_open(shard(folder, i), "pt") as file:
            made_by = (file.metadata() or {}).get("teacher")
        if made_by != sha256:
            raise ValueError(
                f"{shard(folder, i)}: solved with the weights {str(made_by)[:12]}, the teacher has"
                f" {sha256[:12]}; remove the folder {folder}, or give another --run"
            )
        part = load_file(shard(folder, i))
        part["walk"] = part["walk"] + before
        before += len(part["end"])
        parts.append(part)
    return Pool(**{name: torch.cat([part[name] for part in parts]) for name in Pool._fields})
