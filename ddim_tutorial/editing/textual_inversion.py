r"""Textual inversion (Gal et al. 2022, arXiv:2208.01618): a new word, learnt from a few pictures.

Everything but the word's own embedding v stays as it is (Eq. 2 there):
:math:`v = \arg\min_v E_{z_0, \epsilon, t} \|\epsilon - \epsilon(z_t, t, c(v))\|^2`. Nothing is
inverted in the sense of DDIM: it is training, of one vector.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from ..latent import network
from ..noise import randn
from ..peers import from_scheduler
from ..predict import Images, add_noise
from ..prompts import as_prompts
from ..require import require_images, require_int, require_positive
from .tokens import token_ids

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


class LearnedToken(NamedTuple):
    """A word and its vectors, (vectors, dim), with the loss of each step, (steps,)."""

    token: str
    vectors: Float[Tensor, "vectors dim"]
    loss: Float[Tensor, " steps"]

    def save(self, folder: Path) -> Path:
        """Write ``folder``/learned_embeds.safetensors, which
        ``pipe.load_textual_inversion(folder)`` reads, and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "learned_embeds.safetensors"
        save_file({self.token: self.vectors.contiguous().cpu()}, path)
        return path


def learn_token(
    pipe: "StableDiffusionPipeline",
    token: str,
    z_0: Images,
    prompts: str | Sequence[str],
    init: str,
    *,
    vectors: int = 1,
    steps: int = 150,
    batch: int = 4,
    lr: float = 0.02,
    generator: torch.Generator | None = None,
) -> LearnedToken:
    """Learn ``token`` from pictures; the pipeline is left as it was, bit for bit.

    pipe: a StableDiffusionPipeline (SD 1.x or 2.x). token: a new word such as "<violin>". z_0: (B,
    4, h, w), scaled latents, see ``LatentSpace.encode``. prompts: one for each picture, each with
    the token in it, such as "noto emoji of <violin>". init: the word that it starts from, one token
    of the vocabulary that no prompt contains. vectors: how many it stands for. steps: of Adam, at a
    rate of lr, on ``batch`` pairs of a random picture and a random time in 1..T. generator: on the
    CPU; one seed gives one word.

    Raises ValueError for a token that the tokenizer knows, for prompts without it or too long for
    it, and for an init that is no single token.
    """
    texts, _ = as_prompts(prompts, "")
    require_images("z_0", z_0)
    for name, value in (("vectors", vectors), ("steps", steps), ("batch", batch)):
        require_int(name, value, 1)
    require_positive("lr", lr)
    if len(texts) != len(z_0):
        raise ValueError(f"prompts: got {len(texts)} for {len(z_0)} pictures, wanted one for each")
    ids, start = _tokens(pipe, token, texts, init, vectors)
    eps_model, schedule = network(pipe), from_scheduler(pipe.scheduler)
    embedding = pipe.text_encoder.get_input_embeddings()
    v = embedding.weight[start].detach().float().repeat(vectors, 1).requires_grad_()
    adam, losses = torch.optim.Adam([v], lr=lr), []
    for _ in range(steps):
        rows = torch.randint(len(z_0), (batch,), generator=generator)
        t = torch.randint(1, schedule.T + 1, (batch,), generator=generator).to(z_0.device)
        x_0 = z_0[rows.to(z_0.device)]
        eps = randn(x_0.shape, generator, device=z_0.device, dtype=z_0.dtype)
        z_t = add_noise(x_0, eps, schedule.at(t, x_0))
        with torch.enable_grad():
            text = text_states(pipe, ids[rows], start, v)
            loss = (eps_model(z_t, t, text) - eps).square().mean()
            (v.grad,) = torch.autograd.grad(loss, v)
        adam.step()
        losses.append(loss.detach())
    return LearnedToken(token, v.detach(), torch.stack(losses).cpu())


def text_states(
    pipe: "StableDiffusionPipeline", ids: Tensor, start: int, v: Float[Tensor, "vectors dim"]
) -> Float[Tensor, "B tokens dim"]:
    """The states of prompts, ids (B, tokens), whose tokens ``start`` are the vectors v in turn."""
    with _embedded(pipe.text_encoder.get_input_embeddings(), start, v):
        return pipe.text_encoder(ids.to(pipe.device))[0]


@contextmanager
def _embedded(embedding: torch.nn.Module, start: int, v: Tensor) -> Iterator[None]:
    """The token ``start`` is embedded as the vectors v in turn."""

    def changed(_: Any, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        here = given[0] == start
        rows = (here.cumsum(1) - 1).remainder(len(v))
        return torch.where(here[..., None], v[rows].to(out.dtype), out)

    hook = embedding.register_forward_hook(changed)
    try:
        yield
    finally:
        hook.remove()


def _tokens(
    pipe: Any, token: str, prompts: list[str], init: str, vectors: int
) -> tuple[Tensor, int]:
    """(ids (P, tokens) of the prompts, in which init stands for the token's vectors; init's id)."""
    tokenizer = pipe.tokenizer
    if not isinstance(token, str) or not token.strip() or token in tokenizer.get_vocab():
        raise ValueError(f"token={token!r}: pass a new word, such as '<violin>'")
    start = token_ids(pipe, init)[1:-1]
    if len(start) != 1:
        raise ValueError(f"init={init!r} is {len(start)} tokens: pass a word that is one token")
    found = []
    for prompt in prompts:
        if token not in prompt:
            raise ValueError(f"prompts: {token!r} is not in {prompt!r}")
        if start[0] in token_ids(pipe, prompt.replace(token, " ")):
            raise ValueError(f"prompts: {prompt!r} contains init={init!r}: pass another init")
        text = prompt.replace(token, " ".join([""] + [init] * vectors + [""]))
        ids = tokenizer(text, padding="max_length", max_length=tokenizer.model_max_length).input_ids
        if len(ids) > tokenizer.model_max_length:
            raise ValueError(
                f"prompts: {prompt!r} is {len(ids)} tokens with {vectors} vectors, the text encoder"
                f" takes {tokenizer.model_max_length}"
            )
        found.append(ids)
    return torch.tensor(found), start[0]
