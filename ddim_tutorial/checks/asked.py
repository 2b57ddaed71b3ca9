"""What a reader's sampler asks the model: written down, and stopped where it would never end."""

from typing import Any

from torch import Tensor

from .judge import Mistake


class Stop(BaseException):
    """Ends a sampler that asks more often than its grid has steps. No Exception, so that a
    function that catches those ends, too."""


class Questions(list):
    """(times, state) of every call of the model, ``allowed`` of them at most."""

    def __init__(self, allowed: int):
        self.allowed, self.stopped = allowed, False

    def add(self, x: Any, t: Any) -> None:
        """Write a question down; a :class:`Mistake` for what is no x: (B, ...) and t: (B,)."""
        if not isinstance(x, Tensor):
            raise Mistake(f"the model was shown an x_t of type {type(x).__name__}, wanted a tensor")
        if not isinstance(t, Tensor) or t.shape != x.shape[:1]:
            kind = (
                f"shape {tuple(t.shape)}" if isinstance(t, Tensor) else f"type {type(t).__name__}"
            )
            raise Mistake(
                f"the model was asked with a t of {kind}, wanted one integer for each of the"
                f" {len(x)} pictures: torch.full((len(x_t),), t)"
            )
        if len(self) == self.allowed:
            self.stopped = True
            raise Stop
        self.append((t.tolist(), x.detach().clone()))

    def too_many(self) -> str | None:
        steps = self.allowed
        if not self.stopped:
            return None
        return f"the model was asked more than {steps} times for {steps} steps"

    def run(self, fn: Any, *arguments: Any) -> Any:
        """``fn(*arguments)``; None where it was stopped."""
        try:
            return fn(*arguments)
        except Stop:
            return None
