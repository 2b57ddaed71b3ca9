"""The judge itself: claims about a reader's function, verified one by one until the first that
fails."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

TOLERANCE = 1e-5  # of the largest expected value, or of 1: float32 passes, a wrong formula does not


class Claim(NamedTuple):
    """What the reader must show: a claim, the call that shows it, and the answer, or a test that
    names what is wrong. ``slips``: what a usual mistake would have answered, by its name."""

    claim: str
    call: Callable[[], Any]
    expected: Any
    slips: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Result:
    """What a check found: ``passed`` is True, False, or None for a stub; ``verified`` the claims
    that hold; ``claim`` the first that does not, and ``problem`` what is wrong with it.

    True in an ``if`` where everything was verified. Shown nowhere: the check has printed it.
    """

    name: str
    passed: bool | None
    verified: tuple[str, ...] = ()
    claim: str | None = None
    problem: str | None = None

    def __bool__(self) -> bool:
        return self.passed is True

    def __str__(self) -> str:
        if self.passed is None:
            return f"{self.name}: not attempted yet"
        if self.passed:
            return "\n".join(
                [f"{self.name}: right. Verified:", *map("  - {}".format, self.verified)]
            )
        return (
            f"{self.name}: not yet right. Verified so far: {len(self.verified)}.\n  first failure:"
            f" {self.claim}\n  {self.problem}"
        )

    def _ipython_display_(self) -> None:
        """Nothing: as the last line of a cell it would appear a second time."""


class Mistake(Exception):
    """What the reader's function did wrong, in words."""


class Raised(Exception):
    """An exception of the reader's function, so that the judge's own are never taken for it."""


def judge(check: Callable[..., Iterator[Claim]]) -> Callable[..., Result]:
    """Turn a generator of claims about ``fn`` into a check that prints its result, returns it, and
    never raises for what ``fn`` does."""

    @wraps(check)
    def run(fn: Callable, **options: Any) -> Result:
        name = check.__name__.removeprefix("check_")
        result = _result(name, check(watch(fn), **options))
        print(result)
        return result

    return run


def _result(name: str, claims: Iterator[Claim]) -> Result:
    verified: list[str] = []
    for claim, call, expected, slips in claims:
        try:
            answer = call()
            problem = find_problem(answer, expected)
            if problem and (slip := _name_slip(answer, slips)):
                problem += f"; it looks as if {slip}"
        except NotImplementedError:
            return Result(name, None)
        except Mistake as mistake:
            problem = str(mistake)
        except Raised as raised:
            error = raised.__cause__
            problem = f"your function raised {type(error).__name__}: {error}"
        except Exception as error:
            problem = f"the answer cannot be judged ({type(error).__name__}: {error})"
        if problem:
            return Result(name, False, tuple(verified), claim, problem)
        verified.append(claim)
    return Result(name, True, tuple(verified))


def watch(fn: Callable) -> Callable:
    """``fn``, with its arguments compared before and after, its exceptions marked as its own, and
    NumPy arrays that it returns as tensors."""

    def watched(*arguments: Any, **options: Any) -> Any:
        given = {**dict(zip(_names(fn, arguments), arguments, strict=True)), **options}
        before = {name: _copy(value) for name, value in given.items()}
        try:
            answer = fn(*arguments, **options)
            if inspect.isgenerator(answer):
                answer = _collect(answer)
        except (NotImplementedError, Mistake):
            raise
        except Exception as error:
            raise Raised from error
        for name, value in given.items():
            if not _equal(value, before[name]):
                raise Mistake(
                    f"your function changed its argument {name} in place (an operator such as -="
                    " or a method that ends in _ does that); compute a new one"
                )
        return torch.from_numpy(answer) if isinstance(answer, np.ndarray) else answer

    return watched


LONGEST = 10_000  # entries of a generator: more than any grid has


def _collect(generator: Iterator[Any]) -> list[Any]:
    entries = []
    for entry in generator:
        entries.append(entry)
        if len(entries) > LONGEST:
            raise Mistake(f"your function goes on without an end: {LONGEST} values and more")
    return entries


def _names(fn: Callable, arguments: tuple[Any, ...]) -> list[str]:
    try:
        parameters = inspect.signature(fn).parameters.values()
        named = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    except (TypeError, ValueError):  # a builtin
        named = []
    return [*named, *(f"number {i + 1}" for i in range(len(named), len(arguments)))][
        : len(arguments)
    ]


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return list(value) if isinstance(value, list) else value


def _equal(value: Any, before: Any) -> bool:
    if isinstance(value, Tensor):
        return value.shape == before.shape and torch.equal(value.detach(), before)
    return value == before if isinstance(value, list) else True


def as_tensor(answer: Any) -> Tensor:
    """The answer as one tensor; a :class:`Mistake` for what is none."""
    if answer is None:
        raise Mistake("got None; does your function return its result?")
    if isinstance(answer, tuple | list) and any(isinstance(part, Tensor) for part in answer):
        raise Mistake(f"got a {type(answer).__name__} of {len(answer)} where one tensor is wanted")
    try:
        return torch.as_tensor(answer)
    except (TypeError, ValueError, RuntimeError):
        raise Mistake(f"got a {type(answer).__name__} where one tensor is wanted") from None


def find_problem(answer: Any, expected: Any, tolerance: float = TOLERANCE) -> str | None:
    """What is wrong with an answer, or None. A callable ``expected`` judges by itself."""
    if callable(expected):
        return expected(answer)
    if isinstance(expected, list):
        return _list_problem(answer, expected)
    got, expected = as_tensor(answer), torch.as_tensor(expected)
    if got.shape != expected.shape:
        return f"got shape {tuple(got.shape)}, wanted {tuple(expected.shape)}"
    got, expected = got.detach().double().cpu(), expected.double().cpu()
    if not got.isfinite().all():
        return f"got {int((~got.isfinite()).sum())} NaN or infinite values of {got.numel()}"
    error = (got - expected).abs().max().item()
    bound = tolerance * max(1.0, expected.abs().max().item())
    if error <= bound:
        return None
    numbers = f": {got.item():.6g}, wanted {expected.item():.6g}" if got.numel() == 1 else ""
    return f"differs by up to {error:.2g} (allowed {bound:.0e}){numbers}"


def _list_problem(answer: Any, expected: list[Any]) -> str | None:
    if answer is None:
        return "got None; does your function return its result?"
    if not hasattr(answer, "__iter__"):
        return f"got a {type(answer).__name__}, wanted a list of {len(expected)}"
    got = answer.tolist() if isinstance(answer, Tensor) else list(answer)
    got = got if isinstance(got, list) else [got]
    if got == expected:
        return None
    differ = (i for i, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b)
    place = next(differ, min(len(got), len(expected)))
    return (
        f"{len(got)} entries, wanted {len(expected)}; the first difference is entry "
        f"{place}: {got[place : place + 3]}, wanted {expected[place : place + 3]}"
    )


def _name_slip(answer: Any, slips: Mapping[str, Any]) -> str | None:
    """The usual mistake that gives this answer."""
    return next((name for name, value in slips.items() if not find_problem(answer, value)), None)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def verdict(problem: str | None) -> str | None:
    """For a call that says itself what is wrong."""
    return problem
