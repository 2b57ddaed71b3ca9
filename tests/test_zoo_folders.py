"""Folders as people have them: another scheduler's configuration, other names and places of the
weights, pointers in place of files. What diffusers serves loads; the rest is called by its name."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DModel,
)
from safetensors.torch import load_file, save_file

from ddim_tutorial import latent, sample, zoo
from parts import relative, tiny_pipeline, tiny_unet

UNET = "unet/diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 3438167540\n".format(
    "0" * 64
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    """A pixel folder ``px`` and a latent one ``sd``."""
    folder = tmp_path_factory.mktemp("folders")
    tiny_unet().save_pretrained(folder / "px" / "unet")
    DDIMScheduler(clip_sample=False).save_pretrained(folder / "px" / "scheduler")
    tiny_pipeline(folder / "sd" / "tokenizer").save_pretrained(
        folder / "sd", safe_serialization=True
    )
    return folder


@pytest.fixture
def px(originals, tmp_path) -> Path:
    return Path(shutil.copytree(originals / "px", tmp_path / "px"))


@pytest.fixture
def sd(originals, tmp_path) -> Path:
    return Path(shutil.copytree(originals / "sd", tmp_path / "sd"))


def change(path: Path, **keys) -> None:
    config = json.loads(path.read_text()) | keys
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "gone"}))


@pytest.mark.parametrize("kind", ["px", "sd"])
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler"},
            "FlowMatchEulerDiscreteScheduler has no",
        ),
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler has no alphas_cumprod"),
        ({"_class_name": "MyScheduler"}, "_class_name is 'MyScheduler'"),
        ({"_class_name": "UNet2DModel"}, "_class_name is 'UNet2DModel'"),
        ({"beta_schedule": "laplace"}, "laplace"),
        ({"beta_schedule": "sigmoid"}, "sigmoid"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True},
            "use_flow_sigmas",
        ),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "timestep_type"),
    ],
)
def test_a_scheduler_of_another_process_is_refused(originals, tmp_path, kind, keys, message):
    folder = Path(shutil.copytree(originals / kind, tmp_path / kind))
    change(folder / SCHEDULER, **keys)
    with pytest.raises(ValueError, match=message) as refusal:
        zoo.load(folder, device="cpu")
    assert "scheduler_config.json" in str(refusal.value)


@pytest.mark.parametrize("beta_schedule", ["sigmoid", "laplace"])
def test_a_beta_schedule_that_only_the_own_class_knows_is_its_own(px, sd, beta_schedule):
    own = DDPMScheduler(beta_schedule=beta_schedule, clip_sample=False)
    for folder in (px, sd):
        own.save_pretrained(folder / "scheduler")
        bundle = zoo.load(folder, device="cpu")
        torch.testing.assert_close(
            bundle.schedule.alpha_bar[1:], own.alphas_cumprod.double(), rtol=2e-5, atol=0
        )
    assert bundle.space("").times(10)[-1] == 0


def test_a_scheduler_that_clips_is_named_where_its_class_reads_the_key(px):
    change(px / SCHEDULER, clip_sample=True)
    with pytest.warns(UserWarning, match=r"scheduler_config\.json: clip_sample=True"):
        zoo.load(px, device="cpu")
    change(px / SCHEDULER, clip_sample="gone")  # DDIMScheduler clips by default
    with pytest.warns(UserWarning, match="clip_sample=True"):
        zoo.load(px, device="cpu")
    change(px / SCHEDULER, clip_sample=True, _class_name="EulerDiscreteScheduler")  # left over
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo.load(px, device="cpu")


def test_a_schedule_that_ends_without_signal_ends_one_step_before(sd):
    """v is defined at T, but eps is what the sampler takes."""
    own = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
    )
    own.save_pretrained(sd / "scheduler")
    with pytest.warns(UserWarning, match="rescale_betas_zero_snr=True .*ends at T = 999"):
        bundle = zoo.load(sd, device="cpu")
    assert bundle.schedule.T == 999
    torch.testing.assert_close(
        bundle.schedule.alpha_bar[1:], own.alphas_cumprod[:-1].double(), rtol=1e-4, atol=0
    )
    space, z_T = bundle.space("two blue fish"), torch.randn(1, *bundle.shape)
    grid = space.times(5)
    assert grid[0] == 999 and sample(space.model, z_T, grid, space.schedule).isfinite().all()
    bundle.pipe.scheduler = own
    with pytest.raises(ValueError, match=r"rescale_betas_zero_snr.*zoo\.to_ddim"):
        bundle.space("two blue fish")
    bundle.pipe.scheduler = zoo.to_ddim(own)
    assert bundle.space("two blue fish").schedule.T == 999


def test_old_names_of_attention_weights_load(px):
    """As google/ddpm-* have them."""
    new = load_file(px / UNET)
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for key, value in new.items():
        for after, before in names.items():
            key = key.replace(f".{after}.", f".{before}.")
        old[key] = value
    assert old.keys() != new.keys()
    save_file(old, px / UNET, metadata={"format": "pt"})
    state = zoo.load(px, device="cpu").unet.state_dict()
    assert all(torch.equal(state[key], value) for key, value in new.items())
    old["conv_in.weight"].view(-1)[0] = float("nan")
    save_file(old, px / UNET)
    with pytest.raises(ValueError, match=r"conv_in\.weight holds NaN"):
        zoo.load(px, device="cpu")


def test_a_variant_alone_loads(px, sd):
    network = tiny_unet().half()
    shutil.rmtree(px / "unet")
    network.save_pretrained(px / "unet", variant="fp16")
    state = zoo.load(px, device="cpu").unet.state_dict()
    assert all(torch.equal(state[k], v.float()) for k, v in network.state_dict().items())
    pipe = StableDiffusionPipeline.from_pretrained(sd, safety_checker=None).to(torch.float16)
    for name in ("unet", "vae", "text_encoder"):
        shutil.rmtree(sd / name)
    pipe.save_pretrained(sd, variant="fp16")
    assert (sd / "text_encoder" / "model.fp16.safetensors").exists()
    bundle = zoo.load(sd, device="cpu")
    assert bundle.pipe.unet.dtype == torch.float32
    weight = pipe.unet.conv_in.weight.float()
    assert torch.equal(bundle.pipe.unet.conv_in.weight, weight)


def test_shards_with_their_index_load(px, sd):
    network = tiny_unet()
    shutil.rmtree(px / "unet")
    network.save_pretrained(px / "unet", max_shard_size="10KB")
    shards = sorted((px / "unet").glob("*.safetensors"))
    assert len(shards) > 1
    first = zoo.load(px, device="cpu")
    state = first.unet.state_dict()
    assert all(torch.equal(state[k], v) for k, v in network.state_dict().items())
    tensors = load_file(shards[-1])
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, shards[-1], metadata={"format": "pt"})
    assert zoo.load(px, device="cpu").sha256 != first.sha256
    shards[-1].unlink()
    with pytest.raises(ValueError, match=rf"{shards[-1].name}: missing"):
        zoo.load(px, device="cpu")
    network = StableDiffusionPipeline.from_pretrained(sd, safety_checker=None).unet
    shutil.rmtree(sd / "unet")
    network.save_pretrained(sd / "unet", max_shard_size="50KB")
    assert zoo.load(sd, device="cpu").shape == (4, 8, 8)


def test_a_model_in_the_folders_root_loads(px, sd):
    """As google/ddpm-* lie on the hub."""
    for path in [*(px / "unet").iterdir(), *(px / "scheduler").iterdir()]:
        shutil.move(path, px / path.name)
    for folder in ("unet", "scheduler"):
        (px / folder).rmdir()
    bundle = zoo.load(px, device="cpu")
    assert torch.equal(bundle.unet.conv_in.weight, tiny_unet().conv_in.weight)
    (px / "scheduler_config.json").unlink()
    with pytest.raises(ValueError, match=r"scheduler_config\.json: missing"):
        zoo.load(px, device="cpu")
    with pytest.raises(ValueError, match="that of one network, AutoencoderKL"):
        zoo.load(sd / "vae", device="cpu")


@pytest.mark.parametrize("name", [UNET, "vae/config.json", "tokenizer/tokenizer.json"])
@pytest.mark.parametrize("card", [False, True])
def test_a_pointer_is_called_one(sd, name, card):
    if card:
        zoo.write_card(sd, {"name": "sd"})
    (sd / name).write_text(POINTER)
    with pytest.raises(ValueError, match=r"Git LFS pointer of 13\d bytes.*git lfs pull") as no:
        zoo.load(sd, device="cpu")
    assert Path(name).name in str(no.value) and "3,438,167,540" in str(no.value)


@pytest.mark.parametrize("name", ["models/v1-5.safetensors", "models/v1-5.ckpt"])
def test_a_single_file_is_called_one(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"no file {name}"):
        zoo.load(name)
    Path("models").mkdir()
    Path(name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"single-file .*from_single_file\(.*save_pretrained\("):
        zoo.load(name)
    monkeypatch.setenv("DDIM_TUTORIAL_MODEL", name)
    with pytest.raises(ValueError, match=r"DDIM_TUTORIAL_MODEL=.*single-file"):
        zoo.load()


def test_another_revision_in_the_cache_is_named(tmp_path, originals, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("DDIM_TUTORIAL_DOWNLOAD", raising=False)
    folder = tmp_path / "models--CompVis--stable-diffusion-v1-4" / "snapshots" / ("ab" * 20)
    shutil.copytree(originals / "sd", folder)
    with pytest.raises(ValueError, match=f"133a221b.*the cache has {'ab' * 20}") as no:
        zoo.load("sd-v1-4")
    assert str(folder) in str(no.value) and zoo.load(folder, device="cpu").shape == (4, 8, 8)


@pytest.mark.parametrize("size", ["gone", None, 0, "8", [8], 28.0])
@pytest.mark.parametrize("kind", ["px", "sd"])
def test_a_missing_size_is_asked_for(originals, tmp_path, kind, size):
    folder = Path(shutil.copytree(originals / kind, tmp_path / kind))
    change(folder / "unet" / "config.json", sample_size=size)
    with pytest.raises(ValueError, match=r"unet.config\.json: sample_size is"):
        zoo.load(folder, device="cpu")


@pytest.mark.parametrize("size", [7, [8, 9], 1])
def test_a_size_that_does_not_pass_through_the_network_is_refused(px, size):
    change(px / "unet" / "config.json", sample_size=size)
    with pytest.raises(ValueError, match=r"config\.json: sample_size .* multiples of 2"):
        zoo.load(px, device="cpu")
    change(px / "unet" / "config.json", sample_size=[8, 10])
    assert zoo.load(px, device="cpu").shape == (2, 8, 10)


def test_28_pixels_do_not_go_through_four_levels(tmp_path):
    UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8,) * 4,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 4,
        up_block_types=("UpBlock2D",) * 4,
    ).save_pretrained(tmp_path / "unet")
    DDIMScheduler(clip_sample=False).save_pretrained(tmp_path / "scheduler")
    with pytest.raises(ValueError, match=r"28 x 28 .*4 levels wanted multiples of 8"):
        zoo.load(tmp_path, device="cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "", "hpu:0"])
def test_a_device_that_torch_does_not_know_is_refused(px, device):
    with pytest.raises(ValueError, match="device: got"):
        zoo.load(px, device=device)


def test_a_gan_is_not_offered_as_a_diffusion_model():
    with pytest.raises(ValueError, match=r"\(emoji, fashion\)"):
        zoo.load("fashio")
    with pytest.raises(ValueError, match=r"single network.*load_generator"):
        zoo.load("fashion_gan")


def test_a_pipeline_of_another_kind_is_refused_while_loading(sd):
    for kind in ("StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"):
        change(sd / "model_index.json", _class_name=kind)
        assert isinstance(zoo.load(sd, device="cpu"), zoo.LatentBundle)
    change(sd / "model_index.json", _class_name="StableDiffusionControlNetPipeline")
    with pytest.raises(ValueError, match="StableDiffusionControlNetPipeline"):
        zoo.load(sd, device="cpu")


def test_eulers_noise_levels_are_its_own(px):
    own = EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    own.save_pretrained(px / "scheduler")
    bundle = zoo.load(px, device="cpu")
    assert torch.equal(bundle.schedule.alpha_bar[1:], own.alphas_cumprod.double())


def test_a_small_autoencoder_in_place_of_the_large_one(sd):
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    small = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    shutil.rmtree(sd / "vae")
    small.save_pretrained(sd / "vae")
    space, x = zoo.load(sd, device="cpu").space(""), torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        z_0 = small.encode(x).latents
        assert relative(space.encode(x), z_0) < 1e-6
        assert relative(space.decode(z_0), small.decode(z_0).sample) < 1e-6
    assert latent.encode(small, x).shape == (1, 4, 8, 8)
