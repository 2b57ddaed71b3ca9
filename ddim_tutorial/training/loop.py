"""The one training loop behind every recipe: AdamW or Muon, EMA, gradient clipping, a log, a run
that survives a kill.

A run lives in a folder: ``state.safetensors`` (weights, EMA, optimiser and step together, replaced
atomically), ``log.jsonl`` (one line every ``log_every`` steps) and ``curve.png``. The random
numbers of step k depend on (seed, k, process) alone, so a resumed run repeats an uninterrupted one
bit for bit.
"""

import json
import math
import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

LossFn = Callable[[nn.Module], tuple[Tensor, dict[str, Tensor]]]
Optimizers = Mapping[str, torch.optim.Optimizer]


@dataclass(frozen=True)
class Settings:
    """How long and how fast to train. ``steps`` counts optimiser updates; the rate warms up
    linearly over ``warmup`` steps, stays at ``lr`` and falls from ``decay_from * steps`` to ``final
    * lr`` along a cosine."""

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
    """'bf16' where the hardware multiplies bf16 natively, else 'no'."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    return (
        "bf16"
        if torch.backends.cpu.get_cpu_capability() in ("AVX512", "AMX") and _cpu_has_bf16()
        else "no"
    )


def _cpu_has_bf16() -> bool:
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe and probe())


def warm_ema(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    """The moving average of AveragedModel with the decay min(decay, (1 + n) / (10 + n)) at its n-th
    update: at 0.999 the random first weights would otherwise still make up 6 % of the average after
    2,800 steps."""

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        n = int(count)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, count)

    return update


def as_matrix(x: Tensor, like: Tensor) -> Tensor:
    """A convolution's weight or gradient x: (out, in, h, w), as (out, h * w * in) or (out, in * h *
    w), in the order in which the weight ``like`` lies in memory."""
    if like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    return x.reshape(len(x), -1)


def orthogonal(
    matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """U V^T of a matrix U S V^T, (m, n), with singular values of 0.7 to 1.2 in place of 1:
    Newton-Schulz iterations, in bf16 only where the hardware multiplies it. (torch's own always
    are, which makes them a hundred times slower than float32 on a processor that has to emulate
    it.)"""
    a, b, c = coefficients
    x = matrix.to(torch.bfloat16 if mixed_precision() == "bf16" else torch.float32)
    wide = len(x) <= x.size(1)
    x = x if wide else x.T
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.T).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) with torch's defaults,
    for convolutions as
    well: each update is orthogonalised, so that what few examples ask for moves the weights as much
    as what many do."""

    def __init__(self, weights: list[Tensor], lr: float, weight_decay: float):
        self.weights = weights
        matrices = [nn.Parameter(as_matrix(weight.detach(), weight)) for weight in weights]
        for matrix, weight in zip(matrices, weights, strict=True):
            if matrix.data_ptr() != weight.data_ptr():
                raise ValueError(
                    f"a weight of shape {tuple(weight.shape)} does not lie in memory as a matrix"
                )
        super().__init__(
            matrices,
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "momentum": 0.95,
                "ns_steps": 5,
                "ns_coefficients": (3.4445, -4.775, 2.0315),
                "eps": 1e-7,
            },
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        group = self.param_groups[0]
        for matrix, weight in zip(group["params"], self.weights, strict=True):
            if weight.grad is None:
                continue
            gradient = as_matrix(weight.grad, weight)
            momentum = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(gradient))
            momentum.lerp_(gradient, 1 - group["momentum"])
            update = orthogonal(
                gradient.lerp(momentum, group["momentum"]),
                group["ns_coefficients"],
                group["ns_steps"],
                group["eps"],
            )
            matrix.mul_(1 - group["lr"] * group["weight_decay"])
            matrix.sub_(
                update, alpha=group["lr"] * 0.2 * max(matrix.shape) ** 0.5
            )  # as large as AdamW's, roughly


def build_optimizers(
    model: nn.Module, settings: Settings, matrices: Collection[str] = ()
) -> Optimizers:
    """AdamW, and Muon for the parameters that are named in ``matrices``, at one learning rate."""
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
    return {"optimizer": adamw, "muon": Muon(weights, settings.lr, settings.weight_decay)}


def _flatten(model: nn.Module, ema: AveragedModel, optimizers: Optimizers) -> dict[str, Tensor]:
    parts = {f"model.{k}": v for k, v in model.state_dict().items()}
    parts |= {f"ema.{k}": v for k, v in ema.state_dict().items()}
    for name, optimizer in optimizers.items():
        for i, entry in optimizer.state_dict()["state"].items():
            parts |= {f"{name}.{i}.{k}": v for k, v in entry.items()}
    return {
        k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in parts.items()
    }


def save_state(
    path: Path,
    step: int,
    seconds: float,
    model: nn.Module,
    ema: AveragedModel,
    optimizers: Optimizers,
) -> None:
    """Write everything a resumed run needs to one file, by a temporary name and a rename."""
    temporary = path.with_suffix(".tmp")
    save_file(
        _flatten(model, ema, optimizers),
        temporary,
        metadata={"step": str(step), "seconds": str(seconds)},
    )
    os.replace(temporary, path)


def finished(path: Path) -> tuple[int, float]:
    """Steps and seconds of training in :func:`save_state`'s file. ValueError for one that is
    damaged."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
    except SafetensorError as error:
        raise ValueError(
            f"{path}: truncated or damaged ({error}); put a copy back, or remove the run's folder"
            " and begin anew"
        ) from error
    return int(metadata["step"]), float(metadata.get("seconds", 0))


def load_state(
    path: Path, model: nn.Module, ema: AveragedModel, optimizers: Optimizers
) -> tuple[int, float]:
    """Read :func:`save_state`'s file back into these objects; return its steps and seconds."""
    done = finished(path)
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}} | {
        name: {} for name in optimizers
    }
    with safe_open(path, "pt") as file:
        for key in file.keys():
            room, name = key.split(".", 1)
            groups[room][name] = file.get_tensor(key)
    model.load_state_dict(groups["model"])
    ema.load_state_dict(groups["ema"])
    for name, optimizer in optimizers.items():
        _load_optimizer(optimizer, groups[name])
    return done


def _load_optimizer(optimizer: torch.optim.Optimizer, entries: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, value in entries.items():
        index, name = key.split(".", 1)
        like = parameters[int(index)]
        # fused AdamW walks weight and moments as flat memory: channels_last weights need
        # channels_last moments
        if value.shape == like.shape:
            value = torch.empty_like(like, device="cpu").copy_(value)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def _seed_step(seed: int, step: int, process: int) -> None:
    torch.manual_seed((seed * 1_000_003 + step) * 1_009 + process)


def _trim_log(path: Path, step: int) -> list[dict]:
    """Keep the log's lines up to ``step``: what came after the checkpoint will be computed again. A
    line that a kill cut short ends what is kept."""
    kept = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            break
        kept += [line] if line["step"] <= step else []
    path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    return kept


def _write_settings(path: Path, settings: Settings) -> None:
    """Store the settings; say what differs from those that the run was begun with."""
    new = json.loads(json.dumps(asdict(settings)))
    old = json.loads(path.read_text()) if path.exists() else new
    for name, value in new.items():
        if old.get(name) != value:
            print(f"{path}: {name} was {old.get(name)}, the run goes on with {value}", flush=True)
    path.write_text(json.dumps(new, indent=2) + "\n")


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
    has a state, training goes on from there. ``on_save(ema_model, step)`` runs after every
    checkpoint (pictures to look at). ``matrices`` names the parameters that Muon updates; AdamW has
    the rest.

    Raises FloatingPointError for a loss that is not finite, before anything is saved; ValueError
    for a damaged state.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(mixed_precision=mixed_precision() if precision is None else precision)
    model.train()
    ema = AveragedModel(
        model, multi_avg_fn=warm_ema(settings.ema), use_buffers=True
    ).requires_grad_(False)
    ema = ema.to(accelerator.device)
    net = accelerator.prepare(model)
    optimizers = build_optimizers(
        model, settings, matrices
    )  # on the device: Muon's matrices share the weights' memory
    steppers = [accelerator.prepare(optimizer) for optimizer in optimizers.values()]
    state, log = folder / "state.safetensors", folder / "log.jsonl"
    first, spent = load_state(state, model, ema, optimizers) if state.exists() else (0, 0.0)
    history: list[dict] = []
    if accelerator.is_main_process:
        history = _trim_log(log, first)
        _write_settings(folder / "settings.json", settings)
    started = saved = time.monotonic()
    window: dict[str, list[Tensor]] = {}
    bar = tqdm(
        range(first, settings.steps),
        initial=first,
        total=settings.steps,
        mininterval=5,
        disable=not accelerator.is_main_process,
    )
    for step in bar:
        _seed_step(settings.seed, step, accelerator.process_index)
        for optimizer in optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, settings)
        with accelerator.autocast():
            loss, figures = loss_fn(net)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(net.parameters(), settings.clip)
        for stepper in steppers:
            stepper.step()
        net.zero_grad(set_to_none=True)
        ema.update_parameters(accelerator.unwrap_model(net))
        for name, value in {"loss": loss, **figures}.items():
            window.setdefault(name, []).append(value.detach().float())
        done, seconds = step + 1, spent + time.monotonic() - started
        logs = done % settings.log_every == 0 or done == settings.steps
        due = done == settings.steps or time.monotonic() - saved > 60 * settings.save_minutes
        if (logs or due) and not torch.stack(window["loss"]).isfinite().all():
            raise FloatingPointError(
                f"the loss was not finite by step {done}; the last good state, if there is one, "
                f"is {state}: lower the learning rate and start the same command again"
            )
        if accelerator.is_main_process and logs:
            line = {"step": done, "lr": learning_rate(step, settings), "seconds": seconds}
            line |= {name: torch.stack(values).nanmean().item() for name, values in window.items()}
            history.append(line)
            with log.open("a") as file:
                file.write(json.dumps(line) + "\n")
            bar.set_postfix(loss=f"{line['loss']:.4f}", refresh=False)
        if logs:
            window.clear()
        if accelerator.is_main_process and due:
            save_state(state, done, seconds, accelerator.unwrap_model(net), ema, optimizers)
            plot_curve(history, folder / "curve.png")
            saved = time.monotonic()
            if on_save is not None:
                on_save(ema.module.eval(), done)
    accelerator.wait_for_everyone()
    return ema.module.cpu().eval()


def plot_curve(history: list[dict], path: Path) -> None:
    """Every logged figure against the step, on a logarithmic scale."""
    if not history:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    for name in history[-1]:
        if name not in ("step", "lr", "seconds"):
            y = [line.get(name, math.nan) for line in history]
            axes.semilogy([line["step"] for line in history], y, label=name)
    axes.set_xlabel("step")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=100)
