"""Samples, and what is exported: weights, examples, card."""

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from ddim_tutorial import zoo
from ddim_tutorial.peers import from_scheduler, scheduler_times
from ddim_tutorial.sampling import sample as ddim_sample
from ddim_tutorial.training import emoji
from ddim_tutorial.training.emoji import export as recipe
from ddim_tutorial.training.emoji.captions import tokenise
from ddim_tutorial.training.emoji.judge import read_judge
from ddim_tutorial.training.emoji.pictures import sample


@pytest.fixture
def pipe(exported):
    _, out, _ = exported
    pipe = StableDiffusionPipeline.from_pretrained(out, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_exported_pipeline_loads_offline_and_matches_our_sampler(pipe):
    promised = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": "epsilon",
    }
    assert promised.items() <= dict(pipe.scheduler.config).items()
    x_T = torch.randn(2, 4, 16, 16)
    prompts = ["noto emoji of red apple", "image of piñata"]
    options = {"num_inference_steps": 2, "guidance_scale": 1.0, "latents": x_T}
    theirs = pipe(prompts, **options, output_type="latent").images
    hidden = pipe.text_encoder(tokenise(pipe.tokenizer, prompts))[0]

    def model(x_t, t):
        return pipe.unet(x_t, t - 1, hidden).sample

    grid = scheduler_times(pipe.scheduler, 2)
    with torch.no_grad():
        ours = ddim_sample(model, x_T, grid, from_scheduler(pipe.scheduler))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert pipe(prompts, num_inference_steps=2, output_type="np").images.shape == (2, 64, 64, 3)


def test_export_has_averaged_weights_and_examples(exported):
    run, out, data = exported
    weights = load_file(out / "unet" / "diffusion_pytorch_model.safetensors")
    state = load_file(run / "diffusion" / "state.safetensors")
    for name, value in weights.items():
        torch.testing.assert_close(value, state[f"ema.module.unet.{name}"].half(), rtol=0, atol=0)
    examples = load_file(out / "examples.safetensors")
    torch.testing.assert_close(examples["images"], data.images[data.split > 0])
    torch.testing.assert_close(examples["labels"], data.objects[data.split > 0])
    captions = data.captions((data.split > 0).nonzero()[:, 0].tolist())
    assert zoo.load(out, device="cpu").captions == captions
    for config in ("vae/config.json", "unet/config.json", "tokenizer/tokenizer_config.json"):
        traces = {"_name_or_path", "is_local", "local_files_only"}
        assert not traces & json.loads((out / config).read_text()).keys()


def test_the_judge_is_exported_with_the_names_of_its_objects(exported):
    run, out, data = exported
    bundle = zoo.load(out, device="cpu")
    judge = read_judge(run / "judge.safetensors", data.names)
    x = torch.randn(3, 3, 64, 64).clamp(-1, 1)
    torch.testing.assert_close(bundle.classifier(x), judge(x), atol=0.02, rtol=0.02)  # in fp16
    assert bundle.names == data.names and bundle.classifier is bundle.classifier
    assert bundle.classifier(x).shape[1] == len(bundle.names) + len(bundle.card["data"]["styles"])


def test_the_card_says_what_the_model_is_and_how_it_was_made(exported):
    run, out, data = exported
    card = zoo.verify(out)
    assert card["training"]["diffusion"]["steps"] == 1
    assert "history" not in card and card["quality"] == {}
    assert card["data"]["styles"] == ["noto", "twemoji", "fluent", "blob"]
    assert card["data"]["training pictures"] == (data.split == 0).sum()
    assert card["data"]["packages"] == data.packages
    assert "four styles" in card["weaknesses"][0]
    for part in ("blobs of 2017 Apache-2.0", "Twemoji CC BY 4.0", "Fluent Emoji MIT"):
        assert part in card["licence"]
    for part in ("unet", "text_encoder", "vae"):
        file = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        weights = load_file(out / part / f"{file}.safetensors")
        assert card["parameters"][part] == sum(value.numel() for value in weights.values())
    lines = [line.strip() for line in emoji.__doc__.splitlines()]
    assert card["command"] == [
        line.split("#")[0].strip() for line in lines if line.startswith("python -m")
    ]
    (run / "history.txt").write_text("by hand\n")
    assert recipe.describe(data, recipe.trained(run), run)["history"] == "by hand"
    (run / "history.txt").unlink()


def test_progress_counts_the_checkpoint_and_not_the_log(tmp_path):
    """A run that was killed between two lines of the log, after one that was logged; the other
    training has a checkpoint before its first line."""
    (tmp_path / "diffusion").mkdir()
    for name, steps in (("autoencoder", 7), ("diffusion", 66)):
        (tmp_path / name).mkdir(exist_ok=True)
        metadata = {"step": str(steps), "seconds": "7200"}
        save_file({"x": torch.zeros(1)}, tmp_path / name / "state.safetensors", metadata=metadata)
        lines = [
            {"step": step, "lr": 1.0, "seconds": 60.0 * step, "loss": 1 / step}
            for step in (50, 100)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / name / "log.jsonl").write_text(text)
    before = {"diffusion": {"steps": 100, "hours": 0.5}}
    (tmp_path / "diffusion" / "init.json").write_text(json.dumps(before))
    assert recipe.progress(tmp_path) == {
        "autoencoder": {"steps": 7, "hours": 2.0},
        "diffusion": {"steps": 166, "hours": 2.5, "loss": 0.02},
    }


def test_a_run_without_a_checkpoint_is_named(exported, tmp_path):
    run, _, _ = exported
    for name in ("vae", "tokenizer"):
        (tmp_path / name).symlink_to(run / name)
    with pytest.raises(FileNotFoundError, match="start the diffusion training and wait"):
        recipe.trained(tmp_path)


def test_samples_do_not_depend_on_the_batch_and_are_the_pipelines_own(pipe):
    prompts = ["noto emoji of red apple", "image of blue book", "t-rex"]
    one, two = (sample(pipe, prompts, steps=3, scale=5.0, seed=4, batch=batch) for batch in (1, 2))
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
    for i, prompt in enumerate(prompts):
        theirs = pipe(
            prompt,
            num_inference_steps=3,
            guidance_scale=5.0,
            output_type="latent",
            generator=torch.Generator().manual_seed(4 * 1_000_003 + i),
        ).images
        scaled = theirs / pipe.vae.config.scaling_factor
        torch.testing.assert_close(one[i : i + 1], scaled, atol=1e-4, rtol=1e-4)


def test_samples_in_bf16_are_near_those_in_float32(pipe):
    prompts = ["noto emoji of red apple", "t-rex"]
    plain, half = (sample(pipe, prompts, steps=3, precision=name) for name in ("no", "bf16"))
    assert plain.dtype == half.dtype == torch.float32
    assert 0 < (half - plain).norm() / plain.norm() < 0.1  # bf16 has 8 bits; guidance multiplies
