"""Caching deep features between steps: DeepCache (Ma, Fang & Wang 2024, arXiv:2312.00858)."""

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn

from .require import Whole, require_int


class DeepCache:
    """``with DeepCache(unet, interval):`` only every interval-th call runs the whole U-Net, the
    first one included; in between, the blocks below the first level answer what they last did.

    unet: diffusers' UNet2DModel or UNet2DConditionModel, left as it was when the block ends.
    interval: 1 is the full network. One ``with`` a run: features of another run would be wrong.
    One call a step: ``cfg_batched``, not ``cfg``, whose two calls would share their features. A
    call with another shape runs the whole network. ``full`` and ``calls`` count.

    A call whose cache was made by the same call gives the full network's answer bit for bit.
    """

    def __init__(self, unet: nn.Module, interval: Whole):
        self.interval = require_int("interval", interval, 1)
        self.unet = cast(Any, unet)  # its blocks are plain attributes
        if not all(hasattr(unet, part) for part in ("down_blocks", "mid_block", "up_blocks")):
            raise ValueError(f"unet: got a {type(unet).__name__}, wanted a U-Net of diffusers")
        self.deep = [*self.unet.down_blocks[1:], self.unet.mid_block, *self.unet.up_blocks[:-1]]

    def __enter__(self) -> "DeepCache":
        self.calls = self.full = 0
        self.shape: Any = None
        self.hook = self.unet.register_forward_pre_hook(self._before, with_kwargs=True)
        self.own = [vars(block).get("forward") for block in self.deep]  # a hook's, or none
        for block in self.deep:
            block.forward = self._remembering(block.forward)
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()
        for block, own in zip(self.deep, self.own, strict=True):
            del block.forward  # the class's shows again
            if own is not None:
                block.forward = own

    def _before(self, _: nn.Module, given: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        """Decide whether this call of the network is a full one."""
        shape = (given[0] if given else named["sample"]).shape
        self.recompute = self.calls % self.interval == 0 or shape != self.shape
        self.calls, self.full, self.shape = self.calls + 1, self.full + self.recompute, shape

    def _remembering(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        kept: list[Any] = [None]

        def either(*given: Any, **named: Any) -> Any:
            if self.recompute:
                kept[0] = forward(*given, **named)
            return kept[0]

        return either
