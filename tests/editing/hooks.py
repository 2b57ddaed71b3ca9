"""Another way to the same edits: hooks on the projections of diffusers' own attention."""

from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def projections(unet, kind: str, change, *names: str):
    """The outputs (B, tokens, dim) of ``names``, such as "to_k", of every attention of ``kind``
    ("attn1": itself, "attn2": cross) go through ``change``, which writes into them."""

    def hook(_, given, out):
        out = out.clone()
        change(out)
        return out

    with ExitStack() as stack:
        for name, module in unet.named_modules():
            if kind in name and name.split(".")[-1] in names:
                handle = module.register_forward_hook(hook)
                stack.callback(handle.remove)
        yield


def last_as_the_one_before(out: torch.Tensor) -> None:
    out[-1] = out[-2]
