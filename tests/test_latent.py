"""A pipeline as a latent space: its latents against StableDiffusionPipeline's own, its pictures,
its prompts."""

import copy
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from ddim_tutorial import latent, sample, zoo
from ddim_tutorial.pipelines import COMPONENTS
from ddim_tutorial.training.emoji.networks import new_pipeline
from other_pipelines import controlled, large, other_pipeline, with_network
from parts import WORDS, relative, tiny_pipeline
from tools import run_notebooks


@pytest.fixture(scope="module")
def pipe(tmp_path_factory) -> StableDiffusionPipeline:
    return tiny_pipeline(tmp_path_factory.mktemp("tokenizer"))


def noise(batch: int = 2, size: int = 8) -> torch.Tensor:
    return torch.randn(batch, 4, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scale", [1.0, 4.0, 7.5])
@pytest.mark.parametrize(("steps", "negative"), [(10, ""), (50, ""), (10, "blurry")])
def test_latents_are_the_pipelines_own(pipe, prediction, scale, steps, negative):
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type=prediction)
    prompts, z_T = ["a cassette player", "two blue fish"], noise()
    wanted = pipe(
        prompts,
        negative_prompt=[negative] * 2,
        num_inference_steps=steps,
        guidance_scale=scale,
        latents=z_T,
        output_type="latent",
    ).images
    space = latent.from_pipeline(pipe, prompts, negative, scale)
    with torch.no_grad():
        got = sample(space.model, z_T, space.times(steps), space.schedule)
    assert (got - wanted).norm() / wanted.norm() <= 2e-5
    assert space.times(50)[:2] == [982, 962] and space.times(50)[-3:] == [22, 2, 1]


@pytest.mark.parametrize(
    ("scale", "steps", "negative"),
    [(1.0, 10, ""), (4.0, 10, ""), (4.0, 50, ""), (7.5, 10, ""), (7.5, 10, "blurry")],
)
def test_latents_of_the_bundled_model_are_its_pipelines_own(scale, steps, negative):
    bundle, prompts, z_T = (
        zoo.load("emoji", device="cpu"),
        ["image of red apple", "bus"],
        noise(size=16),
    )
    wanted = bundle.pipe(
        prompts,
        negative_prompt=[negative] * 2,
        num_inference_steps=steps,
        guidance_scale=scale,
        latents=z_T,
        output_type="latent",
    ).images
    space = bundle.space(prompts, negative, scale)
    got = sample(space.model, z_T, space.times(steps), space.schedule)
    assert relative(got, wanted) <= 2e-5


def test_the_prompt_the_negative_prompt_and_the_scale_all_matter(pipe):
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="epsilon")
    z_t, t = noise(), torch.tensor([500, 500])
    choices = [
        ("a cassette player", "", 4.0),
        ("two blue fish", "", 4.0),
        ("a cassette player", "blurry", 4.0),
        ("a cassette player", "", 1.0),
        ("a cassette player", "", 0.0),
        (WORDS[1:3], "", 4.0),
    ]
    with torch.no_grad():
        eps = [latent.from_pipeline(pipe, *choice).model(z_t, t) for choice in choices]
    for i, a in enumerate(eps):
        for b in eps[:i]:
            assert (a - b).abs().max() > 1e-4
    torch.testing.assert_close(
        eps[-1][0], eps[0][0]
    )  # one prompt for each picture: the first is the same
    torch.testing.assert_close(eps[-1][1], eps[1][1])


def test_guidance_is_one_doubled_batch_and_scale_one_a_single_one(pipe):
    asked = []
    hook = pipe.unet.register_forward_hook(lambda _, given, out: asked.append(len(given[0])))
    for scale in (4.0, 1.0):
        with torch.no_grad():
            latent.from_pipeline(pipe, "two blue fish", scale=scale).model(
                noise(), torch.tensor([500, 500])
            )
    hook.remove()
    assert asked == [4, 2]


def test_pictures_go_through_the_autoencoder_with_its_scale(pipe):
    space = latent.from_pipeline(pipe, "two blue fish")
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mean = pipe.vae.encode(x).latent_dist.mean
        torch.testing.assert_close(space.encode(x), 0.3 * mean)
        torch.testing.assert_close(space.decode(0.3 * mean), pipe.vae.decode(mean).sample)
    with pytest.raises(TypeError, match=r"x is torch\.uint8"):
        space.encode(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


def test_the_precision_of_the_autoencoder_is_its_own_affair(pipe):
    precise, x = copy.deepcopy(pipe.vae).double(), torch.rand(1, 3, 16, 16) * 2 - 1
    for coder, given in ((latent.encode, x), (latent.decode, noise())):
        seen = coder(precise, given)
        assert seen.dtype == torch.float32 and relative(seen, coder(pipe.vae, given)) <= 1e-5


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda space: space.encode(torch.zeros(3, 16, 16)),
            r"x has shape \(3, 16, 16\), wanted \(B, 3, height, width\)",
        ),
        (lambda space: space.encode(torch.zeros(1, 4, 16, 16)), r"x has shape .* wanted \(B, 3,"),
        (
            lambda space: space.decode(torch.zeros(4, 8, 8)),
            r"z has shape \(4, 8, 8\), wanted \(B, 4,",
        ),
        (lambda space: space.decode(torch.zeros(1, 3, 8, 8)), r"z has shape .* wanted \(B, 4,"),
        (lambda space: space.decode(torch.zeros(1, 4, 8, 8), chunk=0), r"chunk"),
        (
            lambda space: space.model(torch.zeros(4, 8, 8), torch.tensor(4 * [9])),
            r"z_t has shape .* wanted \(B, 4,",
        ),
        (
            lambda space: space.model(torch.zeros(2, 3, 8, 8), torch.tensor([9, 9])),
            r"z_t has shape .* wanted \(B, 4,",
        ),
    ],
)
def test_latents_and_pictures_of_another_shape_are_refused(pipe, call, said):
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="epsilon")
    with pytest.raises(ValueError, match=said):
        call(latent.from_pipeline(pipe, "two blue fish", scale=1.0))


class Small(nn.Module):
    """A decoder with memory for ``room`` pictures."""

    device, dtype = torch.device("cpu"), torch.float32
    config = SimpleNamespace(scaling_factor=0.5, block_out_channels=(1,), latent_channels=4)

    def __init__(self, room: int):
        super().__init__()
        self.room, self.tried = room, []

    def decode(self, z):
        self.tried.append(len(z))
        if len(z) > self.room:
            raise torch.OutOfMemoryError("no room")
        return SimpleNamespace(sample=z + 1)


def test_decoding_halves_its_chunk_until_it_fits():
    z, vae = torch.arange(44.0).view(11, 4, 1, 1), Small(room=3)
    torch.testing.assert_close(latent.decode(vae, z, chunk=8), 2 * z + 1)
    assert vae.tried == [8, 4, 2, 2, 2, 2, 2, 1]
    none = Small(room=0)
    with pytest.raises(torch.OutOfMemoryError):
        latent.decode(none, z, chunk=4)
    assert none.tried == [4, 2, 1]


def test_large_pictures_are_decoded_a_few_at_a_time():
    large, small = Small(room=99), Small(room=99)  # the processor has no OutOfMemoryError: it kills
    latent.decode(large, torch.zeros(3, 4, 512, 512))
    latent.decode(small, torch.zeros(40, 4, 64, 64))
    assert large.tried == [2, 1] and small.tried == [40]
    halving = Small(room=99)  # two pixels a side for each latent: four times the pixels
    halving.config = SimpleNamespace(**vars(Small.config) | {"block_out_channels": (1, 1)})
    latent.decode(halving, torch.zeros(3, 4, 256, 256))
    assert halving.tried == [2, 1]


def test_a_prompt_that_is_too_long_is_cut_and_what_is_lost_is_said(pipe):
    long = "two blue fish " * 7 + "a red apple"
    with pytest.warns(UserWarning, match=r"tokens, the text encoder takes 24; cut: 'red apple'"):
        latent.from_pipeline(pipe, ["two blue fish", long])
    with pytest.warns(UserWarning, match="^negative_prompt: .*cut"):
        latent.from_pipeline(pipe, "two blue fish", long)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        latent.from_pipeline(pipe, "two blue fish")


def test_wrong_prompts_and_predictions_are_refused(pipe):
    with pytest.raises(ValueError, match="prompt, negative_prompt: got"):
        latent.from_pipeline(pipe, [])
    other = SimpleNamespace(scheduler=DDIMScheduler(prediction_type="sample"))
    with pytest.raises(ValueError, match="prediction_type: got 'sample'"):
        latent.from_pipeline(other, "fish")


@pytest.mark.parametrize("option", ["clip_sample", "thresholding"])
def test_a_scheduler_that_clips_is_named(pipe, option):
    clipping = new_pipeline(pipe.vae, pipe.text_encoder, pipe.tokenizer, pipe.unet)
    clipping.scheduler = DDIMScheduler.from_config(clipping.scheduler.config, **{option: True})
    with pytest.warns(UserWarning, match=f"has {option}=True: it clips"):
        latent.from_pipeline(clipping, "two blue fish")


@pytest.mark.parametrize("text_encoder", [torch.float32, torch.bfloat16])
def test_the_state_stays_float32_under_a_bf16_network(pipe, text_encoder):
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="epsilon")
    half = new_pipeline(pipe.vae, pipe.text_encoder, pipe.tokenizer, pipe.unet)
    half.unet = UNet2DConditionModel.from_config(pipe.unet.config)
    half.unet.load_state_dict(pipe.unet.state_dict())
    half.unet.to(torch.bfloat16).eval()
    half.text_encoder = CLIPTextModel(pipe.text_encoder.config)
    half.text_encoder.load_state_dict(pipe.text_encoder.state_dict())
    half.text_encoder.to(text_encoder).eval()
    with torch.no_grad():
        eps, wanted = (
            latent.from_pipeline(p, "two blue fish", scale=1.0).model(
                noise(), torch.tensor([500, 500])
            )
            for p in (half, pipe)
        )
    assert eps.dtype == torch.float32 and 0 < relative(eps, wanted) <= 0.03  # bf16 has 8 bits


@pytest.mark.parametrize("name", ["05_latent_jump", "06_original_demo_replayed"])
def test_the_notebooks_on_latent_models_run_unchanged_on_another_one(name, tmp_path, monkeypatch):
    """A random pipeline in Stable Diffusion's format stands in for a model of the hub."""
    folder, stored = tmp_path / "sd", Path(__file__).parents[1] / "notebooks" / f"{name}.ipynb"
    tiny_pipeline(folder / "tokenizer").save_pretrained(folder, safe_serialization=True)
    monkeypatch.setenv("DDIM_TUTORIAL_MODEL", str(folder))
    measured = run_notebooks.run(stored, tmp_path / "executed.ipynb")
    assert "error" not in measured
    seen, wanted = (
        nbformat.read(path, as_version=4).cells for path in (tmp_path / "executed.ipynb", stored)
    )
    changed = [
        a.outputs != b.outputs for a, b in zip(seen, wanted, strict=True) if a.cell_type == "code"
    ]
    assert sum(changed) > 5  # it was that model


def adapted(pipe):
    """As ``load_ip_adapter`` leaves it."""
    other = with_network(pipe)
    other.unet.config.encoder_hid_dim_type = "ip_image_proj"
    other.unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    return other


def animated(pipe):
    from diffusers import AnimateDiffPipeline, MotionAdapter

    motion = MotionAdapter(
        block_out_channels=(16, 32),
        motion_layers_per_block=1,
        motion_mid_block_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=4,
    )
    parts = {key: pipe.components[key] for key in COMPONENTS}
    return AnimateDiffPipeline(**parts, motion_adapter=motion)


TIME_IDS = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 64,
}
OTHERS = {
    "controlnet": (controlled, "StableDiffusionControlNetPipeline has a controlnet"),
    "xl": (large, "StableDiffusionXLPipeline has a text_encoder_2"),
    "ip-adapter": (adapted, "encoder_hid_dim_type='ip_image_proj'"),
    "text_time": (lambda pipe: with_network(pipe, **TIME_IDS), "addition_embed_type='text_time'"),
    "pix2pix": (lambda pipe: with_network(pipe, in_channels=8), "in_channels=8 for latents of 4"),
    "pix2pix's class": (
        lambda pipe: other_pipeline("StableDiffusionInstructPix2PixPipeline", pipe),
        "StableDiffusionInstructPix2PixPipeline takes a picture",
    ),
    "inpainting": (
        lambda pipe: with_network(pipe, in_channels=9),
        "in_channels=9 for latents of 4",
    ),
    "animation": (animated, "AnimateDiffPipeline has a motion_adapter"),
    "upscaler": (lambda pipe: with_network(pipe, num_class_embeds=9), "num_class_embeds=9"),
    "unclip": (
        lambda pipe: with_network(pipe, class_embed_type="timestep"),
        "class_embed_type='timestep'",
    ),
    "consistency": (lambda pipe: with_network(pipe, time_cond_proj_dim=8), "time_cond_proj_dim=8"),
    "gligen": (lambda pipe: with_network(pipe, attention_type="gated"), "attention_type='gated'"),
    "variance": (lambda pipe: with_network(pipe, out_channels=8), "out_channels=8"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_pipeline_that_takes_more_than_a_prompt_is_refused(pipe, kind):
    build, message = OTHERS[kind]
    with pytest.raises(ValueError, match=re.escape(message)):
        latent.from_pipeline(build(pipe), "two blue fish")


@pytest.mark.parametrize("name", ["Img2Img", "Inpaint", "SAG"])
def test_a_pipeline_of_the_same_parts_is_taken(pipe, name):
    """Their networks take z_t, t and the prompt, whatever else the pipelines do."""
    other = other_pipeline(f"StableDiffusion{name}Pipeline", pipe)
    spaces = [latent.from_pipeline(p, "two blue fish", scale=2.0) for p in (other, pipe)]
    eps, expected = (space.model(noise(), torch.tensor([500, 500])) for space in spaces)
    torch.testing.assert_close(eps, expected)


@pytest.mark.filterwarnings("ignore")
def test_what_looks_at_finished_pictures_is_no_obstacle(pipe):
    """Stable Diffusion 1.x comes with a safety checker, which the network does not know of."""
    finishing = {"safety_checker": Small(room=1), "feature_extractor": Small(room=1)}
    other = other_pipeline("StableDiffusionPipeline", pipe, **finishing)
    assert other.safety_checker is not None
    latent.from_pipeline(other, "two blue fish")


def test_each_prompt_may_have_its_negative_prompt(pipe):
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="epsilon")
    prompts, negatives, z_T = ["a cassette player", "two blue fish"], ["blurry", ""], noise()
    expected = pipe(
        prompts,
        negative_prompt=negatives,
        num_inference_steps=5,
        guidance_scale=4.0,
        latents=z_T,
        output_type="latent",
    ).images
    space = latent.from_pipeline(pipe, prompts, negatives, 4.0)
    assert relative(sample(space.model, z_T, space.times(5), space.schedule), expected) <= 2e-5
    t = torch.tensor([500, 500])
    one = latent.from_pipeline(pipe, "two blue fish", negatives, 4.0).model(z_T, t)
    torch.testing.assert_close(
        one, latent.from_pipeline(pipe, ["two blue fish"] * 2, negatives, 4.0).model(z_T, t)
    )
    for wrong in (["a", "b", "c"], []):
        with pytest.raises(ValueError, match=r"negative_prompt: got"):  # not diffusers' own words
            latent.from_pipeline(pipe, prompts, wrong)


def test_the_vectors_of_a_textual_inversion_count(tmp_path):
    """A token of 12 vectors, twice in a prompt for 24 places."""
    inverted = tiny_pipeline(tmp_path)
    inverted.load_textual_inversion(torch.zeros(12, 16), token="<cat>")
    with pytest.warns(UserWarning, match="29 tokens, the text encoder takes 24"):
        latent.from_pipeline(inverted, "<cat> and <cat>")
    with pytest.warns(UserWarning, match="negative_prompt: 29 tokens"):
        latent.from_pipeline(inverted, "two blue fish", "<cat> and <cat>")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        latent.from_pipeline(inverted, "<cat>")


def test_a_warning_of_a_very_long_prompt_is_short_and_the_only_one(tmp_path, capfd):
    fresh = tiny_pipeline(tmp_path)  # a tokenizer remarks on length once
    capfd.readouterr()
    with pytest.warns(UserWarning, match="cut: ") as caught:
        latent.from_pipeline(fresh, "two blue fish " * 2000)
    assert len(caught) == 1 and len(str(caught[0].message)) < 300
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("size", [(17, 19), (16, 19), (1, 16), (17, 16)])
def test_pictures_that_the_autoencoder_would_cut_are_refused(pipe, size):
    """Its factor is 2: 17 x 19 pixels would come back as 16 x 18."""
    space = latent.from_pipeline(pipe, "two blue fish")
    with pytest.raises(ValueError, match=r"multiples of 2: .*enlarge to") as no:
        space.encode(torch.zeros(1, 3, *size))
    if size == (17, 19):
        assert "crop to 16 x 18 or enlarge to 18 x 20" in str(no.value)
    assert space.decode(space.encode(torch.zeros(1, 3, 16, 18))).shape == (1, 3, 16, 18)


def test_a_scheduler_of_another_process_is_refused(pipe):
    from diffusers import FlowMatchEulerDiscreteScheduler

    other = new_pipeline(pipe.vae, pipe.text_encoder, pipe.tokenizer, pipe.unet)
    other.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler has no alphas_cumprod"):
        latent.from_pipeline(other, "two blue fish")
