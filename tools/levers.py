"""What each lever of acceleration gains and costs: ``python -m tools.levers``, paired times.

The baseline is diffusers' StableDiffusionPipeline as it comes: 50 DDIM steps, float32, eager,
decoding included. A ratio is its time / that of the lever, of two runs taken in turns, so above 1
the lever is faster; the error is that of the latents to the end of the ODE, and the PSNR that of
the pictures. The rows go to notebooks/data/emoji_levers.json one by one: a run that is stopped goes
on where it was. The environment variable ONEDNN_MAX_CPU_ISA (AVX2, say) measures a processor
without bf16, in rows of its own.
"""

import argparse
import json
import os
from contextlib import nullcontext
from dataclasses import dataclass
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
from ddim_tutorial.sampling import final
from ddim_tutorial.solvers import END, SOLVERS
from ddim_tutorial.spacing import times
from tools.bench import compare, environment

TABLE = Path("notebooks/data/emoji_levers.json")
SCALE = 4.0


@dataclass(frozen=True)
class Lever:
    """A way to run the model: None for a grid is the pipeline's own, as the baseline has it."""

    solver: str = "ddim"
    grid: str | None = None
    steps: int = 50
    dtype: torch.dtype = torch.float32
    compiled: bool = False
    interval: int = 1


BF16 = torch.bfloat16
LEVERS = {
    "our loop": Lever(),
    "DeepCache, interval 2": Lever(interval=2),
    "DeepCache, interval 3": Lever(interval=3),
    "DeepCache, interval 5": Lever(interval=5),
    "DPM-Solver++ 2M, 20": Lever("dpmpp_2m", "ays", 20),
    "DPM-Solver++ 2M, 20, DeepCache 2": Lever("dpmpp_2m", "ays", 20, interval=2),
    "DPM-Solver++ 2M, 16, Karras": Lever("dpmpp_2m", "karras", 16),
    "DPM-Solver++ 2M, 10": Lever("dpmpp_2m", "ays", 10),
    "bf16": Lever(dtype=BF16),
    "DPM-Solver++ 2M, 20, bf16": Lever("dpmpp_2m", "ays", 20, BF16),
    "DPM-Solver++ 2M, 10, bf16": Lever("dpmpp_2m", "ays", 10, BF16),
    "DPM-Solver++ 2M, 16, Karras, bf16": Lever("dpmpp_2m", "karras", 16, BF16),
    "compiled": Lever(compiled=True),
    "DPM-Solver++ 2M, 16, Karras, compiled": Lever("dpmpp_2m", "karras", 16, compiled=True),
    "DPM-Solver++ 2M, 10, compiled": Lever("dpmpp_2m", "ays", 10, compiled=True),
    "compiled, bf16": Lever(dtype=BF16, compiled=True),
    "DPM-Solver++ 2M, 20, compiled, bf16": Lever("dpmpp_2m", "ays", 20, BF16, compiled=True),
    "DPM-Solver++ 2M, 10, compiled, bf16": Lever("dpmpp_2m", "ays", 10, BF16, compiled=True),
}


class Bench:
    """The baseline, the end of the ODE, and the model in every dtype, loaded and compiled once."""

    def __init__(self, model: str, batch: int, device: str):
        self.model, self.device = model, device
        self.loaded: dict[tuple[torch.dtype, bool], zoo.LatentBundle] = {}
        eager = self.bundle(torch.float32, False)
        prompts = eager.captions or ["image of red apple"]
        self.prompts = [prompts[i % len(prompts)] for i in range(batch)]
        self.z_T = randn((batch, *eager.shape), generators(range(batch)), device=device)
        self.end = self.latents(self.space(torch.float32, False), *END)
        self.pictures = eager.space("").decode(self.end).clamp(-1, 1)

    def bundle(self, dtype: torch.dtype, compiled: bool) -> zoo.LatentBundle:
        if (dtype, compiled) not in self.loaded:
            bundle = zoo.load(self.model, self.device, dtype)
            if not isinstance(bundle, zoo.LatentBundle):
                raise ValueError(f"model: {self.model} is a model of pixels, wanted a latent one")
            if compiled:
                unet = bundle.pipe.unet.to(memory_format=torch.channels_last)
                bundle.pipe.unet = torch.compile(unet, options={"freezing": True})
            self.loaded[dtype, compiled] = bundle
        return self.loaded[dtype, compiled]

    def space(self, dtype: torch.dtype, compiled: bool) -> LatentSpace:
        return self.bundle(dtype, compiled).space(self.prompts, scale=SCALE)

    def latents(self, space: LatentSpace, solver: str, grid: str | None, steps: int) -> Tensor:
        schedule = space.schedule
        walked = times(schedule.T, steps, grid, schedule) if grid else space.times(steps)
        with torch.no_grad():
            return final(SOLVERS[solver](space.model, self.z_T, walked, schedule))

    def baseline(self) -> Tensor:
        pipe = self.bundle(torch.float32, False).pipe
        options = {"guidance_scale": SCALE, "latents": self.z_T, "output_type": "pt"}
        return pipe(self.prompts, num_inference_steps=50, **options).images

    def run(self, lever: Lever) -> tuple[Tensor, Tensor]:
        """Latents and pictures, as the baseline makes them: from the prompts on."""
        space = self.space(lever.dtype, lever.compiled)
        unet = self.bundle(lever.dtype, lever.compiled).pipe.unet
        with DeepCache(unet, lever.interval) if lever.interval > 1 else nullcontext():
            z = self.latents(space, lever.solver, lever.grid, lever.steps)
        return z, space.decode(z)

    def row(self, lever: Lever, pairs: int) -> dict[str, float]:
        z, x = self.run(lever)
        close = {
            "error": relative_error(z, self.end),
            "psnr": psnr(x.clamp(-1, 1)[None], self.pictures[None]).item(),
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
    """Add the rows that ``table`` does not have, each saved when it is done."""
    common = {"batch": len(bench.prompts), "isa": os.environ.get("ONEDNN_MAX_CPU_ISA", "native")}
    done = [{key: row[key] for key in ("lever", *common)} for row in table["rows"]]
    for name in names:
        key = {"lever": name, **common}
        if key in done:
            continue
        table["rows"].append(key | bench.row(LEVERS[name], pairs))
        TABLE.parent.mkdir(parents=True, exist_ok=True)
        write_whole(TABLE, f"{json.dumps(table, indent=2, ensure_ascii=False)}\n".encode())
        print(json.dumps(table["rows"][-1]), flush=True)


def main(argv: list[str] | None = None) -> None:
    escape_unprintable()
    parser = argparse.ArgumentParser(
        prog="python -m tools.levers", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--model", default="emoji", help="a latent model (default emoji)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=4, help="pictures in a run (default 4)")
    parser.add_argument("--pairs", type=int, default=7, help="pairs of runs (default 7)")
    parser.add_argument("--only", nargs="+", choices=LEVERS, help="these levers alone")
    arguments = parser.parse_args(argv)
    bench = Bench(arguments.model, arguments.batch, arguments.device)
    table = header(bench, arguments.model, arguments.device)
    if TABLE.exists():
        old = json.loads(TABLE.read_text(encoding="utf-8"))
        same = ("unet_sha256", "environment")
        table = old if all(old[key] == table[key] for key in same) else table
    measure(bench, table, arguments.pairs, arguments.only or list(LEVERS))


if __name__ == "__main__":
    main()
