"""Loading models: what is read is what was saved, and damaged weights are refused by name and
reason."""

import json
import os
import shutil
import struct
import warnings
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DModel
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from ddim_tutorial import latent, zoo
from ddim_tutorial.classifier import Classifier
from ddim_tutorial.zoo import hub
from ddim_tutorial.zoo.weights import load_tensors
from parts import tiny_pipeline

UNET = "unet/diffusion_pytorch_model.safetensors"
PIXELS = torch.arange(5 * 64, dtype=torch.int64).remainder(256).to(torch.uint8).view(5, 1, 8, 8)


def build(folder: Path) -> UNet2DModel:
    torch.manual_seed(1)
    net = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        num_class_embeds=4,
        attention_head_dim=4,
    ).eval()
    net.save_pretrained(folder / "unet")
    DDIMScheduler(1000, clip_sample=False).save_pretrained(folder / "scheduler")
    for name, time in (("classifier", False), ("noisy_classifier", True)):
        classifier(time).save(folder / name)
    save_file({"images": PIXELS, "labels": torch.arange(5)}, folder / "examples.safetensors")
    return net


def classifier(time: bool) -> Classifier:
    """A random one, with weights that fp16 can hold: it is saved in fp16."""
    torch.manual_seed(2)
    return Classifier(classes=3, widths=(8, 16), time=time).eval().half().float()


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> tuple[Path, UNet2DModel]:
    folder = tmp_path_factory.mktemp("zoo") / "tiny"
    net = build(folder)
    zoo.write_card(folder, {"name": "tiny", "title": "a random network"})
    return folder, net


@pytest.fixture
def folder(original, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(original[0], tmp_path / "tiny"))


def edit(path: Path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def truncate(folder: Path) -> None:
    os.truncate(folder / UNET, (folder / UNET).stat().st_size - 100)


def flip(folder: Path) -> None:
    content = bytearray((folder / UNET).read_bytes())
    content[-3] ^= 1  # in the low bits of a weight: a wrong but ordinary number
    (folder / UNET).write_bytes(content)


def nan(folder: Path) -> None:
    edit(folder / UNET, lambda tensors: tensors["conv_in.weight"].view(-1)[0].fill_(float("nan")))


def remove_file(folder: Path) -> None:
    (folder / UNET).unlink()


def remove_key(folder: Path) -> None:
    edit(folder / UNET, lambda tensors: tensors.pop("conv_out.bias"))


def pickle(folder: Path) -> None:
    torch.save(load_file(folder / UNET), folder / "unet" / "diffusion_pytorch_model.bin")
    (folder / UNET).unlink()


def reshape(folder: Path) -> None:
    edit(folder / UNET, lambda tensors: tensors.update({"conv_in.bias": torch.zeros(9)}))


DAMAGE = {
    truncate: "truncated",
    flip: "changed, its sha256",
    nan: "conv_in.weight holds NaN",
    remove_file: "missing",
    remove_key: "lacks conv_out.bias",
    pickle: "pickled diffusion_pytorch_model.bin",
    reshape: r"conv_in.bias .*9",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("card", ["stale", "renewed", "none"])
def test_damaged_weights_are_refused(folder, damage, card):
    """With the card of the sound weights, with a card that vouches for the damaged ones, and
    without a card."""
    damage(folder)
    if card == "renewed":
        zoo.write_card(folder, {"name": "tiny"})
    if card == "none":
        (folder / "card.json").unlink()
    reason = DAMAGE[damage]
    if card == "stale" and damage in (remove_key, reshape):
        reason = "changed, its sha256"
    if card == "stale" and damage is pickle:
        reason = "missing, but listed"
    if damage is flip and card != "stale":
        assert zoo.load(folder).sha256  # an ordinary number: without the first card nobody can tell
        return
    with pytest.raises(ValueError, match=reason) as refusal:
        zoo.load(folder)
    assert "diffusion_pytorch_model.safetensors" in str(refusal.value)


def test_a_pickle_under_the_name_of_safetensors_is_refused(folder):
    (folder / "card.json").unlink()
    for old in (False, True):
        torch.save({"x": torch.zeros(3)}, folder / UNET, _use_new_zipfile_serialization=not old)
        with pytest.raises(ValueError, match="pickled file under the name"):
            zoo.load(folder)


@pytest.mark.parametrize("length", [0x4B50, 0x0280])
def test_a_header_length_that_looks_like_a_pickle_is_read(tmp_path, length):
    """The first two bytes of these sound files are those of a zip and of a pickle."""
    head = (
        json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
        .encode()
        .ljust(length)
    )
    (tmp_path / "x.safetensors").write_bytes(
        struct.pack("<Q", length) + head + struct.pack("<f", 1.5)
    )
    assert load_tensors(tmp_path / "x.safetensors")["x"].item() == 1.5


def test_the_network_schedule_and_examples_are_those_saved(original, device):
    folder, net = original
    before = torch.random.get_rng_state()
    bundle = zoo.load(folder, device=device)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert bundle.name == "tiny" and bundle.shape == (1, 8, 8) and bundle.device == device
    x_t, t = torch.randn(2, 1, 8, 8), torch.tensor([1, 900])
    with torch.no_grad():
        for model, labels in (
            (bundle.model, [3, 3]),
            (bundle.conditional(1), [1, 1]),
            (bundle.conditional(torch.tensor([0, 2])), [0, 2]),
        ):
            wanted = net(x_t, t - 1, torch.tensor(labels)).sample
            torch.testing.assert_close(model(x_t.to(device), t.to(device)).cpu(), wanted)
    assert torch.equal(bundle.schedule.alpha_bar[1:], DDIMScheduler(1000).alphas_cumprod.double())
    assert torch.equal(((bundle.examples.images + 1) * 127.5).round().to(torch.uint8), PIXELS)
    assert bundle.examples.labels.tolist() == [0, 1, 2, 3, 4]
    assert not any(p.requires_grad for p in bundle.unet.parameters()) and not bundle.unet.training


def test_both_classifiers_are_those_saved(original):
    bundle, x, t = (
        zoo.load(original[0], device="cpu"),
        torch.randn(2, 1, 8, 8),
        torch.tensor([3, 700]),
    )
    torch.testing.assert_close(bundle.classifier(x), classifier(time=False)(x))
    torch.testing.assert_close(bundle.noisy_classifier(x, t), classifier(time=True)(x, t))
    assert bundle.classifier is bundle.classifier


def test_dtype_is_that_of_the_network_alone(original):
    bundle = zoo.load(original[0], dtype=torch.bfloat16)
    assert {p.dtype for p in bundle.unet.parameters()} == {torch.bfloat16}
    assert (
        bundle.model(
            torch.zeros(1, *bundle.shape, device=bundle.device),
            torch.tensor([9], device=bundle.device),
        ).dtype
        == torch.float32
    )
    with pytest.raises(TypeError, match=r"dtype: .*int64"):
        zoo.load(original[0], dtype=torch.int64)
    assert zoo._dtype(True, torch.device("cuda")) == torch.float16
    assert {
        zoo._dtype(latent, torch.device(name)) for latent, name in ((True, "cpu"), (False, "cuda"))
    } == {torch.float32}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(original):
    with pytest.raises(ValueError, match="device: got cuda:1, but torch finds no CUDA device"):
        zoo.load(original[0], device="cuda:1")


def test_half_precision_weights_become_float32(folder):
    (folder / "card.json").unlink()
    sound = load_file(folder / UNET)
    save_file({key: value.half() for key, value in sound.items()}, folder / UNET)
    weights = dict(zoo.load(folder, device="cpu").unet.named_parameters())
    torch.testing.assert_close(
        weights["conv_in.weight"], sound["conv_in.weight"].half().float(), rtol=0, atol=0
    )


def test_a_card_lists_the_sha256_of_every_file(original):
    import hashlib

    folder, _ = original
    card = json.loads((folder / "card.json").read_text())
    assert card["title"] == "a random network"
    assert card["files"].keys() == {
        UNET,
        "unet/config.json",
        "scheduler/scheduler_config.json",
        "examples.safetensors",
        "classifier/config.json",
        "classifier/model.safetensors",
        "noisy_classifier/config.json",
        "noisy_classifier/model.safetensors",
    }
    assert (
        card["files"][UNET]
        == hashlib.sha256((folder / UNET).read_bytes()).hexdigest()
        == zoo.load(folder).sha256
    )
    assert zoo.verify(folder) == card


def test_files_that_the_card_does_not_vouch_for_are_refused(folder):
    (folder / ".DS_Store").write_bytes(b"")
    zoo.verify(folder)
    save_file({"x": torch.zeros(1)}, folder / "extra.safetensors")
    with pytest.raises(ValueError, match=r"extra\.safetensors: not listed"):
        zoo.verify(folder)
    (folder / "extra.safetensors").unlink()
    (folder / "classifier" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"classifier.model\.safetensors: missing, but listed"):
        zoo.load(folder)


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("card.json", "{}", 'lists no "files"'),
        ("card.json", "{", "not a readable JSON"),
        ("card.json", '{"files": ["unet"]}', 'lists no "files"'),
        ("card.json", "[]", "holds a list, wanted an object"),
        ("card.json", '{"files": {"unet": ""}}', "unet: missing, but listed in card.json"),
        ("scheduler/scheduler_config.json", "[]", "holds a list"),
        (
            "model_index.json",
            '{"_class_name": "StableDiffusionXLPipeline"}',
            "a StableDiffusionXLPipeline, wanted a Stab",
        ),
        ("model_index.json", "{}", "describes a None"),
        ("unet/config.json", '{"_class_name": "UNet2DConditionModel"}', "wanted a UNet2DModel"),
        (
            "unet/config.json",
            (
                '{"_class_name": "UNet2DModel", "down_block_types": ["Bogus"], "up_block_types":'
                ' ["Bogus"], "block_out_channels": [8]}'
            ),
            "no network can be built",
        ),
        (
            "scheduler/scheduler_config.json",
            '{"prediction_type": "v_prediction"}',
            "wanted 'epsilon'",
        ),
        ("classifier/config.json", '{"klasses": 3}', "klasses"),
    ],
)
def test_other_broken_files_are_refused(folder, path, content, said):
    if path != "card.json":
        (folder / "card.json").unlink()
    (folder / path).write_text(content)
    with pytest.raises(ValueError, match=said) as refusal:
        _ = zoo.load(folder).classifier
    assert Path(path).name in str(refusal.value)


@pytest.mark.parametrize("kind", ["DDIMPipeline", "DDPMPipeline"])
def test_a_pipeline_of_pixels_is_a_pixel_model(folder, kind):
    (folder / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    assert isinstance(zoo.load(folder), zoo.Bundle)


@pytest.mark.parametrize("name", ["fashio", "", "./fashion", "../owner/name", "~/nowhere"])
def test_an_unknown_name_says_what_there_is(original, monkeypatch, name):
    monkeypatch.setattr(zoo, "ZOO", original[0].parent)
    with pytest.raises(ValueError, match=rf"got '{name}'.*\(tiny\).*sd-v1-4"):
        zoo.load(name)
    monkeypatch.setenv("DDIM_TUTORIAL_MODEL", "rubbish")
    with pytest.raises(ValueError, match=r"DDIM_TUTORIAL_MODEL=rubbish: .*'rubbish'"):
        zoo.load()


def test_a_folder_may_be_named_from_home(original, monkeypatch):
    monkeypatch.setenv("HOME", str(original[0].parent))
    assert zoo.load("~/tiny").sha256 == zoo.load(original[0]).sha256


def test_the_environment_variable_is_the_default(original, monkeypatch):
    monkeypatch.setattr(zoo, "ZOO", original[0].parent)
    monkeypatch.setenv("DDIM_TUTORIAL_MODEL", "tiny")
    assert zoo.names() == ["tiny"] and zoo.load().name == "tiny"
    monkeypatch.delenv("DDIM_TUTORIAL_MODEL")
    with pytest.raises(ValueError, match="'fashion'"):
        zoo.load()


@pytest.fixture(scope="module")
def saved_pipeline(tmp_path_factory) -> tuple[Path, StableDiffusionPipeline]:
    """A folder in Stable Diffusion's format, with a scheduler that SD 1.x has, and the pipeline
    saved there."""
    folder = tmp_path_factory.mktemp("pipelines") / "sd"
    pipe = tiny_pipeline(folder / "tokenizer")
    pipe.scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        skip_prk_steps=True,
        set_alpha_to_one=False,
    )  # its configuration says no clip_sample
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder, pipe


def test_the_setting_is_for_models_of_its_own_kind(
    saved_pipeline, original, tmp_path, monkeypatch, capsys
):
    latent_folder, pixel_folder = saved_pipeline[0], original[0]
    for name, folder in (("fashion", pixel_folder), ("emoji", latent_folder)):
        (tmp_path / name).symlink_to(folder)
    monkeypatch.setattr(zoo, "ZOO", tmp_path)
    monkeypatch.setattr(zoo, "names", lambda: ["fashion", "emoji"])
    monkeypatch.setenv("DDIM_TUTORIAL_MODEL", str(latent_folder))
    assert zoo.load(default="emoji", device="cpu").folder == latent_folder
    assert capsys.readouterr().out == ""
    assert zoo.load(device="cpu").folder == tmp_path / "fashion"
    assert "is a latent model; loaded here: fashion" in capsys.readouterr().out
    monkeypatch.setenv("DDIM_TUTORIAL_MODEL", str(pixel_folder))
    assert zoo.load(default="emoji", device="cpu").folder == tmp_path / "emoji"
    assert "is a pixel model; loaded here: emoji" in capsys.readouterr().out
    assert zoo.load(device="cpu").folder == pixel_folder


@pytest.fixture
def pipeline_folder(saved_pipeline, tmp_path) -> Path:
    return Path(shutil.copytree(saved_pipeline[0], tmp_path / "sd"))


def test_a_pipeline_is_the_one_saved_with_a_ddim_scheduler(saved_pipeline):
    folder, pipe = saved_pipeline
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error", FutureWarning
        )  # diffusers': a scheduler that would clip the latents
        bundle = zoo.load(folder, device="cpu")
    assert (
        isinstance(bundle, zoo.LatentBundle) and bundle.name == "sd" and bundle.shape == (4, 8, 8)
    )
    z_t, t = torch.randn(2, 4, 8, 8), torch.tensor([500, 3])
    with torch.no_grad():
        for scale in (1.0, 4.0):
            torch.testing.assert_close(
                bundle.space("two blue fish", scale=scale).model(z_t, t),
                latent.from_pipeline(pipe, "two blue fish", scale=scale).model(z_t, t),
            )
        torch.testing.assert_close(
            bundle.model(z_t, t), latent.from_pipeline(pipe, "", scale=1.0).model(z_t, t)
        )
        torch.testing.assert_close(bundle.space("").decode(z_t), pipe.vae.decode(z_t / 0.3).sample)
    assert bundle.space("").times(50) == [*range(982, 21, -20), 2, 1]  # SD 1.x's own grid
    assert not any(p.requires_grad for p in bundle.pipe.unet.parameters())
    assert bundle.pipe.scheduler.config.clip_sample is False
    half = zoo.load(folder, "cpu", torch.bfloat16)
    assert {half.pipe.unet.dtype, half.pipe.vae.dtype, half.pipe.text_encoder.dtype} == {
        torch.bfloat16
    }


@pytest.mark.parametrize("part", [zoo.UNET, zoo.VAE, zoo.TEXT_ENCODER])
@pytest.mark.parametrize(
    "damage", ["truncated", "changed", "NaN", "missing", "lacks", "pickled", "shape"]
)
def test_a_damaged_pipeline_is_refused(pipeline_folder, part, damage):
    path = pipeline_folder / part
    first = sorted(load_file(path))[0]
    if damage == "changed":
        zoo.write_card(pipeline_folder, {"name": "sd"})
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
    elif damage == "truncated":
        os.truncate(path, path.stat().st_size - 100)
    elif damage == "NaN":
        edit(path, lambda tensors: tensors[first].view(-1)[0].fill_(float("nan")))
    elif damage == "lacks":
        edit(path, lambda tensors: tensors.pop(first))
    elif damage == "shape":
        edit(path, lambda tensors: tensors.update({first: torch.zeros(3)}))
    else:
        if damage == "pickled":
            torch.save(load_file(path), path.with_suffix(".bin"))
        path.unlink()
    said = {
        "changed": "changed, its sha256",
        "shape": "does not fit",
        "pickled": "there is a pickled",
    }
    with pytest.raises(ValueError, match=said.get(damage, damage)) as refusal:
        zoo.load(pipeline_folder)
    assert part in str(refusal.value)


def no_vocabulary(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").unlink()


def broken_vocabulary(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").write_text("{")


def no_tokenizer(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")


def longer_prompts(folder: Path) -> None:
    path = folder / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 77}))


def smaller_text_encoder(folder: Path) -> None:
    """The text encoder of another vocabulary."""
    path = folder / "text_encoder" / "config.json"
    config = json.loads(path.read_text())
    rows = config["vocab_size"] // 2
    path.write_text(json.dumps(config | {"vocab_size": rows}))
    edit(
        folder / zoo.TEXT_ENCODER,
        lambda tensors: tensors.update(
            {
                key: value[:rows].clone()
                for key, value in tensors.items()
                if "token_embedding" in key
            }
        ),
    )


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (no_vocabulary, r"vocab\.json: missing"),
        (broken_vocabulary, "tokenizer: cannot be read"),
        (no_tokenizer, r"tokenizer_config\.json: missing"),
        (longer_prompts, r"prompts of 77, where .* takes 24"),
        (smaller_text_encoder, r"tokenizer: \d+ tokens, .* knows \d+"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_tokenizer_that_would_misread_the_prompts_is_refused(pipeline_folder, damage, said):
    damage(pipeline_folder)
    with pytest.raises(ValueError, match=said):
        zoo.load(pipeline_folder)


@pytest.fixture
def cache(saved_pipeline, tmp_path, monkeypatch) -> Path:
    """An empty local cache of the hub, and no network: sockets are refused while testing, and
    nothing else stops it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "NOTICED", set())
    monkeypatch.delenv(zoo.DOWNLOAD, raising=False)
    return tmp_path / "cache"


def cached(cache: Path, original: Path, name: str = "sd-v1-4") -> Path:
    """A copy of ``original`` where the hub's cache would have the model."""
    alias = zoo.ALIASES[name]
    storage = cache / f"models--{alias.hub_id.replace('/', '--')}" / "snapshots" / alias.revision
    return Path(shutil.copytree(original, storage))


@pytest.mark.parametrize("name", ["sd-v1-4", "somebody/something"])
def test_a_hub_model_that_is_not_cached_is_refused_with_the_way_out(cache, name, monkeypatch):
    with pytest.raises(
        ValueError, match=r"not in the cache .*the network was not used.*download=True.*'emoji'"
    ) as no:
        zoo.load(name)
    assert isinstance(no.value.__cause__, LocalEntryNotFoundError)
    for choice in ({"download": True}, {}):
        monkeypatch.setenv(zoo.DOWNLOAD, "1")
        with pytest.raises(ValueError, match=r"the download failed \(.*'emoji'") as no:
            zoo.load(name, **choice)
        assert reached_for_the_network(no.value)


def reached_for_the_network(error: BaseException | None) -> bool:
    """Whether a refused socket is among the causes."""
    while error is not None:
        if type(error).__name__ == "NetworkRefused":
            return True
        error = error.__cause__ or error.__context__
    return False


@pytest.mark.parametrize("part", ["unet", "vae", "tokenizer", "text_encoder"])
def test_a_download_that_was_cut_short_is_completed(cache, saved_pipeline, part, monkeypatch):
    folder = cached(cache, saved_pipeline[0])
    shutil.rmtree(folder / part)
    with pytest.raises(
        ValueError, match=rf"as a whole \(it lacks {part}/.*network was not used.*download=True"
    ):
        zoo.load("sd-v1-4", device="cpu")
    with pytest.raises(ValueError, match="the download failed") as no:
        zoo.load("sd-v1-4", device="cpu", download=True)
    assert reached_for_the_network(no.value)

    def download(local_files_only=False, **asked):
        if not local_files_only:
            shutil.copytree(saved_pipeline[0] / part, folder / part)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert zoo.load("sd-v1-4", device="cpu", download=True).shape == (4, 8, 8)


def test_a_repository_without_safetensors_is_refused(cache, saved_pipeline, monkeypatch):
    folder = cached(cache, saved_pipeline[0])
    (folder / zoo.UNET).unlink()
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda **asked: str(folder))
    with pytest.raises(
        ValueError, match=r"the hub has no unet/diffusion.*wanted a StableDiffusionPipeline"
    ):
        zoo.load("sd-v1-4", device="cpu", download=True)


def test_all_that_a_pipeline_needs_is_asked_of_the_hub(saved_pipeline, tmp_path):
    folder, _ = saved_pipeline
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    for name in names:
        if any(fnmatch(name, pattern) for pattern in hub.HUB_FILES):
            (tmp_path / "sd" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, tmp_path / "sd" / name)
    assert zoo.load(tmp_path / "sd", device="cpu").shape == (4, 8, 8)
    assert not any(
        fnmatch("unet/diffusion_pytorch_model.bin", pattern) for pattern in hub.HUB_FILES
    )


def test_a_cached_model_loads_at_its_pinned_revision_and_shows_its_licence_once(
    cache, saved_pipeline, capsys
):
    alias, folder = zoo.ALIASES["sd-v1-4"], cached(cache, saved_pipeline[0])
    for name in ("sd-v1-4", alias.hub_id):
        bundle = zoo.load(name, device="cpu")
        assert bundle.folder == folder and bundle.shape == (4, 8, 8) and bundle.name == alias.hub_id
    assert capsys.readouterr().out.count("CreativeML OpenRAIL-M") == 1
    shutil.move(folder, folder.parent / ("0" * 40))
    with pytest.raises(ValueError, match="not in the cache"):  # another revision is another model
        zoo.load("sd-v1-4", device="cpu")


@pytest.mark.parametrize("name", zoo.names())
def test_bundled_models_are_as_their_cards_say(name):
    card = zoo.verify(zoo.ZOO / name)
    assert {"name", "title", "data", "licence", "command"} <= card.keys() and card["name"] == name
