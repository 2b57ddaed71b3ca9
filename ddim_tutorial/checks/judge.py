"""The judge itself: claims about a reader's function, verified one by one until the first that
fails."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import torch
from torch import Tensor

# What the reader must show: a claim, the call that shows it, and the answer, or a test that names
# what is wrong.
Claim = tuple[str, Callable[[], Any], Any]


TOLERANCE = 1e-5  # of the largest value wanted, or of 1: float32 passes, a wrong formula does not


def judge(check: Callable[..., Iterator[Claim]]) -> Callable[..., None]:
    """Turn a generator of claims about ``fn`` into a check that prints and never raises for what
    ``fn`` does."""

    @wraps(check)
    def run(fn: Callable, **options: Any) -> None:
        name, passed = check.__name__.removeprefix("check_"), []
        for claim, call, wanted in check(fn, **options):
            try:
                problem = find_problem(call(), wanted)
            except NotImplementedError:
                print(f"{name}: not attempted yet")
                return
            except Exception as error:
                problem = f"your function raised {type(error).__name__}: {error}"
            if problem:
                print(
                    f"{name}: not yet right. Verified so far: {len(passed)}.\n  first failure:"
                    f" {claim}\n  {problem}"
                )
                return
            passed.append(claim)
        print("\n".join([f"{name}: right. Verified:", *(f"  - {claim}" for claim in passed)]))

    return run


def find_problem(got: Any, wanted: Any, tolerance: float = TOLERANCE) -> str | None:
    """What is wrong with an answer, or None. A callable ``wanted`` judges by itself."""
    if callable(wanted):
        return wanted(got)
    if got is None:
        return "got None; does your function return its result?"
    if isinstance(wanted, list):
        got = list(got)
        differ = (i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b)
        place = next(differ, min(len(got), len(wanted)))
        return (
            None
            if got == wanted
            else (
                f"{len(got)} entries, wanted {len(wanted)}; the first difference is entry "
                f"{place}: {got[place : place + 3]}, wanted {wanted[place : place + 3]}"
            )
        )
    if isinstance(got, tuple):
        return f"got a tuple of {len(got)} where one tensor is wanted"
    got, wanted = torch.as_tensor(got), torch.as_tensor(wanted)
    if got.shape != wanted.shape:
        return f"got shape {tuple(got.shape)}, wanted {tuple(wanted.shape)}"
    got, wanted = got.detach().double().cpu(), wanted.double().cpu()
    if not got.isfinite().all():
        return f"got {int((~got.isfinite()).sum())} NaN or infinite values of {got.numel()}"
    error, bound = (
        (got - wanted).abs().max().item(),
        tolerance * max(1.0, wanted.abs().max().item()),
    )
    if error <= bound:
        return None
    numbers = f": {got.item():.6g}, wanted {wanted.item():.6g}" if got.numel() == 1 else ""
    return f"differs by up to {error:.2g} (allowed {bound:.0e}){numbers}"


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def verdict(problem: str | None) -> str | None:
    """For a call that says itself what is wrong."""
    return problem
