"""What a door refuses: whole numbers, grids, images, generators, scales. Every message says
what was seen and what to do. The formulas then come first in every other file."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

# numbers as annotations name them; numbers.Integral and Real say nothing to a type checker
Whole = int | np.integer
Number = float | int | np.floating | np.integer

LEAST_SIGNAL = 1e-12  # alpha_bar_T at least: the reason stands with Schedule


def require_int(name: str, value: Any, low: int, high: int | float = math.inf) -> int:
    """``value`` as an int; TypeError or ValueError unless it is a whole number in low..high."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or isinstance(value, Tensor):
        raise TypeError(
            f"{name}={value!r} is a {type(value).__name__}: pass a Python int in {low}..{high}"
        )
    if not low <= value <= high:
        raise ValueError(f"{name}={value} is out of range: pass an int in {low}..{high}")
    return int(value)


def require_time(t: Any, T: int, x_t: Tensor, low: int = 1) -> int | Tensor:
    """``t`` as an int, or as a (B,) tensor on x_t's device: one time for each image.

    A number, a sequence and an array are looked at: low..T. A tensor is not, as that would wait for
    its device.
    """
    if isinstance(t, Tensor):
        if t.is_floating_point() or t.dtype == torch.bool or t.shape != x_t.shape[:1]:
            raise TypeError(
                f"t is {t.dtype} of shape {tuple(t.shape)}: pass an int, or integers of shape "
                f"{tuple(x_t.shape[:1])}, one for each image"
            )
        return t.to(x_t.device)
    if isinstance(t, str) or not hasattr(t, "__len__") or getattr(t, "ndim", 1) == 0:
        return require_int("t", t, low, T)
    times = [require_int("an entry of t", each, low, T) for each in t]
    if len(times) != len(x_t):
        raise ValueError(f"t has {len(times)} entries, wanted {len(x_t)}: pass one for each image")
    return torch.tensor(times, device=x_t.device)


def require_level(name: str, ab: Any) -> float | Tensor:
    """alpha_bar as a float in 0..1, or as the tensor that ``Schedule.at`` makes."""
    if isinstance(ab, Tensor) or (type(ab) is float and 0 <= ab <= 1):
        return ab
    if not isinstance(ab, Real) or isinstance(ab, bool):
        raise TypeError(
            f"{name} is a {type(ab).__name__}: pass a number in 0..1, or a tensor of Schedule.at"
        )
    if not 0 <= float(ab) <= 1:
        raise ValueError(f"{name}={ab} is no alpha_bar: pass a number in 0..1")
    return float(ab)


def require_alpha_bar(ab: Tensor) -> None:
    """Refuse what is no (T+1,) float64 tensor on the CPU that falls strictly from 1 to >= 1e-12."""
    if not isinstance(ab, Tensor):
        raise TypeError(
            f"alpha_bar is a {type(ab).__name__}: pass a (T+1,) float64 tensor on the CPU"
        )
    if ab.dtype != torch.float64 or ab.device.type != "cpu" or ab.dim() != 1:
        raise TypeError(
            f"alpha_bar is {ab.dtype} of shape {tuple(ab.shape)} on {ab.device}: "
            "pass a (T+1,) float64 tensor on the CPU"
        )
    if len(ab) < 2:
        raise ValueError(
            f"alpha_bar has {len(ab)} entries, so T={len(ab) - 1}: pass T+1 >= 2 entries"
        )
    if ab[0] != 1:
        raise ValueError(
            f"alpha_bar[0]={ab[0]:.6g}: index 0 is the clean image, pass alpha_bar[0] == 1"
        )
    bad = torch.nonzero(~(ab[1:] < ab[:-1]))  # written so that NaN counts as bad
    if len(bad):
        t = int(bad[0]) + 1
        raise ValueError(
            f"alpha_bar[{t}]={ab[t]:.6g} after alpha_bar[{t - 1}]={ab[t - 1]:.6g}: "
            "alpha_bar must decrease strictly (every beta in (0, 1))"
        )
    if ab[-1] < LEAST_SIGNAL:
        raise ValueError(
            f"alpha_bar[T]={ab[-1]:.6g}: with no signal left eps says nothing about x_0 (zero"
            f" terminal SNR); end the schedule at alpha_bar[T] >= {LEAST_SIGNAL:.0e}, such as"
            " Schedule(alpha_bar[:-1])"
        )


def require_times(times: Sequence[int], T: int) -> list[int]:
    """``times`` as a list of at least two ints in 0..T that go strictly in one direction."""
    if not isinstance(times, Iterable) or isinstance(times, str):
        raise TypeError(
            f"times={times!r} is a {type(times).__name__}: pass a list of ints, such as"
            f" times({T}, 50)"
        )
    grid = list(times)
    if len(grid) < 2:
        raise ValueError(f"times={grid} makes no step: pass at least two, such as times({T}, 50)")
    for t in grid:
        require_int("an entry of times", t, 0, T)
    if not (all(s > t for t, s in pairwise(grid)) or all(s < t for t, s in pairwise(grid))):
        raise ValueError(
            f"times={grid if len(grid) < 9 else [*grid[:4], '...', *grid[-4:]]} turns back or"
            " repeats: pass strictly decreasing times (to sample) or strictly increasing ones (to"
            " invert)"
        )
    return [int(t) for t in grid]


def require_sigma(sigma: Any, ab_s: float | Tensor) -> float | Tensor:
    """A step's sigma, refused where it leaves no real direction: sigma^2 <= 1 - ab_s."""
    if isinstance(sigma, Tensor) or isinstance(ab_s, Tensor) or sigma == 0.0:
        return sigma
    if not isinstance(sigma, Real) or not 0 <= float(sigma) ** 2 <= 1 - ab_s:
        raise ValueError(
            f"sigma={sigma!r} with ab_s={ab_s}: pass a number with sigma^2 <= 1 - ab_s"
            f" = {1 - ab_s:.4g}"
        )
    return float(sigma)


def require_eta(grid: list[int], alpha_bar: Tensor, eta: float, sigma_hat: bool) -> None:
    """Refuse an eta that leaves a step of ``grid`` no real direction, or noise while inverting."""
    if not isinstance(eta, Real) or not eta >= 0:
        raise ValueError(
            f"eta={eta!r}: pass a number >= 0 (0 is DDIM, 1 is DDPM, math.inf jumps, then noises"
            " anew)"
        )
    if grid[0] < grid[1] and (eta or sigma_hat):
        raise ValueError(
            f"{'sigma_hat=True' if sigma_hat else f'eta={eta}'} with s={grid[1]} > t={grid[0]}: "
            "inversion is deterministic, pass eta=0 and sigma_hat=False"
        )
    if sigma_hat and eta not in (0, 1):
        raise ValueError(
            f"sigma_hat=True with eta={eta}: sigma-hat is eta=1 with more noise, pass eta=1"
        )
    if 1 < eta < math.inf and not torch.compiler.is_compiling():
        for t, s in pairwise(grid):
            ab_t, ab_s = alpha_bar[t], alpha_bar[s]
            largest = ((1 - ab_t) / (1 - ab_t / ab_s)).sqrt()  # sigma^2 = 1 - ab_s, DDIM Eq. 16
            if eta > largest:
                raise ValueError(
                    f"eta={eta} from t={t} to s={s}: sigma^2 exceeds 1 - alpha_bar_s: no real "
                    f"direction is left; this step allows eta <= {largest:.4f}"
                )


def require_images(name: str, x: Tensor) -> None:
    """Refuse what is not a batch of floating-point numbers, or holds NaN or infinity.

    Values are not looked at on meta tensors and under torch.compile, where there are none.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        seen = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"{name} is {seen}: pass a floating-point tensor in [-1, 1] (uint8 images: x / 127.5"
            " - 1)"
        )
    if x.dim() < 2 or len(x) == 0:
        raise ValueError(f"{name} has shape {tuple(x.shape)}: pass a batch (B, *dims) with B >= 1")
    if not (x.is_meta or torch.compiler.is_compiling()) and not x.isfinite().all().tolist():
        raise ValueError(
            f"{name} holds NaN or infinity: look for the model or the input that made it"
        )


def require_like(name: str, y: Tensor, x: Tensor) -> None:
    """Refuse ``y`` unless it holds floats, in the shape and on the device of the state ``x``.

    Broadcasting hides mistakes.
    """
    if not isinstance(y, Tensor) or not y.is_floating_point():
        seen = y.dtype if isinstance(y, Tensor) else type(y)
        hint = ""
        if "model" in name:
            hint = (
                "; a network of diffusers or guided-diffusion counts time from 0 and is wrapped by"
                " pixel.eps_model(network), which asks it at t - 1"
            )
        raise TypeError(f"{name} is {seen}, wanted a tensor of floats{hint}")
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a tensor and the state a {type(x).__name__}, wanted tensors")
    if y.shape != x.shape:
        hint = (
            "; a learned-variance network is wrapped by eps_model(.., learned_variance=True)"
            if ("eps" in name and y.dim() == x.dim() > 1 and y.shape[1] == 2 * x.shape[1])
            else ""
        )
        raise ValueError(
            f"{name} has shape {tuple(y.shape)}, wanted {tuple(x.shape)}, that of the state{hint}"
        )
    if y.device != x.device:
        raise ValueError(
            f"{name} is on {y.device} and the state on {x.device}: move one of them with"
            " .to(device)"
        )


def require_same_shape(name: str, y: Tensor, x: Tensor) -> None:
    """Refuse ``y`` unless it is a tensor of the shape of ``x``: broadcasting hides mistakes."""
    shapes = [tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__ for z in (y, x)]
    if not isinstance(y, Tensor) or not isinstance(x, Tensor) or y.shape != x.shape:
        raise ValueError(f"{name} is {shapes[0]}, wanted a tensor of shape {shapes[1]}")


def require_generator(generator: Any, batch: int) -> None:
    """Refuse what is not a generator, a sequence of them, one per image, or None."""
    several = isinstance(generator, Sequence)
    if not all(
        isinstance(g, torch.Generator)
        for g in (generator if several else [generator])
        if g is not None
    ):
        raise TypeError(
            f"generator={generator!r}: pass a torch.Generator, or generators(seeds), one per image"
        )
    if several and len(generator) != batch:
        raise ValueError(
            f"generator: got {len(generator)} for a batch of {batch}, pass one per image, or one"
        )


def require_scale(scale: Any) -> None:
    """Refuse a guidance scale that is no finite number."""
    if not isinstance(scale, Real) or not math.isfinite(scale):
        raise ValueError(f"scale: got {scale!r}, wanted a finite number")


def require_positive(name: str, value: Any, high: float = math.inf) -> None:
    """Refuse what is no finite number above 0 and at most ``high``."""
    number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not 0 < value <= high:
        most = "" if high == math.inf else f" and at most {high:g}"
        raise ValueError(f"{name}={value!r}: pass a finite number above 0{most}")
