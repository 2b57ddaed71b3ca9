"""What the usual mistakes would answer, so that a check can name them."""

from torch import Tensor


def noising(x_0: Tensor, eps: Tensor, ab: Tensor) -> dict[str, Tensor]:
    """Of sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps."""
    a, b = ab.sqrt(), (1 - ab).sqrt()
    return {
        "the square roots are missing": ab * x_0 + (1 - ab) * eps,
        "the square root of alpha_bar_t is missing": ab * x_0 + b * eps,
        "the square root of 1 - alpha_bar_t is missing": a * x_0 + (1 - ab) * eps,
        "eps is scaled by 1 - sqrt(alpha_bar_t)": a * x_0 + (1 - a) * eps,
        "x_0 is not scaled by sqrt(alpha_bar_t)": x_0 + b * eps,
        "everything is divided by sqrt(alpha_bar_t)": x_0 + b / a * eps,
        "the sign of eps is wrong": a * x_0 - b * eps,
        "x_0 and eps are swapped": b * x_0 + a * eps,
    }


def jump(x_t: Tensor, eps: Tensor, ab: Tensor) -> dict[str, Tensor]:
    """Of (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t)."""
    a, b = ab.sqrt(), (1 - ab).sqrt()
    return {
        "both square roots are missing": (x_t - (1 - ab) * eps) / ab,
        "the square root of alpha_bar_t is missing": (x_t - b * eps) / ab,
        "the square root of 1 - alpha_bar_t is missing": (x_t - (1 - ab) * eps) / a,
        "the sign of eps is wrong": (x_t + b * eps) / a,
        "the division by sqrt(alpha_bar_t) is missing": x_t - b * eps,
        "it multiplies by sqrt(alpha_bar_t) where it has to divide": (x_t - b * eps) * a,
        "only x_t is divided by sqrt(alpha_bar_t)": x_t / a - b * eps,
        "alpha_bar_t and 1 - alpha_bar_t are swapped": (x_t - a * eps) / b,
        "x0_hat is clipped to [-1, 1]": ((x_t - b * eps) / a).clamp(-1, 1),
    }


def step(
    x_t: Tensor,
    eps: Tensor,
    ab_t: Tensor,
    ab_s: Tensor,
    sigma: float = 0.0,
    noise: Tensor | float = 0.0,
) -> dict[str, Tensor]:
    """Of sqrt(alpha_bar_s) x0_hat + sqrt(1 - alpha_bar_s - sigma^2) eps + sigma noise."""

    def x_s(signal: Tensor, direction: Tensor, fresh: float = sigma) -> Tensor:
        x0_hat = (x_t - (1 - ab_t).sqrt() * eps) / ab_t.sqrt()
        return signal * x0_hat + direction * eps + fresh * noise

    a, left = ab_s.sqrt(), 1 - ab_s - sigma**2
    swapped = (x_t - (1 - ab_s).sqrt() * eps) / ab_s.sqrt()
    return {
        "the square roots at s are missing": x_s(ab_s, left),
        "the square root of alpha_bar_s is missing": x_s(ab_s, left.sqrt()),
        "the square root of 1 - alpha_bar_s - sigma^2 is missing": x_s(a, left),
        "sigma^2 is not taken out of the direction": x_s(a, (1 - ab_s).sqrt()),
        "sigma is not squared in the direction": x_s(a, (1 - ab_s - sigma).sqrt()),
        "the fresh noise is scaled by sigma^2": x_s(a, left.sqrt(), sigma**2),
        "the fresh noise is missing": x_s(a, left.sqrt(), 0.0),
        "the sign of the direction is wrong": x_s(a, -left.sqrt()),
        "s and t are swapped": ab_t.sqrt() * swapped + (1 - ab_t - sigma**2).abs().sqrt() * eps,
        "x_t is returned as it is": x_t,
        "x0_hat and x_s are swapped": (x_t - (1 - ab_t).sqrt() * eps) / ab_t.sqrt(),
    }


def deviation(ab_t: Tensor, ab_s: Tensor, eta: float) -> dict[str, Tensor]:
    """Of eta sqrt((1 - alpha_bar_s) / (1 - alpha_bar_t)) sqrt(1 - alpha_bar_t / alpha_bar_s)."""
    first, second = (1 - ab_s) / (1 - ab_t), 1 - ab_t / ab_s
    return {
        "the square roots are missing: that is a variance": eta * first * second,
        "the first factor is missing: that is sqrt(beta), DDPM's larger choice": eta
        * second.sqrt(),
        "s and t are swapped in the first factor": eta * (second / first).sqrt(),
        "the square root of the first factor is missing": eta * first * second.sqrt(),
        "the square root of the second factor is missing": eta * first.sqrt() * second,
        "the second factor is missing": eta * first.sqrt(),
        "s and t are swapped in both": eta * ((ab_s / ab_t - 1) / first).sqrt(),
    }


def guided(
    z_t: Tensor, eps_u: Tensor, eps_c: Tensor, ab: Tensor, scale: float
) -> dict[str, Tensor]:
    """Of the jump with eps_u + scale (eps_c - eps_u)."""

    def z0_hat(eps: Tensor) -> Tensor:
        return (z_t - (1 - ab).sqrt() * eps) / ab.sqrt()

    right = eps_u + scale * (eps_c - eps_u)
    return {
        "scale is not used: eps_c alone": z0_hat(eps_c),
        "eps_u and eps_c are swapped": z0_hat(eps_c + scale * (eps_u - eps_c)),
        "scale is not used: eps_u alone": z0_hat(eps_u),
        "scale counts from eps_c: that is w = scale - 1": z0_hat(eps_c + scale * (eps_c - eps_u)),
        "the difference is added to nothing": z0_hat(scale * (eps_c - eps_u)),
    } | jump(z_t, right, ab)
