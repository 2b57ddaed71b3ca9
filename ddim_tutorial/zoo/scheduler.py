"""The scheduler's configuration in a model's folder, read as the class that it names.

What counts is the noise levels that this class makes of its keys: our sampler then walks them as
DDIM does.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..peers import clipping
from .weights import read_json

if TYPE_CHECKING:
    from diffusers import DDIMScheduler


def read_scheduler(path: Path, predictions: tuple[str, ...]) -> "DDIMScheduler":
    """A DDIMScheduler with the noise levels of the configuration in ``path``, that does not clip.

    ``predictions``: the prediction types that the caller can use. Raises ValueError, naming the
    file, for a class without alphas_cumprod (flow matching, EDM), or a configuration that its
    class refuses. Warns where the class would clip x0_hat, and where the last time is left out
    because no signal is left there.
    """
    config = read_json(path)
    scheduler = _own_scheduler(path, config)
    prediction = scheduler.config.get("prediction_type", "epsilon")
    if prediction not in predictions:
        raise ValueError(
            f"{path}: prediction_type is {prediction!r}, wanted"
            f" {' or '.join(map(repr, predictions))}; convert its answers with eps_from_v or"
            " predict_eps and use it without zoo.load"
        )
    for key, value in (("timestep_type", "continuous"), ("use_flow_sigmas", True)):
        if scheduler.config.get(key) == value:
            raise ValueError(
                f"{path}: {key} is {value!r}: the network is not asked at the times 1..T of a"
                " variance-preserving schedule, which is all that this sampler knows"
            )
    if option := clipping(scheduler):
        warnings.warn(
            f"{path}: {option}=True: diffusers' own pipeline clips x0_hat; that is not done here,"
            " because a clipped step has no inverse, so its pictures will differ from ours",
            stacklevel=4,
        )
    if scheduler.alphas_cumprod[-1] <= 0:
        T = len(scheduler.alphas_cumprod)
        warnings.warn(
            f"{path}: rescale_betas_zero_snr=True leaves no signal at t = {T}, where a noise"
            f" prediction says nothing about x_0; the schedule here ends at T = {T - 1}",
            stacklevel=4,
        )
    return to_ddim(scheduler)


def to_ddim(scheduler: Any) -> "DDIMScheduler":
    """A diffusers DDIMScheduler with the noise levels of ``scheduler``, that does not clip.

    Where the last time has no signal left (zero terminal SNR), it ends one step before.
    """
    from diffusers import DDIMScheduler

    alphas_cumprod = scheduler.alphas_cumprod
    kept = len(alphas_cumprod) - int(alphas_cumprod[-1] <= 0)
    # what the other class only has by default, DDIMScheduler has by its own
    defaults = set(scheduler.config.get("_use_default_values", ()))
    config = {
        key: value
        for key, value in scheduler.config.items()
        if key not in defaults and not key.startswith("_")
    }
    config.update(clip_sample=False, thresholding=False)
    try:
        ddim = DDIMScheduler.from_config(config)
        same = torch.equal(ddim.alphas_cumprod, alphas_cumprod[:kept])
    except NotImplementedError:  # a beta_schedule that only the other class knows
        same = False
    if same:
        return ddim
    config.update(
        num_train_timesteps=kept,
        trained_betas=_betas(alphas_cumprod[:kept]),
        rescale_betas_zero_snr=False,
    )
    return DDIMScheduler.from_config(config)


def _betas(alphas_cumprod: torch.Tensor) -> list[float]:
    """The betas whose cumulative product ``alphas_cumprod`` is."""
    bar = torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod.double().cpu()])
    return (1 - bar[1:] / bar[:-1]).tolist()


def _own_scheduler(path: Path, config: dict[str, Any]) -> Any:
    """The scheduler that ``config`` describes, of its own class."""
    import diffusers

    name = config.get("_class_name", "DDIMScheduler")
    kind = getattr(diffusers, str(name), None) if str(name).endswith("Scheduler") else None
    if kind is None:
        raise ValueError(
            f"{path}: its _class_name is {name!r}, wanted a scheduler of diffusers such as"
            " DDIMScheduler"
        )
    try:
        scheduler = kind.from_config(config)
    except ImportError:  # a sampler that needs a package of its own; its noise levels do not
        kind = diffusers.DDIMScheduler if "beta_schedule" in config else kind
        scheduler = kind.from_config(config) if "beta_schedule" in config else None
    except (NotImplementedError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: {name} cannot be built from it ({error})") from error
    if getattr(scheduler, "alphas_cumprod", None) is None:
        raise ValueError(
            f"{path}: {name} has no alphas_cumprod, wanted a variance-preserving scheduler such as"
            " DDIMScheduler; flow matching and EDM models have another process"
        )
    return scheduler
