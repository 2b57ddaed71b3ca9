"""The same quantity in the letters of DDPM and of DDIM, row by row."""

from dataclasses import dataclass

RATIO = (  # one step's signal, s = t - 1; it has no letter of its own here
    "alpha_bar_t / alpha_bar_s"
)


@dataclass(frozen=True)
class Row:
    """One row of the DDPM/DDIM dictionary: the same quantity in the letters of both papers (TeX)
    and as Python."""

    quantity: str
    ddpm: str
    ddim: str
    code: str
    source: str


# Every pair is the same number under the substitution alpha_t (DDPM) = alpha_t / alpha_{t-1} (DDIM)
# and bar alpha_t (DDPM) = alpha_t (DDIM); the last two rows at eta = 1. The tests prove it from
# these very strings.
DDPM_DDIM = (
    Row(
        "signal kept by one step",
        r"\alpha_t",
        r"\frac{\alpha_t}{\alpha_{t-1}}",
        RATIO,
        "DDPM sec. 2; DDIM Eq. 60",
    ),
    Row(
        "noise added by one step",
        r"\beta_t",
        r"1 - \frac{\alpha_t}{\alpha_{t-1}}",
        f"1 - {RATIO}",
        "DDPM sec. 2; DDIM Eq. 61",
    ),
    Row(
        "signal kept since t = 0",
        r"\bar\alpha_t",
        r"\alpha_t",
        "alpha_bar_t",
        "DDPM Eq. 4; DDIM Eq. 4",
    ),
    Row(
        "mean of q(x_t | x_s), s = t - 1",
        r"\sqrt{\alpha_t} x_{t-1}",
        r"\sqrt{\frac{\alpha_t}{\alpha_{t-1}}} x_{t-1}",
        f"sqrt({RATIO}) * x_s",
        "DDPM Eq. 2; DDIM Eq. 3",
    ),
    Row(
        "variance of q(x_t | x_s), s = t - 1",
        r"1 - \alpha_t",
        r"1 - \frac{\alpha_t}{\alpha_{t-1}}",
        f"1 - {RATIO}",
        "DDPM Eq. 2; DDIM Eq. 3",
    ),
    Row(
        "x_t from x_0",
        r"\sqrt{\bar\alpha_t} x_0 + \sqrt{1 - \bar\alpha_t} \epsilon",
        r"\sqrt{\alpha_t} x_0 + \sqrt{1 - \alpha_t} \epsilon",
        "sqrt(alpha_bar_t) * x_0 + sqrt(1 - alpha_bar_t) * eps",
        "DDPM Eq. 4; DDIM Eq. 4",
    ),
    Row(
        "jump to x_0",
        r"\frac{x_t - \sqrt{1 - \bar\alpha_t} \epsilon_\theta}{\sqrt{\bar\alpha_t}}",
        r"\frac{x_t - \sqrt{1 - \alpha_t} \epsilon_\theta}{\sqrt{\alpha_t}}",
        "(x_t - sqrt(1 - alpha_bar_t) * eps_hat) / sqrt(alpha_bar_t)",
        "DDPM Eq. 15; DDIM Eq. 9",
    ),
    Row(
        "sigma_t^2 (DDIM at eta = 1)",
        r"\frac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t} \beta_t",
        r"\frac{1 - \alpha_{t-1}}{1 - \alpha_t} (1 - \frac{\alpha_t}{\alpha_{t-1}})",
        f"(1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - {RATIO})",
        "DDPM Eq. 7; DDIM Eq. 16",
    ),
    Row(
        "mean of x_s given x_t (DDIM at eta = 1)",
        r"\frac{1}{\sqrt{\alpha_t}}"
        r" (x_t - \frac{1 - \alpha_t}{\sqrt{1 - \bar\alpha_t}} \epsilon_\theta)",
        r"\sqrt{\alpha_{t-1}} \frac{x_t - \sqrt{1 - \alpha_t} \epsilon_\theta}{\sqrt{\alpha_t}}"
        r" + \sqrt{1 - \alpha_{t-1} - \sigma_t^2} \epsilon_\theta",
        "sqrt(alpha_bar_s) * (x_t - sqrt(1 - alpha_bar_t) * eps_hat) / sqrt(alpha_bar_t)"
        " + sqrt(1 - alpha_bar_s - sigma**2) * eps_hat",
        "DDPM Eq. 11; DDIM Eq. 12",
    ),
)
