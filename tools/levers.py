"""What each lever of acceleration gains and costs: ``python -m tools.levers``, paired times.

The baseline is diffusers' StableDiffusionPipeline as it comes: 50 DDIM steps, float32, eager,
decoding included. A ratio is its time / that of the lever, of two runs taken in turns, so above 1
the lever is faster, for one batch; the error is that of the latents to the end of the ODE, and the
PSNR that of the pictures, over --pictures of them. The rows go to notebooks/data/emoji_levers.json
one by one: a run that is stopped goes on where it was. The environment variable ONEDNN_MAX_CPU_ISA
(AVX2, say) measures a processor without bf16, in rows of its own.
"""

import argparse
import json
import os
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddim_tutorial import zoo
from ddim_tutorial.caching import DeepCache
from ddim_tutorial.console import escape_unprintable
from ddim_tutorial.files import write_whole
from ddim_tutorial.latent import LatentSpace
from ddim_tutorial.metrics import psnr, relative_error
from ddim_tutorial.noise import generators, randn
from ddim_tutorial.predict import EpsModel
from ddim_tutorial.sampling import final
from ddim_tutorial.solvers import END, SOLVERS
from ddim_tutorial.spacing import times
from tools.bench import compare, environment

TABLE = Path("notebooks/data/emoji_levers.json")
SCALE = 4.0


@dataclass(frozen=True)
class Lever:
    """A way to run the model: None for a grid is the pipeline's own, as the baseline has it.
    ``guided``: the times t of low < t <= high, outside of which the prompt alone is asked.
    ``left_out``: so many of the last evaluations of the grid, from the last one left into 0."""

    solver: str = "ddim"
    grid: str | None = None
    steps: int = 50
    dtype: torch.dtype = torch.float32
    compiled: bool = False
    interval: int = 1
    guided: tuple[int, int] = (0, 1000)
    left_out: int = 0


BF16 = torch.bfloat16
COMPILER: dict[str, Any] = {"freezing": True, "cpp_wrapper": True}
KARRAS = {steps: Lever("dpmpp_2m", "karras", steps) for steps in (20, 15, 10)}
SHORT = {  # the last evaluations of these grids lie at t = 42 and below and move little
    steps - left_out: Lever("dpmpp_2m", "karras", steps, left_out=left_out)
    for steps, left_out in ((15, 2), (12, 2), (10, 3))
}
PARTLY = replace(KARRAS[10], guided=(300, 1000))
LEVERS = {
    "our loop": Lever(),
    "DeepCache, interval 2": Lever(interval=2),
    "DeepCache, interval 3": Lever(interval=3),
    "DeepCache, interval 5": Lever(interval=5),
    "bf16": Lever(dtype=BF16),
    "compiled": Lever(compiled=True),
    "compiled, bf16": Lever(dtype=BF16, compiled=True),
    "DPM-Solver++ 2M, 20": Lever("dpmpp_2m", "ays", 20),
    "DPM-Solver++ 2M, 20, DeepCache 2": Lever("dpmpp_2m", "ays", 20, interval=2),
    "DPM-Solver++ 2M, 20, Karras": KARRAS[20],
    "DPM-Solver++ 2M, 15, Karras": KARRAS[15],
    "DPM-Solver++ 2M, 15, Karras, bf16": replace(KARRAS[15], dtype=BF16),
    "DPM-Solver++ 2M, 15, Karras, compiled": replace(KARRAS[15], compiled=True),
    "DPM-Solver++ 2M, 15, Karras, compiled, bf16": replace(KARRAS[15], compiled=True, dtype=BF16),
    "DPM-Solver++ 2M, 10": Lever("dpmpp_2m", "ays", 10),
    "DPM-Solver++ 2M, 10, Karras": KARRAS[10],
    "DPM-Solver++ 2M, 10, Karras, compiled": replace(KARRAS[10], compiled=True),
    "DPM-Solver++ 2M, 13 of 15, Karras": SHORT[13],
    "DPM-Solver++ 2M, 13 of 15, Karras, compiled": replace(SHORT[13], compiled=True),
    "DPM-Solver++ 2M, 10 of 12, Karras": SHORT[10],
    "DPM-Solver++ 2M, 10 of 12, Karras, compiled": replace(SHORT[10], compiled=True),
    "DPM-Solver++ 2M, 7 of 10, Karras": SHORT[7],
    "DPM-Solver++ 2M, 7 of 10, Karras, compiled": replace(SHORT[7], compiled=True),
    "DPM-Solver++ 2M, 10, Karras, guided above t = 300": PARTLY,
    "DPM-Solver++ 2M, 10, Karras, guided above t = 300, compiled": replace(PARTLY, compiled=True),
    "DPM-Solver++ 2M, 10, Karras, guided above t = 300, compiled, bf16": replace(
        PARTLY, compiled=True, dtype=BF16
    ),
}


def partly_guided(space: LatentSpace, low: int, high: int) -> EpsModel:
    """The guided model for low < t <= high, elsewhere that of the prompt alone (Kynkäänniemi et al.
    2024, arXiv:2404.07724)."""

    def eps(x_t: Tensor, t: Tensor) -> Tensor:
        if low < t[0] <= high:
            return space.model(x_t, t)
        return space.network(x_t, t, space.condition)

    return eps


class Bench:
    """The baseline, the end of the ODE, and the model in every dtype, loaded and compiled once."""

    def __init__(self, model: str, batch: int, pictures: int, device: str):
        if pictures % batch:
            raise ValueError(
                f"pictures={pictures}: the last batch would not be of {batch}, and a compiled model"
                " has one size; pass a multiple of the batch"
            )
        self.model, self.batch, self.pictures = model, batch, pictures
        self.loaded: dict[tuple[torch.dtype, bool], zoo.LatentBundle] = {}
        self.device = device
        eager = self.bundle(torch.float32, False)
        prompts = eager.captions or ["image of red apple"]
        self.prompts = [prompts[i % len(prompts)] for i in range(pictures)]
        self.z_T = randn((pictures, *eager.shape), generators(range(pictures)), device=device)
        self.end = self.drawn(Lever(*END))
        self.x_0 = eager.space("").decode(self.end).clamp(-1, 1)

    def bundle(self, dtype: torch.dtype, compiled: bool) -> zoo.LatentBundle:
        if (dtype, compiled) not in self.loaded:
            bundle = zoo.load(self.model, self.device, dtype)
            if not isinstance(bundle, zoo.LatentBundle):
                raise ValueError(f"model: {self.model} is a model of pixels, wanted a latent one")
            if compiled:
                unet = bundle.pipe.unet.to(memory_format=torch.channels_last)
                bundle.pipe.unet = torch.compile(unet, dynamic=False, options=COMPILER)
            self.loaded[dtype, compiled] = bundle
        return self.loaded[dtype, compiled]

    def latents(self, lever: Lever, part: slice) -> tuple[LatentSpace, Tensor]:
        """Of the pictures of ``part``, and what decodes them."""
        bundle = self.bundle(lever.dtype, lever.compiled)
        space = bundle.space(self.prompts[part], scale=SCALE)
        schedule, unet = space.schedule, bundle.pipe.unet
        walked = space.times(lever.steps)
        if lever.grid:
            walked = times(schedule.T, lever.steps, lever.grid, schedule)
        walked = [*walked[: len(walked) - 1 - lever.left_out], walked[-1]]
        model = partly_guided(space, *lever.guided)
        with DeepCache(unet, lever.interval) if lever.interval > 1 else nullcontext():
            with torch.no_grad():
                z_0 = final(SOLVERS[lever.solver](model, self.z_T[part], walked, schedule))
        return space, z_0

    def drawn(self, lever: Lever) -> Tensor:
        """The latents of all pictures."""
        starts = range(0, self.pictures, self.batch)
        parts = [self.latents(lever, slice(k, k + self.batch)) for k in starts]
        return torch.cat([z_0 for _, z_0 in parts])

    def baseline(self) -> Tensor:
        """The first batch, as diffusers draws it."""
        pipe, part = self.bundle(torch.float32, False).pipe, slice(self.batch)
        options = {"guidance_scale": SCALE, "latents": self.z_T[part], "output_type": "pt"}
        return pipe(self.prompts[part], num_inference_steps=50, **options).images

    def run(self, lever: Lever) -> Tensor:
        """The first batch as the baseline draws it: from prompts to pictures."""
        space, z_0 = self.latents(lever, slice(self.batch))
        return space.decode(z_0)

    def row(self, lever: Lever, pairs: int) -> dict[str, float]:
        z_0 = self.drawn(lever)
        x_0 = self.bundle(torch.float32, False).space("").decode(z_0).clamp(-1, 1)
        close = {
            "error": relative_error(z_0, self.end),
            "psnr": psnr(x_0[None], self.x_0[None]).item(),
        }
        times = compare(self.baseline, lambda: self.run(lever), pairs=pairs, calls=1)
        ratios = {key: times[f"ratio_{key}"] for key in ("median", "min", "max")}
        return close | {f"ratio {key}": value for key, value in ratios.items()} | {"pairs": pairs}


def header(bench: Bench, model: str, device: str) -> dict[str, Any]:
    bundle = bench.bundle(torch.float32, False)
    return {
        "command": f"python -m tools.levers --model {model}",
        "model": bundle.name,
        "unet_sha256": bundle.sha256,
        "environment": environment(device),
        "baseline": "diffusers' pipeline, 50 DDIM steps, float32, eager, decoding included",
        "rows": [],
    }


def measure(bench: Bench, table: dict[str, Any], pairs: int, names: list[str]) -> None:
    """Add the rows that ``table`` does not have from as many pictures, each saved when it is done;
    one of fewer pictures is measured again."""
    common = {"batch": bench.batch, "isa": os.environ.get("ONEDNN_MAX_CPU_ISA", "native")}
    for name in names:
        key = {"lever": name, **common}
        old = [row for row in table["rows"] if key.items() <= row.items()]
        if old and old[0].get("pictures", 0) >= bench.pictures:
            continue
        row = key | {"pictures": bench.pictures} | bench.row(LEVERS[name], pairs)
        table["rows"] = [kept for kept in table["rows"] if kept not in old] + [row]
        TABLE.parent.mkdir(parents=True, exist_ok=True)
        write_whole(TABLE, f"{json.dumps(table, indent=2, ensure_ascii=False)}\n".encode())
        print(json.dumps(row), flush=True)


def main(argv: list[str] | None = None) -> None:
    escape_unprintable()
    parser = argparse.ArgumentParser(
        prog="python -m tools.levers", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--model", default="emoji", help="a latent model (default emoji)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=4, help="pictures at a time (default 4)")
    parser.add_argument(
        "--pictures", type=int, default=32, help="pictures that errors are taken of (default 32)"
    )
    parser.add_argument("--pairs", type=int, default=7, help="pairs of runs (default 7)")
    parser.add_argument("--only", nargs="+", choices=LEVERS, help="these levers alone")
    arguments = parser.parse_args(argv)
    bench = Bench(arguments.model, arguments.batch, arguments.pictures, arguments.device)
    table = header(bench, arguments.model, arguments.device)
    if TABLE.exists():
        old = json.loads(TABLE.read_text(encoding="utf-8"))
        same = ("unet_sha256", "environment")
        table = old if all(old[key] == table[key] for key in same) else table
    measure(bench, table, arguments.pairs, arguments.only or list(LEVERS))


if __name__ == "__main__":
    main()
