"""The one training loop behind every recipe: AdamW or Muon, a moving average of the weights (EMA),
gradient clipping, a log, and a run that survives a kill.

A run lives in a folder: ``state.safetensors`` (weights, EMA, optimiser and step together, replaced
atomically), ``log.jsonl`` (one line every ``log_every`` steps), ``settings.json`` and
``curve.png``. The random numbers of step k depend on (seed, k, process) alone, so a resumed run
repeats an uninterrupted one bit for bit.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from ddim_tutorial.training.checkpoint import Optimizers, load_state, save_state, write_settings
from ddim_tutorial.training.log import Log
from ddim_tutorial.training.muon import Muon

__all__ = ["Settings", "fit", "learning_rate", "mixed_precision", "processes"]

LossFn = Callable[[nn.Module], tuple[Tensor, dict[str, Tensor]]]
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16}  # of what autocast computes, by precision


@dataclass(frozen=True)
class Settings:
    """How long and how fast to train. ``steps`` counts optimiser updates; the rate warms up
    linearly over ``warmup`` steps, stays at ``lr``, and falls from ``decay_from * steps`` on to
    ``final * lr`` along a cosine."""

    steps: int
    lr: float
    warmup: int = 200
    decay_from: float = 0.0
    final: float = 0.02
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    log_every: int = 50
    save_minutes: float = 10.0


def learning_rate(step: int, settings: Settings) -> float:
    """The learning rate of update number ``step`` (0-based), a function of the step alone."""
    rise = min(1.0, (step + 1) / max(1, settings.warmup))
    start = settings.decay_from * settings.steps
    progress = min(1.0, max(0.0, (step - start) / max(1.0, settings.steps - start)))
    fall = settings.final + (1 - settings.final) * 0.5 * (1 + math.cos(math.pi * progress))
    return settings.lr * rise * fall


def mixed_precision() -> str:
    """'bf16' where the hardware multiplies bf16 natively, else 'no' (float32)."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    wide = torch.backends.cpu.get_cpu_capability() in ("AVX512", "AMX")
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return "bf16" if wide and probe is not None and probe() else "no"


def warm_ema(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    """The moving average of AveragedModel with the decay min(decay, (1 + n) / (10 + n)) at its n-th
    update: at 0.999 the random first weights would otherwise still make up 6 % of the average after
    2,800 steps."""

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        n = int(count)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, count)

    return update


def build_optimizers(
    model: nn.Module,
    settings: Settings,
    matrices: Collection[str] = (),
    dtype: torch.dtype = torch.float32,
) -> Optimizers:
    """AdamW, and Muon (in ``dtype``) for the parameters that are named in ``matrices``, at one
    learning rate."""
    adamw = torch.optim.AdamW(
        [p for name, p in model.named_parameters() if name not in matrices],
        lr=settings.lr,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    if not matrices:
        return {"optimizer": adamw}
    weights = [p for name, p in model.named_parameters() if name in matrices]
    return {"optimizer": adamw, "muon": Muon(weights, settings.lr, settings.weight_decay, dtype)}


def fit(
    model: nn.Module,
    loss_fn: LossFn,
    folder: str | Path,
    settings: Settings,
    *,
    precision: str | None = None,
    on_save: Callable[[nn.Module, int], None] | None = None,
    matrices: Collection[str] = (),
) -> nn.Module:
    """Train ``model`` and return its exponential moving average (on the CPU, float32, eval mode).

    ``loss_fn(model) -> (loss, figures)`` draws its own batch from torch's global generator, which
    is seeded anew every step; ``figures`` are scalars for the log. ``folder`` holds the run: if it
    has a state, training goes on from there. ``precision`` is "no" (float32), "bf16" (autocast) or
    None (whichever of the two suits this hardware, :func:`mixed_precision`); settings.json says
    which it was. ``on_save(ema_model, step)`` runs after every checkpoint (pictures to look at).
    ``matrices`` names the parameters that Muon updates; AdamW has the rest.

    Raises FloatingPointError for a loss that is not finite, before anything is saved; ValueError
    for a damaged state or an unknown precision.
    """
    precision = mixed_precision() if precision is None else precision
    accelerator, folder = new_accelerator(precision), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.train()
    ema = AveragedModel(model, multi_avg_fn=warm_ema(settings.ema), use_buffers=True)
    ema = ema.requires_grad_(False).to(accelerator.device)
    with prepared(accelerator, model) as net:
        # built on the device: Muon's matrices share the weights' memory
        optimizers = build_optimizers(model, settings, matrices, DTYPES[precision])
        run = Run(accelerator, net, ema, optimizers, folder, settings)
        run.train(loss_fn, on_save)
    accelerator.wait_for_everyone()
    return ema.module.cpu().eval()


def new_accelerator(precision: str) -> Accelerator:
    """An Accelerator of this precision, "no" or "bf16", whatever the process trained in before.

    accelerate keeps the precision in an AcceleratorState that all Accelerators of a process share.
    It is begun anew; the PartialState below it, with the process group of a launch on several
    devices, stays."""
    if precision not in DTYPES:
        raise ValueError(f"precision: got {precision!r}, wanted one of {', '.join(DTYPES)}")
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=precision, cpu=processes().device.type == "cpu")


def processes() -> PartialState:
    """The processes of this launch, one or several of torchrun's. On CPUs accelerate looks for the
    others only where it is told that CPUs are meant: without it each would train alone."""
    return PartialState(cpu=not torch.accelerator.is_available())


@contextmanager
def prepared(accelerator: Accelerator, model: nn.Module) -> Iterator[nn.Module]:
    """The model as accelerate trains it. What ``prepare`` leaves in it, a forward under autocast
    and a mark, is taken out at the end: the next training may ask for another precision."""
    traces = ("forward", "_original_forward", "_is_accelerate_prepared")
    before = {name: vars(model)[name] for name in traces if name in vars(model)}
    try:
        yield accelerator.prepare(model)
    finally:
        for name in traces:
            vars(model).pop(name, None)
        vars(model).update(before)


class Run:
    """The networks, the optimisers and the folder of one training, between two of its steps."""

    def __init__(
        self,
        accelerator: Accelerator,
        net: nn.Module,
        ema: AveragedModel,
        optimizers: Optimizers,
        folder: Path,
        settings: Settings,
    ):
        self.accelerator, self.net, self.ema = accelerator, net, ema
        self.parts = (accelerator.unwrap_model(net), ema, optimizers)  # what the state holds
        self.optimizers = optimizers
        self.steppers = [accelerator.prepare(optimizer) for optimizer in optimizers.values()]
        self.state, self.settings = folder / "state.safetensors", settings
        self.first, self.spent = (
            load_state(self.state, *self.parts) if self.state.exists() else (0, 0.0)
        )
        self.main = accelerator.is_main_process
        self.log = Log(folder, self.first, self.main)
        if self.main:
            told = asdict(settings) | {"precision": accelerator.mixed_precision}
            write_settings(folder / "settings.json", told)

    def train(self, loss_fn: LossFn, on_save: Callable[[nn.Module, int], None] | None) -> None:
        """All steps that are left, with a line of the log and a checkpoint whenever one is due."""
        settings, steps = self.settings, range(self.first, self.settings.steps)
        started = saved = time.monotonic()
        bar = tqdm(
            steps, initial=self.first, total=steps.stop, mininterval=5, disable=not self.main
        )
        for step in bar:
            self.log.add(self.update(loss_fn, step))
            done, seconds = step + 1, self.spent + time.monotonic() - started
            last = done == settings.steps
            log_due = last or done % settings.log_every == 0
            save_due = last or time.monotonic() - saved > 60 * settings.save_minutes
            if log_due or save_due:
                self.log.refuse_infinite(done, self.state)
            if log_due:
                line = {"step": done, "lr": learning_rate(step, settings), "seconds": seconds}
                loss = self.log.write(line)
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            if save_due:
                saved = time.monotonic()
            if save_due and self.main:
                save_state(self.state, done, seconds, *self.parts)
                self.log.plot()
                if on_save is not None:
                    on_save(self.ema.module.eval(), done)

    def update(self, loss_fn: LossFn, step: int) -> dict[str, Tensor]:
        """Update number ``step`` of the weights and of their average; the figures for the log."""
        _seed_step(self.settings.seed, step, self.accelerator.process_index)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, self.settings)
        with self.accelerator.autocast():
            loss, figures = loss_fn(self.net)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.net.parameters(), self.settings.clip)
        for stepper in self.steppers:
            stepper.step()
        self.net.zero_grad(set_to_none=True)
        self.ema.update_parameters(self.accelerator.unwrap_model(self.net))
        return {"loss": loss, **figures}


def _seed_step(seed: int, step: int, process: int) -> None:
    torch.manual_seed((seed * 1_000_003 + step) * 1_009 + process)
