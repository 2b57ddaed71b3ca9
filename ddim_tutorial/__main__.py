"""``python -m ddim_tutorial doctor``: what is installed here, whether the bundled models are whole,
what would fail."""

import argparse
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from ddim_tutorial.console import escape_unprintable


def requirements(extra: str) -> Iterator[tuple[str, str | None, bool]]:
    """(requirement, installed version or None, whether that is enough) for the package ("") or one
    of its extras."""
    from packaging.requirements import Requirement

    for requirement in map(Requirement, requires("ddim_tutorial") or []):
        if not _belongs_to(requirement.marker, extra):
            continue
        text = f"{requirement.name}{requirement.specifier}"
        try:
            installed = version(requirement.name)
            yield text, installed, requirement.specifier.contains(installed, prereleases=True)
        except PackageNotFoundError:
            yield text, None, False


def _belongs_to(marker: Any, extra: str) -> bool:
    """Whether a requirement with this marker is one of ``extra`` and not of the package itself."""
    always = marker is None or marker.evaluate({"extra": ""})
    if not extra:
        return always
    return not always and marker.evaluate({"extra": extra})


def packages(problems: list[str]) -> None:
    for extra, need in (("", "everything"), ("lab", "the notebooks"), ("train", ""), ("test", "")):
        print(f"\npackages{f' [{extra}]' if extra else ''}")
        for text, installed, enough in requirements(extra):
            print(
                f"  {'ok ' if enough else 'NO ' if need else '-  '} {text:28}"
                f" {installed or 'not installed'}"
            )
            if need and not enough:
                problems.append(
                    f"{need} needs {text}, found {installed or 'none'}: pip install -e '.[lab]'"
                )


def models(problems: list[str]) -> None:
    from ddim_tutorial import zoo

    print("\nbundled models")
    for name in zoo.names():
        try:
            card = zoo.verify(zoo.ZOO / name)
            size = sum((zoo.ZOO / name / file).stat().st_size for file in card["files"])
            print(
                f"  ok  {name:28} {len(card['files'])} files, {size / 1e6:.1f} MB, sha256 as in the"
                " card"
            )
        except ValueError as error:
            print(f"  NO  {name}")
            problems.append(str(error))
    if not zoo.names():
        problems.append(
            f"no model is bundled in {zoo.ZOO}: the notebooks cannot sample; reinstall the package"
        )


def one_step(problems: list[str]) -> None:
    """Load the two models that the notebooks would use, of pixels and latent, and evaluate each
    once."""
    import torch

    from ddim_tutorial import zoo

    print(f"\nmodels of the notebooks ({zoo.VARIABLE}={os.environ.get(zoo.VARIABLE) or 'not set'})")
    for default, kind in (("fashion", "the pixel model"), ("emoji", "the latent model")):
        try:
            bundle = zoo.load(default=default)
            x_t = torch.zeros((1, *bundle.shape), device=bundle.device)
            with torch.no_grad():
                eps = bundle.model(x_t, torch.ones(1, dtype=torch.long, device=bundle.device))
            if eps.shape != x_t.shape or not eps.isfinite().all():
                raise ValueError(
                    f"eps has shape {tuple(eps.shape)} with {int((~eps.isfinite()).sum())} values"
                    " not finite"
                )
            print(f"  ok  {bundle.name} loads and evaluates on {bundle.device}")
        except Exception as error:  # whatever it is, a reader wants it in the list
            print(f"  NO  {kind}")
            problems.append(f"{kind}: {type(error).__name__}: {error}")


def doctor() -> int:
    """Print the report; 1 if something that the notebooks need is missing or broken, else 0."""
    problems: list[str] = []
    print(
        f"Python {platform.python_version()} at {sys.executable}, {platform.system()}"
        f" {platform.machine()}"
    )
    try:
        import torch
    except ImportError as error:
        print(f"torch cannot be imported: {error}\nwould fail: everything; pip install -e '.[lab]'")
        return 1
    cuda = torch.cuda.is_available()
    device = (
        torch.cuda.get_device_name() if cuda else "cpu (no CUDA device: everything runs, slower)"
    )
    print(f"device {device}, {torch.get_num_threads()} threads on {os.cpu_count()} cores")
    checks = [packages, models, one_step]
    for check in checks:
        try:
            check(problems)
        except PackageNotFoundError:
            problems.append(
                "ddim_tutorial itself is not installed: pip install -e '.[lab]' in the project's"
                " folder"
            )
        except ImportError as error:
            problems.append(f"{error}: pip install -e '.[lab]'")
    print("\nwould fail:" if problems else "\nwould fail: nothing")
    for problem in dict.fromkeys(problems):
        print(f"  {problem}")
    return 1 if problems else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ddim_tutorial", description=__doc__)
    parser.add_argument("command", choices=["doctor"])
    escape_unprintable()
    parser.parse_args(arguments)
    return doctor()


if __name__ == "__main__":
    sys.exit(main())
