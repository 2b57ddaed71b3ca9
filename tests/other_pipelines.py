"""Pipelines of other classes around the parts of a StableDiffusionPipeline."""

from diffusers import UNet2DConditionModel

from ddim_tutorial.training.emoji.networks import new_pipeline


def other_pipeline(name: str, pipe, **parts):
    """A pipeline of another class around the tiny one's parts."""
    import diffusers

    components = {key: part for key, part in pipe.components.items() if key != "image_encoder"}
    return getattr(diffusers, name)(**(components | parts), requires_safety_checker=False)


def with_network(pipe, **keys):
    """The pipeline with another network, random, as ``keys`` of its configuration say."""
    other = new_pipeline(pipe.vae, pipe.text_encoder, pipe.tokenizer, pipe.unet)
    config = {key: value for key, value in pipe.unet.config.items() if not key.startswith("_")}
    other.unet = UNet2DConditionModel(**(config | keys))
    return other


def controlled(pipe):
    from diffusers import ControlNetModel

    network = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8))
    return other_pipeline("StableDiffusionControlNetPipeline", pipe, controlnet=network)


def large(pipe):
    """Stable Diffusion XL has two text encoders."""
    from diffusers import StableDiffusionXLPipeline

    return StableDiffusionXLPipeline(
        vae=pipe.vae,
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
        text_encoder_2=pipe.text_encoder,
        tokenizer_2=pipe.tokenizer,
        unet=pipe.unet,
        scheduler=pipe.scheduler,
        add_watermarker=False,
    )
