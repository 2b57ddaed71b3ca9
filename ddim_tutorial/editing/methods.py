"""Ways to edit a picture behind one door, so that they can be compared: from a scene, prompts, a
guidance scale and the time where the path is entered to the edited latents."""

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..inversion import (
    Inversion,
    bdia,
    edict,
    invert,
    invert_coupled,
    invert_exact,
    resample,
)
from ..latent import LatentSpace
from ..noise import generators, randn
from ..peers import scheduler_times
from ..predict import add_noise
from ..sampling import final, sample
from .edit_friendly import invert_edit_friendly, replay
from .flow_edit import flow_edit
from .null_text import NullText, invert_null_text, null_text_model
from .prompt_to_prompt import prompt_to_prompt, refine, replace
from .tokens import token_ids

if TYPE_CHECKING:
    from ..zoo import LatentBundle

PATHS: dict[str, Callable[..., Inversion]] = {
    "naive": invert,
    "exact": partial(invert_exact, tol=1e-5, max_iter=20),
    "EDICT, alternating": partial(invert_coupled, sampler=partial(edict, alternate=True)),
    "BDIA": partial(invert_coupled, sampler=bdia),
}
SELF_UNTIL = 500  # prompt-to-prompt with the self-attention: half of an even grid


@dataclass(frozen=True, eq=False)
class Scene:
    """Pictures to edit: z_0 (N, 4, h, w), scaled; the prompt of each; ``seed`` + i is that of
    picture i's noises; steps of the pipeline's grid. z_T: the noise that the pictures were drawn
    from, None for real ones."""

    bundle: "LatentBundle"
    z_0: Tensor
    sources: list[str]
    seed: int
    steps: int
    z_T: Tensor | None = None
    known: dict[Hashable, Any] = field(default_factory=dict)

    def space(
        self, prompts: Sequence[str], scale: float, negative: str | list[str] = ""
    ) -> LatentSpace:
        return self.bundle.space(list(prompts), negative, scale)

    def grid(self, enter: int) -> list[int]:
        """The pipeline's times at or below ``enter``."""
        times = scheduler_times(self.bundle.pipe.scheduler, self.steps)
        return [t for t in times if t <= enter]

    def noises(self, draw: int = 0) -> list[torch.Generator]:
        first = self.seed + 1_000_000 * draw
        return generators(range(first, first + len(self.z_0)))

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What ``make`` returns, made once."""
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]

    def path(self, method: str, enter: int) -> Inversion:
        """The inversion at scale 1 with the pictures' own prompts, up to ``enter``."""

        def invert() -> Inversion:
            space = self.space(self.sources, 1.0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # not every step need be solved
                return PATHS[method](space.model, self.z_0, self.grid(enter), space.schedule)

        return self.once((method, enter), invert)


# (scene, prompts, guidance scale, enter) -> edited latents (N, 4, h, w), scaled
Method = Callable[[Scene, list[str], float, int], Tensor]


def fresh(scene: Scene, prompts: list[str], scale: float, enter: int) -> Tensor:
    """No edit at all: another sample of the prompt."""
    space = scene.space(prompts, scale)
    z_T = randn(scene.z_0.shape, scene.noises(1), device=scene.z_0.device)
    return sample(space.model, z_T, scene.grid(enter), space.schedule)


def by_sdedit(scene: Scene, prompts: list[str], scale: float, enter: int) -> Tensor:
    """Noise to ``enter``, then sample (Meng et al. 2021, arXiv:2108.01073)."""
    space, grid = scene.space(prompts, scale), scene.grid(enter)
    noise = randn(scene.z_0.shape, scene.noises(), device=scene.z_0.device)
    z = add_noise(scene.z_0, noise, space.schedule.level(grid[0]))
    return sample(space.model, z, grid, space.schedule)


def by_inversion(method: str, scene: Scene, prompts: list[str], scale: float, enter: int) -> Tensor:
    """Invert, then sample with another prompt, by the sampler that the path was found for."""
    space = scene.space(prompts, scale)
    return resample(space.model, scene.path(method, enter), scene.grid(enter), space.schedule)


def by_negative_prompt(scene: Scene, prompts: list[str], scale: float, enter: int) -> Tensor:
    """The source prompt as the empty one (Miyake et al. 2023, arXiv:2305.16807)."""
    space = scene.space(prompts, scale, scene.sources)
    return sample(space.model, scene.path("naive", enter).x_T, scene.grid(enter), space.schedule)


def by_null_text(lr: float, scene: Scene, prompts: list[str], scale: float, enter: int) -> Tensor:
    """Ten iterations of Adam a step (Mokady et al. 2022, arXiv:2211.09794)."""

    def optimise() -> NullText:
        space = scene.space(scene.sources, scale)
        return invert_null_text(space, scene.z_0, scene.grid(enter), scale, lr=lr)

    found = scene.once((lr, scale, enter), optimise)
    model = null_text_model(scene.space(prompts, scale), found, scale)
    return sample(model, found.z_T, scene.grid(enter), scene.bundle.schedule)


def by_edit_friendly(scene: Scene, prompts: list[str], scale: float, enter: int) -> Tensor:
    """DDPM's noises, found (Huberman-Spiegelglas et al. 2023, arXiv:2304.06140)."""
    space, own = scene.space(prompts, scale), scene.space(scene.sources, 1.0)
    grid, noises = scene.grid(space.schedule.T), scene.noises()
    found = invert_edit_friendly(own.model, scene.z_0, grid, space.schedule, generator=noises)
    return final(replay(space.model, found, space.schedule, enter=scene.grid(enter)[0]))


def by_flow_edit(scene: Scene, prompts: list[str], scale: float, enter: int) -> Tensor:
    """Without inversion (Kulikov et al. 2024, arXiv:2412.08629)."""
    models = scene.space(scene.sources, 1.0).model, scene.space(prompts, scale).model
    grid, noises = scene.grid(enter), scene.noises()
    return flow_edit(*models, scene.z_0, grid, scene.bundle.schedule, generator=noises)


def by_prompt_to_prompt(
    share: float, itself: bool, scene: Scene, prompts: list[str], scale: float, enter: int
) -> Tensor:
    """The source's cross-attention during the first ``share`` of the times, with ``itself`` also
    its self-attention down to SELF_UNTIL (Hertz et al. 2022, arXiv:2208.01626). From the noise that
    the pictures were drawn from, or that exact inversion finds; ``replace`` where the prompts have
    as many tokens, ``refine`` elsewhere."""
    pipe, schedule = scene.bundle.pipe, scene.bundle.schedule
    z_T = scene.path("exact", enter).x_T if scene.z_T is None else scene.z_T
    edited = []
    for z, source, target in zip(z_T.split(1), scene.sources, prompts, strict=True):
        counts = [len(token_ids(pipe, text)) for text in (source, target)]
        how = replace if counts[0] == counts[1] else refine
        model = scene.space([source, target], scale).model
        with prompt_to_prompt(
            pipe,
            how(pipe, source, target),
            cross_until=round(schedule.T * (1 - share)),
            self_until=SELF_UNTIL if itself else None,
        ):
            both = sample(model, torch.cat([z, z]), scene.grid(enter), schedule)
        edited.append(both[1:])
    return torch.cat(edited)


METHODS: dict[str, Method] = {
    "fresh sample": fresh,
    "SDEdit": by_sdedit,
    **{f"{method} inversion": partial(by_inversion, method) for method in PATHS},
    "negative prompt": by_negative_prompt,
    "null text, Adam .01": partial(by_null_text, 0.01),
    "null text, Adam .1": partial(by_null_text, 0.1),
    "edit-friendly": by_edit_friendly,
    "FlowEdit": by_flow_edit,
    **{
        f"prompt-to-prompt, {share:.0%}": partial(by_prompt_to_prompt, share, False)
        for share in (0, 0.4, 0.8, 1)
    },
    "prompt-to-prompt, 80%, self": partial(by_prompt_to_prompt, 0.8, True),
}
