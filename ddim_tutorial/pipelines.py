"""Which pipelines are taken: those whose network takes z_t, t and a prompt, and nothing more."""

from typing import Any

COMPONENTS = {"vae", "text_encoder", "tokenizer", "unet", "scheduler"}
UNUSED = {"safety_checker", "feature_extractor", "image_encoder"}
# keys of the network's configuration, and the values with which it takes nothing but z_t, t, text
PLAIN = {
    "addition_embed_type": (None, "text"),
    "encoder_hid_dim_type": (None, "text_proj"),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "time_cond_proj_dim": (None,),
    "attention_type": (None, "default"),
}


def require_pipeline(pipe: Any) -> None:
    """Raise ValueError for a pipeline whose network takes more than z_t, t and the prompt: here the
    rest would be left out, in silence or with an error from inside diffusers."""
    name = type(pipe).__name__
    components = {key: part for key, part in pipe.components.items() if part is not None}
    advice = "wanted a StableDiffusionPipeline (SD 1.x or 2.x)"
    if missing := sorted(COMPONENTS - components.keys()):
        raise ValueError(f"pipe: {name} has no {missing[0]}; {advice}")
    if others := sorted(components.keys() - COMPONENTS - UNUSED):
        raise ValueError(f"pipe: {name} has a {others[0]}, which would be left out here; {advice}")
    if name == "StableDiffusionInstructPix2PixPipeline":
        raise ValueError(f"pipe: {name} takes a picture beside the prompt; {advice}")
    config = pipe.unet.config
    for key, plain in PLAIN.items():
        if config.get(key) not in plain:
            raise ValueError(
                f"pipe: the network of this {name} has {key}={config.get(key)!r}, so it takes more"
                f" than z_t, t and the prompt; {advice}"
            )
    if config.in_channels != pipe.vae.config.latent_channels:
        raise ValueError(
            f"pipe: the network of this {name} has in_channels={config.in_channels} for latents of"
            f" {pipe.vae.config.latent_channels}: it takes a picture or a mask beside z_t; {advice}"
        )
    if config.out_channels != config.in_channels:
        raise ValueError(
            f"pipe: the network of this {name} has out_channels={config.out_channels} for"
            f" in_channels={config.in_channels}; {advice}"
        )


def require_scheduler(scheduler: Any) -> str:
    """The prediction type, after refusing what our sampler cannot use."""
    name, config = type(scheduler).__name__, scheduler.config
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"prediction_type: got {prediction!r} in {name}'s configuration, wanted 'epsilon' or"
            " 'v_prediction'"
        )
    alphas_cumprod = getattr(scheduler, "alphas_cumprod", None)
    if alphas_cumprod is None:
        raise ValueError(
            f"the pipeline's {name} has no alphas_cumprod, wanted a variance-preserving scheduler"
            " such as DDIMScheduler"
        )
    if alphas_cumprod[-1] <= 0:
        raise ValueError(
            f"the pipeline's {name} has rescale_betas_zero_snr=True, which leaves no signal at"
            f" t = {len(alphas_cumprod)}; pipe.scheduler = zoo.to_ddim(pipe.scheduler) ends the"
            " schedule one step before"
        )
    return prediction
