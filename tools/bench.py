"""Ratios against a peer: ``python -m tools.bench`` times diffusers and this package in
turns, and prints JSON.

A ratio is diffusers' time / ours of one pair of runs taken one after the other, so a busy machine
slows both; the median of many pairs is what to quote, with the spread beside it. Above 1 we are
faster.
"""

import argparse
import json
import platform
import statistics
import timeit
from collections.abc import Callable

import torch
from torch.utils.benchmark import timer

from ddim_tutorial.console import escape_unprintable
from ddim_tutorial.metrics import psnr
from ddim_tutorial.peers import from_scheduler, scheduler_times
from ddim_tutorial.predict import EpsModel
from ddim_tutorial.sampling import ddim_step, sample

SHAPES = {"latents 4x64x64": (2, 4, 64, 64), "pixels 1x32x32": (2, 1, 32, 32)}


def seconds(run: Callable[[], object], calls: int) -> float:
    """Seconds that one call takes, the mean over ``calls`` calls in a row."""
    # torch's clock waits for the GPU; its Timer would warm up anew in every pair
    return timeit.Timer(run, timer=timer).timeit(calls) / calls


def compare(
    theirs: Callable[[], object], ours: Callable[[], object], *, pairs: int, calls: int
) -> dict[str, float]:
    """Time two functions in turns, the order swapped from pair to pair, after one warm-up call
    each."""
    theirs(), ours()
    times = []
    for pair in range(pairs):
        if pair % 2:
            times.append((seconds(theirs, calls), seconds(ours, calls)))
        else:
            times.append((seconds(ours, calls), seconds(theirs, calls))[::-1])
    ratios = [a / b for a, b in times]
    return {
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "diffusers_us": 1e6 * statistics.median(a for a, _ in times),
        "ours_us": 1e6 * statistics.median(b for _, b in times),
        "pairs": pairs,
        "calls": calls,
    }


def bench_step(shape: tuple[int, ...], device: str, *, pairs: int, calls: int) -> dict[str, float]:
    """One deterministic step (eta = 0), x0_hat included, in the middle of a 50-step grid."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(50)
    schedule, grid = from_scheduler(scheduler), scheduler_times(scheduler, 50)
    x_t, eps = torch.randn(2, *shape, device=device)
    timestep = scheduler.timesteps[25]
    ab_t, ab_s = schedule.level(grid[25]), schedule.level(grid[26])  # once per grid, as in the loop
    return compare(
        lambda: scheduler.step(eps, timestep, x_t),
        lambda: ddim_step(x_t, eps, ab_t, ab_s),
        pairs=pairs, calls=calls,
    )  # fmt: skip


def bench_loop(shape: tuple[int, ...], device: str, *, steps: int, width: int, pairs: int) -> dict:
    """A whole loop with a small untrained UNet2DModel: the lines of DDIMPipeline.__call__ against
    ``sample``.

    ``noise`` is the [min, median, max] ratio of diffusers' loop against itself: what a ratio may be
    by chance here.
    """
    from diffusers import DDIMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=shape[-1],
        in_channels=shape[1],
        out_channels=shape[1],
        layers_per_block=1,
        norm_num_groups=8,
        block_out_channels=(width, 2 * width),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    unet.to(device).eval()
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(steps)
    schedule, grid = from_scheduler(scheduler), scheduler_times(scheduler, steps)
    x_T = torch.randn(shape, device=device)
    model: EpsModel = lambda x_t, t: unet(x_t, t - 1).sample  # noqa: E731

    @torch.no_grad()
    def theirs() -> torch.Tensor:
        x = x_T
        for timestep in scheduler.timesteps:
            eps = unet(x, timestep).sample
            x = scheduler.step(eps, timestep, x, eta=0.0, use_clipped_model_output=None).prev_sample
        return x

    figures = compare(theirs, lambda: sample(model, x_T, grid, schedule), pairs=pairs, calls=1)
    itself = compare(theirs, theirs, pairs=pairs, calls=1)
    return figures | {"noise": [itself[f"ratio_{kind}"] for kind in ("min", "median", "max")]}


def bench_latent(
    model: str, device: str, *, batch: int, steps: int, pairs: int, compiled: bool = True
) -> dict:
    """A latent model's whole run (guidance 4): StableDiffusionPipeline in float32 against
    ``sample`` on the same network in bf16, channels_last and compiled; the state stays float32.
    ``psnr`` in dB compares the pictures, decoded in float32."""
    from ddim_tutorial import zoo
    from ddim_tutorial.noise import generators, randn

    eager, fast = zoo.load(model, device, torch.float32), zoo.load(model, device, torch.bfloat16)
    if not (isinstance(eager, zoo.LatentBundle) and isinstance(fast, zoo.LatentBundle)):
        raise ValueError(
            f"model: {model} is a model of pixels, wanted a latent one: emoji, a folder or a hub id"
        )
    if compiled:
        unet = fast.pipe.unet.to(memory_format=torch.channels_last)
        fast.pipe.unet = torch.compile(unet, options={"freezing": True})
    prompts = ["image of red apple"] * batch
    ours, z_T = (
        fast.space(prompts, scale=4.0),
        randn((batch, *eager.shape), generators(range(batch)), device=device),
    )
    grid, decode = ours.times(steps), eager.space("").decode

    def theirs_run() -> torch.Tensor:
        return eager.pipe(
            prompts,
            num_inference_steps=steps,
            guidance_scale=4.0,
            latents=z_T,
            output_type="latent",
        ).images

    @torch.no_grad()
    def ours_run() -> torch.Tensor:
        return sample(ours.model, z_T, grid, ours.schedule)

    a, b = (decode(latents).clamp(-1, 1)[None] for latents in (ours_run(), theirs_run()))
    return compare(theirs_run, ours_run, pairs=pairs, calls=1) | {"psnr": psnr(a, b).item()}


def environment(device: str) -> dict[str, str | int]:
    """What the figures depend on."""
    import diffusers

    cuda = device.startswith("cuda")
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if cuda else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def run(
    device: str = "cpu", *, pairs: int = 41, calls: int = 200, steps: int = 20, width: int = 32
) -> dict:
    """Every comparison: {"environment": ..., "step": {shape: ratios}, "loop": {shape: ratios}},
    float32, batch of 2."""
    return {
        "environment": environment(device),
        "step": {
            name: bench_step(shape, device, pairs=pairs, calls=calls)
            for name, shape in SHAPES.items()
        },
        "loop": {
            name: bench_loop(shape, device, steps=steps, width=width, pairs=max(3, pairs // 4))
            for name, shape in SHAPES.items()
        },
    }


def run_latent(model: str, device: str, *, pairs: int, steps: int) -> dict:
    """The comparison of :func:`bench_latent` for a small and a large batch."""
    return {"environment": environment(device), "model": model} | {
        f"batch {batch}": bench_latent(model, device, batch=batch, steps=steps, pairs=pairs)
        for batch in (2, 16)
    }


def main(argv: list[str] | None = None) -> None:
    escape_unprintable()
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--latent", metavar="MODEL", help="only a latent model, bf16 and compiled")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--pairs", type=int, default=41, help="pairs of runs (default 41)")
    parser.add_argument("--calls", type=int, default=200, help="steps in one run (default 200)")
    parser.add_argument(
        "--steps", type=int, default=20, help="steps of the whole loop (default 20)"
    )
    parser.add_argument(
        "--width", type=int, default=32, help="channels of the loop's network (default 32)"
    )
    options = vars(parser.parse_args(argv))
    if model := options.pop("latent"):
        figures = run_latent(
            model, options["device"], pairs=options["pairs"], steps=options["steps"]
        )
    else:
        figures = run(**options)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
