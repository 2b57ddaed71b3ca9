"""The formula of notebook 04: the exact mean of a data set, given a noisy picture."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.distributions import Normal

from .judge import Claim, draw, judge


def density_mean(x_t: Tensor, images: Tensor, ab: Tensor) -> Tensor:
    """The same mean by Bayes' rule, picture by picture, from the densities of torch."""
    means = []
    for x in x_t:
        noised = Normal(ab.sqrt() * images, (1 - ab).sqrt())
        log_p = noised.log_prob(x.expand_as(images)).flatten(1).sum(1)
        p = (log_p - log_p.max()).exp()
        means.append(sum(p_i * image for p_i, image in zip(p, images, strict=True)) / p.sum())
    return torch.stack(means)


def slips(x_t: Tensor, images: Tensor, ab: Tensor) -> dict[str, Tensor]:
    """What the usual mistakes would answer."""
    x, points, a, b = x_t.flatten(1), images.flatten(1), ab.sqrt(), (1 - ab).sqrt()

    def mean(exponents: Tensor, dim: int = 1) -> Tensor:
        return (exponents.softmax(dim) @ points).view(x_t.shape)

    def squares(scaled: Tensor) -> Tensor:
        return (x[:, None] - scaled).square().sum(2)

    right = -squares(a * points) / 2 / b**2
    nearest = images[right.argmax(1)]
    return {
        "the 2 under the squared distance is missing": mean(2 * right),
        "the division by 2 (1 - alpha_bar_t) is missing": mean(2 * b**2 * right),
        "the division by 1 - alpha_bar_t is missing": mean(b**2 * right),
        "it divides by sqrt(1 - alpha_bar_t), not by 1 - alpha_bar_t": mean(b * right),
        "it divides by alpha_bar_t, not by 1 - alpha_bar_t": mean(b**2 / a**2 * right),
        "the images are not scaled by sqrt(alpha_bar_t)": mean(-squares(points) / 2 / b**2),
        "the images are scaled by alpha_bar_t": mean(-squares(a**2 * points) / 2 / b**2),
        "the distance is not squared": mean(-squares(a * points).sqrt() / 2 / b**2),
        "the squares are averaged over the pixels, not summed": mean(right / x.shape[1]),
        "the sign of the exponent is wrong": mean(-right),
        "the weights sum to 1 over the batch, not over the images": mean(right, dim=0),
        "the mean is scaled by sqrt(alpha_bar_t)": a * mean(right),
        "all images weigh the same": images.mean(0).expand_as(x_t),
        "only the nearest image is returned": nearest,
    }


@judge
def check_posterior_mean(fn: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Iterator[Claim]:
    r"""Judge ``fn(x_t, images, ab_t) -> x0_hat``: :math:`E[x_0 \mid x_t]` where the data are these
    N images, each as likely as the other.

    x_t: (B, \*dims); images: (N, \*dims); ab_t: 0-dim. The weights are those of Bayes' rule with
    the noising of DDPM, arXiv:2006.11239, Eq. 4.
    """
    ab, x = torch.tensor(0.36, dtype=torch.float64), draw(5, 1)
    two = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    yield Claim(
        "two images of one pixel, 1 and -1, at alpha_bar_t = 0.36: tanh(0.6 x_t / 0.64)",
        lambda: fn(x, two, ab),
        (0.6 * x / 0.64).tanh(),
        slips(x, two, ab),
    )
    x_t, images = draw(3, 2, 3, 3), draw(7, 2, 3, 3, seed=1)
    for level in (0.1, 0.5, 0.9):
        ab_t = torch.tensor(level, dtype=torch.float64)
        yield Claim(
            f"three states and seven pictures at alpha_bar_t = {level:g}: Bayes' rule with the"
            " densities of torch.distributions",
            lambda ab_t=ab_t: fn(x_t, images, ab_t),
            density_mean(x_t, images, ab_t),
            slips(x_t, images, ab_t),
        )
    noise_only = torch.tensor(1e-12, dtype=torch.float64)
    yield Claim(
        "alpha_bar_t = 1e-12, noise alone: nearly the plain mean of all",
        lambda: fn(x_t, images, noise_only),
        density_mean(x_t, images, noise_only),
    )
    large, clear = draw(4, 3, 32, 32, seed=2), torch.tensor(0.9999, dtype=torch.float64)
    yield Claim(
        "alpha_bar_t = 0.9999, pictures of 3 x 32 x 32: the one that was noised, and no NaN (every"
        " exp of such an exponent is 0; softmax takes the largest out first)",
        lambda: fn(clear.sqrt() * large + 0.01 * draw(4, 3, 32, 32, seed=3), large, clear),
        large,
    )
