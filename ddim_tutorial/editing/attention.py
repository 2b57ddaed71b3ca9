r"""The attention of a U-Net as data: its maps are seen, and changed, while it runs.

A map is softmax(Q K^T / sqrt(d)): for each position of the picture, how much it takes from each
token (Rombach et al. 2022, arXiv:2112.10752, sec. 3.3). It is reached through diffusers' attention
processors, whose own code does everything else.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..pipelines import require_pipeline
from ..prompts import as_prompts, without_remarks
from .tokens import places

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

# (maps (B, heads, positions, tokens), t) -> maps: what becomes of them at time t
Change = Callable[[Tensor, int], Tensor]
Size = tuple[int, int]

LARGEST = 32**2  # positions of a map that is kept: those of 64 x 64 would fill the memory
PLAIN = {"AttnProcessor", "AttnProcessor2_0", "SlicedAttnProcessor", "XFormersAttnProcessor"}


class Attention:
    """``with Attention(pipe, prompts) as run:`` sees the maps of every call of ``pipe.unet``, and
    leaves it as it was.

    The prompts are those that the network is then called with, one for each picture of the batch;
    a doubled batch of guidance has them in its later half, and only that half is kept.

    pipe: a StableDiffusionPipeline (SD 1.x or 2.x). cross, itself: what becomes of the maps of the
    cross-attention and of the self-attention, (B, heads, positions, tokens) and a time t in 1..T to
    maps; None leaves them as they are, and those of the self-attention are then not even computed.
    ``run.maps`` holds, for a time and a size, the sum over layers of the cross-attention's maps,
    (prompts, tokens, h, w), mean of the heads, and the number of terms; :func:`attention_maps`
    reads it.

    Raises ValueError for a pipeline whose network takes more than z_t, t and the prompt, for
    attention that does more than attend (IP-Adapter, a ``with`` inside another), and while running
    for a batch whose prompts are others.
    """

    def __init__(
        self,
        pipe: "StableDiffusionPipeline",
        prompts: str | Sequence[str],
        cross: Change | None = None,
        itself: Change | None = None,
    ):
        require_pipeline(pipe)
        self.pipe, self.cross, self.itself = pipe, cross, itself
        self.prompts, _ = as_prompts(prompts, "")
        self.maps: dict[tuple[int, Size], tuple[Tensor, int]] = {}

    def __enter__(self) -> "Attention":
        unet = self.pipe.unet
        self.before = dict(unet.attn_processors)
        for name, old in self.before.items():
            if type(old).__name__ not in PLAIN:
                raise ValueError(
                    f"pipe: {name} is a {type(old).__name__}, which does more than attend; wanted"
                    " diffusers' AttnProcessor (no adapter, and no Attention around this one)"
                )
        with torch.no_grad(), without_remarks():
            self.text, _ = self.pipe.encode_prompt(self.prompts, self.pipe.device, 1, False)
        unet.set_attn_processor({name: self._processor(name) for name in self.before})
        self.hook = unet.register_forward_pre_hook(self._called, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()
        self.pipe.unet.set_attn_processor(dict(self.before))

    def _processor(self, name: str) -> Any:
        if ".attn2." in name:
            return _Processor(self._cross)
        return self.before[name] if self.itself is None else _Processor(self._itself)

    def _called(self, _: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Note the time and the size of the latents; refuse other prompts."""
        sample, timestep, text = (
            given[i] if i < len(given) else named[key]
            for i, key in enumerate(("sample", "timestep", "encoder_hidden_states"))
        )
        times = torch.as_tensor(timestep).flatten()
        if not bool((times == times[0]).all()):
            raise ValueError("the network is asked at several times in one call, wanted one")
        count = len(self.prompts)
        if len(text) not in (count, 2 * count):
            raise ValueError(
                f"the network is called with a batch of {len(text)} for {count} prompts:"
                f" pass {count} pictures, one for each of {self.prompts!r}"
            )
        seen, wanted = text[-count:].detach().float(), self.text.to(text.device).float()
        if bool(((seen - wanted).norm(dim=(1, 2)) > 0.02 * wanted.norm(dim=(1, 2))).any()):
            raise ValueError(
                f"the network is called with other prompts than {self.prompts!r}: make the space,"
                " or call the pipeline, with these, in this order, and at a scale other than 0"
            )
        self.t, self.size = int(times[0]) + 1, (sample.shape[-2], sample.shape[-1])

    def _cross(self, maps: Tensor) -> Tensor:
        if self.cross is not None:
            maps = self.cross(maps, self.t)
        if maps.shape[2] <= LARGEST:
            size = _size(self.size, maps.shape[2])
            kept = maps[-len(self.prompts) :].detach().float().mean(1).mT.unflatten(2, size).cpu()
            total, terms = self.maps.get((self.t, size), (torch.zeros_like(kept), 0))
            self.maps[self.t, size] = total + kept, terms + 1
        return maps

    def _itself(self, maps: Tensor) -> Tensor:
        return maps if self.itself is None else self.itself(maps, self.t)


def _size(latents: Size, positions: int) -> Size:
    """The height and width of a level of the U-Net, each of which halves, rounding up."""
    height, width = latents
    while height * width > positions:
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width


class _Processor:
    """diffusers' AttnProcessor on an attention whose maps go through ``seen``."""

    def __init__(self, seen: Callable[[Tensor], Tensor]):
        from diffusers.models.attention_processor import AttnProcessor

        self.seen, self.plain = seen, AttnProcessor()

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **options: Any) -> Tensor:
        return self.plain(_Changed(attn, self.seen), hidden_states, *args, **options)


class _Changed:
    """An Attention of diffusers, but for its maps."""

    def __init__(self, attn: Any, seen: Callable[[Tensor], Tensor]):
        self.attn, self.seen = attn, seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self.attn, name)

    def get_attention_scores(self, query: Tensor, key: Tensor, mask: Any = None) -> Tensor:
        maps = self.attn.get_attention_scores(query, key, mask)
        return self.seen(maps.unflatten(0, (-1, self.attn.heads))).flatten(0, 1).to(maps.dtype)


def attention_maps(
    run: Attention,
    token: str | int,
    *,
    row: int = -1,
    at: int | None = None,
    side: int | None = None,
) -> Float[Tensor, "h w"]:
    """Where the picture looks at ``token``: shares in 0..1, the mean over heads, layers of one size
    and times; the sum over the tokens of a word.

    run: a finished :class:`Attention`. token: a word of the prompt ``run.prompts[row]``, or the
    index of a token, 0 being the start. row: which prompt, and picture. at: one time alone. side:
    the largest height of the maps; None takes the largest ones that there are.

    Raises ValueError where nothing was seen, at that time or of that size, and as
    :func:`~ddim_tutorial.editing.tokens.places` for the token.
    """
    columns = places(run.pipe, run.prompts[row], token)
    sizes = {size for _, size in run.maps}
    if not sizes:
        raise ValueError("no maps yet: sample inside the `with` first")
    if side is not None and not (sizes := {size for size in sizes if size[0] <= side}):
        raise ValueError(f"side={side}: the maps are of {sorted({s for _, s in run.maps})}")
    largest = max(sizes)
    found = [
        total[row] / terms
        for (t, size), (total, terms) in run.maps.items()
        if size == largest and at in (None, t)
    ]
    if not found:
        raise ValueError(f"at={at}: the network was asked at {sorted({t for t, _ in run.maps})}")
    return torch.stack(found).mean(0)[columns].sum(0)
