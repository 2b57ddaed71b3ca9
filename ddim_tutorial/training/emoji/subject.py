"""What is measured: a pipeline with the data, the families and the judge of its run."""

from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor, nn

from .autoencoder import decode, encode
from .data import Emoji, read_data
from .judge import accuracy, ceiling, read_judge
from .networks import components, new_pipeline
from .pictures import sample

SAME = "the pictures themselves, in new poses, encoded and decoded"


class Subject(NamedTuple):
    """pipe: in float32, its networks compute in ``precision`` ("no" or "bf16"). bank (M, 4, 16, 16)
    float16: the latents that it was trained on, not scaled, all members of all families."""

    pipe: Any
    data: Emoji
    judge: nn.Module
    bank: Tensor
    precision: str = "no"

    def draw(
        self, prompts: list[str], steps: int = 50, scale: float = 4.0, seed: int = 0
    ) -> Tensor:
        """Samples as latents (N, 4, 16, 16), not scaled."""
        return sample(
            self.pipe, prompts, steps=steps, scale=scale, seed=seed, precision=self.precision
        )

    def decode(self, latents: Tensor) -> Tensor:
        return decode(self.pipe.vae, latents)

    def encode(self, images: Tensor) -> Tensor:
        return encode(self.pipe.vae, images)[0]

    def score(self, latents: Tensor, rows: Tensor) -> dict[str, float]:
        """Shares of latents (N, ...) in which the judge sees the object and the style of the
        pictures of ``rows`` (N,)."""
        truth = self.data.objects[rows], self.data.styles[rows]
        return accuracy(self.judge, self.decode(latents), *truth)

    def ceiling(self, rows: Tensor) -> dict[str, float]:
        """:meth:`score` of the pictures of ``rows`` themselves: what a perfect model would have."""
        return ceiling(self.judge, self.data, self.pipe.vae, rows)["the same, encoded and decoded"]


def subject(pipe, run: Path, precision: str) -> Subject:
    """``pipe`` with what lies in ``run``. FileNotFoundError for what does not."""
    data = read_data(run / "data.safetensors")
    judge = read_judge(run / "judge.safetensors", data.names)
    path = run / "family.safetensors"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there: python -m ddim_tutorial.training.emoji diffusion writes it"
        )
    bank = load_file(path)["mean"] / pipe.vae.config.scaling_factor
    return Subject(pipe, data, judge, bank, precision)


def read_pipeline(folder: Path):
    """The exported pipeline in ``folder``, float32."""
    vae, text_encoder, tokenizer, unet = components(
        folder, "vae", "text_encoder", "tokenizer", "unet"
    )
    return new_pipeline(vae.eval(), text_encoder.eval(), tokenizer, unet.eval())
