"""The symbol table as data: every letter, and what papers and libraries call it."""

from dataclasses import dataclass, field

from .dictionary import RATIO

DIALECTS = ("here", "ddpm", "ddim", "ldm/diffusers")


@dataclass(frozen=True)
class Symbol:
    """One row of the symbol table.

    Attributes:
        paper: TeX, as this project writes it.
        code: the name in this package.
        shape: the shape and range of its value.
        meaning: one line.
        elsewhere: dialect ("ddpm", "ddim": TeX; "ldm/diffusers": identifiers, comma separated) ->
            the name there; a dialect that has no name for it is absent.
    """

    paper: str
    code: str
    shape: str
    meaning: str
    elsewhere: dict[str, str] = field(default_factory=dict)

    def names(self, dialect: str) -> list[str]:
        """Every name of this symbol in a dialect, the usual one first; [] where it has none."""
        text = self.code if dialect == "here" else self.elsewhere.get(dialect, "")
        return [name.strip() for name in text.split(",") if name.strip()]


def _papers(ddpm: str, ddim: str, code: str) -> dict[str, str]:
    return {"ddpm": ddpm, "ddim": ddim, "ldm/diffusers": code}


SYMBOLS = (
    Symbol(
        r"x_0",
        "x_0",
        "(B, C, H, W) in [-1, 1]",
        "data",
        _papers(r"\mathbf{x}_0", "x_0", "x_start, original_samples"),
    ),
    Symbol(
        r"x_t",
        "x_t",
        "like x_0",
        "noisy at t",
        _papers(r"\mathbf{x}_t", "x_t", "img, sample, latents"),
    ),
    Symbol(
        r"x_s",
        "x_s",
        "like x_0",
        "where a step from t arrives",
        _papers(r"\mathbf{x}_{t-1}", "x_{t-1}", "x_prev, prev_sample"),
    ),
    Symbol(
        r"t",
        "t",
        "int or (B,) int in 0..T",
        "from; 0 is clean, so a diffusers timestep is t - 1; a model is asked at 1..T",
        _papers("t", "t", "timestep"),
    ),
    Symbol(
        r"s",
        "s",
        "int in 0..T",
        "to; s < t denoises, s > t inverts",
        _papers("t-1", r"\tau_{i-1}", "prev_timestep"),
    ),
    Symbol(
        r"T", "T", "int", "noising steps", _papers("T", "T", "num_train_timesteps, num_timesteps")
    ),
    Symbol(
        r"S",
        "steps",
        "int in 1..T",
        "sampling steps",
        {"ddim": "S", "ldm/diffusers": "num_inference_steps, S"},
    ),
    Symbol(
        r"\tau",
        "times",
        "list of steps + 1 int, decreasing",
        "the grid that a sampler walks",
        {"ddim": r"\tau", "ldm/diffusers": "timesteps, ddim_timesteps"},
    ),
    Symbol(
        r"\beta_t",
        "beta_t",
        "() in (0, 1)",
        "noise power added by one noising step",
        _papers(r"\beta_t", r"1 - \alpha_t / \alpha_{t-1}", "betas"),
    ),
    Symbol(
        r"\bar\alpha_t / \bar\alpha_{t-1}",
        RATIO,
        "() in (0, 1)",
        "signal power kept by one noising step",
        _papers(r"\alpha_t", r"\alpha_t / \alpha_{t-1}", "alphas"),
    ),
    Symbol(
        r"\bar\alpha_t",
        "alpha_bar_t, ab_t",
        "() or (B, 1, 1, 1) in (0, 1]",
        "signal power at t; 1 at t = 0",
        _papers(r"\bar\alpha_t", r"\alpha_t", "alphas_cumprod, alpha_prod_t, ddim_alphas"),
    ),
    Symbol(
        r"\bar\alpha_s",
        "alpha_bar_s, ab_s",
        "() or (B, 1, 1, 1) in (0, 1]",
        "signal power at s",
        _papers(
            r"\bar\alpha_{t-1}",
            r"\alpha_{t-1}",
            "alphas_cumprod_prev, alpha_prod_t_prev, ddim_alphas_prev",
        ),
    ),
    Symbol(
        r"\epsilon",
        "eps",
        "like x_0",
        "noise in x_t",
        _papers(r"\boldsymbol\epsilon", r"\epsilon", "noise"),
    ),
    Symbol(
        r"\epsilon_\theta",
        "eps_hat",
        "like x_0",
        "the network's prediction of it; eps in code that has no other",
        _papers(
            r"\boldsymbol\epsilon_\theta", r"\epsilon_\theta^{(t)}", "noise_pred, model_output, e_t"
        ),
    ),
    Symbol(
        r"\hat x_0",
        "x0_hat",
        "like x_0",
        "jump prediction of x_0 from x_t",
        _papers(
            r"\hat{\mathbf{x}}_0",
            r"f_\theta^{(t)}",
            "pred_original_sample, pred_x0, pred_xstart, denoised",
        ),
    ),
    Symbol(
        r"v",
        "v",
        "like x_0",
        "sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0",
        {"ldm/diffusers": "velocity, v"},
    ),
    Symbol(
        r"\eta",
        "eta",
        "float >= 0",
        "noise of a step as a share of DDPM's: 0 is DDIM, 1 is DDPM",
        {"ddim": r"\eta", "ldm/diffusers": "eta, ddim_eta"},
    ),
    Symbol(
        r"\sigma_{t \to s}",
        "sigma",
        "()",
        "standard deviation of a step's noise; not k-diffusion's sigma",
        _papers(r"\sigma_t", r"\sigma_t(\eta)", "std_dev_t, ddim_sigmas"),
    ),
    Symbol(
        r"\hat\sigma",
        "sigma_hat",
        "(); in code bool",
        "std sqrt(1 - alpha_bar_t / alpha_bar_s) of a step's noise, 0 in the last; in code a flag"
        " that asks for it",
        {"ddim": r"\hat\sigma"},
    ),
    Symbol(
        r"n",
        "noise",
        "like x_0",
        "fresh noise of a step, N(0, I); z is a latent here",
        _papers(r"\mathbf{z}", r"\epsilon_t", "variance_noise"),
    ),
    Symbol(
        r"\delta", "delta", "like x_0", "x0_hat - x_t as images, divided by one symmetric scale"
    ),
    Symbol(
        r"c",
        "condition",
        "(B, ...)",
        "what the network is told: a class, or the encoded prompt (B, tokens, dim)",
        {"ldm/diffusers": "encoder_hidden_states, class_labels, cond"},
    ),
    Symbol(
        r"\text{scale}",
        "scale",
        "float; 1 = no guidance, 0 = unconditional",
        "eps_u + scale (eps_c - eps_u); Ho and Salimans' w is scale - 1",
        {"ldm/diffusers": "guidance_scale, unconditional_guidance_scale"},
    ),
    Symbol(
        r"\mathcal E",
        "encode",
        "(B, C, H, W) -> (B, 4, h, w)",
        "encoder of a latent model, from a picture to its code",
        {"ldm/diffusers": "vae.encode, encode_first_stage"},
    ),
    Symbol(
        r"\mathcal D",
        "decode",
        "(B, 4, h, w) -> (B, C, H, W)",
        "decoder of a latent model, from a code to a picture",
        {"ldm/diffusers": "vae.decode, decode_first_stage"},
    ),
    Symbol(
        r"\kappa",
        "scaling_factor",
        "float > 0",
        "brings the codes to a variance of about 1: z_0 = kappa E(x_0)",
        {"ldm/diffusers": "scaling_factor, scale_factor"},
    ),
    Symbol(
        r"z_0",
        "z_0",
        "(B, 4, h, w)",
        "latent of a picture, takes the place of x_0",
        {"ldm/diffusers": "init_latents, z"},
    ),
    Symbol(
        r"z_t",
        "z_t",
        "like z_0",
        "noisy latent at t, takes the place of x_t",
        {"ldm/diffusers": "noisy_latents, x_noisy"},
    ),
)
