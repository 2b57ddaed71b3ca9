"""The emoji recipe on tiny configurations: data, captions, tokenizer, losses, resuming, export,
measures."""

import io
import json
import math
import re
import tarfile
from functools import partial

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from ddim_tutorial import zoo
from ddim_tutorial.peers import from_scheduler, scheduler_times
from ddim_tutorial.sampling import sample as ddim_sample
from ddim_tutorial.training import emoji as recipe
from ddim_tutorial.training import evaluate_emoji as measures
from ddim_tutorial.training.loop import Settings, fit

TABLE = [
    ("1F34E", "red apple", 4),
    ("2764-FE0F", "Red Heart", 0),
    ("1F383", "jack-o-lantern", 6),
    ("1F468", "man", 1),
    ("1F6A7", "one style only", 5),
    ("1F9C0", "dropped", 4),
]


def picture(colour, size: int, form: str) -> bytes:
    """The left half is opaque, the right half transparent."""
    canvas = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    canvas.paste((*colour, 255), (0, 0, size // 2, size))
    stream = io.BytesIO()
    canvas.save(stream, form, lossless=True)
    return stream.getvalue()


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Four small npm packages: two as archives, two unpacked; the heart's file carries fe0f in one
    of them."""
    monkeypatch.setattr(recipe, "SMILEYS", "red heart")
    monkeypatch.setattr(recipe, "DROPPED", "dropped")
    monkeypatch.setattr(recipe, "ALIASES", {"red heart": ["heart"]})
    table = [
        {"hexcode": code, "label": label, "group": group, "tags": ["Tag"]}
        for code, label, group in TABLE
    ]
    files = {"emojibase-data-17.0.0": {"en/data.json": json.dumps(table).encode()}}
    for k, (stem, (_, pattern)) in enumerate(
        zip(
            (
                "emoji-datasource-google-16.0.0",
                "emoji-datasource-twitter-16.0.0",
                "lobehub-fluent-emoji-3d-1.1.0",
            ),
            recipe.PICTURES.values(),
            strict=True,
        )
    ):
        codes = ["1f34e", "2764-fe0f" if k == 0 else "2764", "1f383", "1f468", "1f9c0"] + [
            "1f6a7"
        ] * (k == 0)
        form, size = ("WebP", 128) if k == 2 else ("PNG", 64)
        files[stem] = {
            pattern.format(code): picture((40 * i, 100 + k, 7), size, form)
            for i, code in enumerate(codes)
        }
    for k, (stem, content) in enumerate(files.items()):
        content["package.json"] = json.dumps({"version": f"{k}.2.3"}).encode()
        if k < 2:
            with tarfile.open(tmp_path / f"{stem}.tgz", "w:gz") as tar:
                for path, data in content.items():
                    member = tarfile.TarInfo(f"package/{path}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        else:
            for path, data in content.items():
                target = tmp_path / stem / "package" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
    return tmp_path


def test_data_from_packages(packages, tmp_path):
    recipe.build_data(packages, tmp_path / "run" / "data.safetensors")
    data = recipe.read_data(tmp_path / "run" / "data.safetensors")
    assert data.names == ["jack-o-lantern", "red apple", "red heart"]
    assert data.images.shape == (9, 3, 64, 64) and data.tags[0] == ["tag"]
    for i, image in enumerate(data.images):
        name, k = data.names[data.objects[i]], int(data.styles[i])
        red = 40 * ["red apple", "red heart", "jack-o-lantern"].index(name)
        torch.testing.assert_close(
            image[:, 5, 5], torch.tensor([red, 100 + k, 7], dtype=torch.uint8)
        )
        torch.testing.assert_close(image[:, 5, -5], torch.full((3,), 255, dtype=torch.uint8))
    assert data.packages["emoji-datasource-twitter"]["version"] == "2.2.3"
    assert data.captions([4]) == ["twemoji emoji of red apple"]


def test_data_names_what_is_missing(packages, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "DROPPED", "dropped; no such label")
    with pytest.raises(ValueError, match="no such label"):
        recipe.build_data(packages, tmp_path / "data.safetensors")
    (packages / "emojibase-data-18.0.0").mkdir()
    with pytest.raises(
        ValueError, match=r"emojibase-data-17\.0\.0\.tgz, emojibase-data-18\.0\.0 are all emojibase"
    ):
        recipe.build_data(packages, tmp_path / "data.safetensors")
    (packages / "emojibase-data-18.0.0").rmdir()
    (packages / "emojibase-data-17.0.0.tgz").unlink()
    with pytest.raises(FileNotFoundError, match="npm pack emojibase-data"):
        recipe.build_data(packages, tmp_path / "data.safetensors")
    with pytest.raises(FileNotFoundError, match="data --packages"):
        recipe.read_data(tmp_path / "none.safetensors")
    recipe.save_file(
        {"images": torch.zeros(1)}, tmp_path / "other.safetensors", metadata={"labels": "[]"}
    )
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes()[:20])
    for name in ("other", "cut"):
        with pytest.raises(
            ValueError, match=rf"{name}\.safetensors: not this recipe's data, or damaged"
        ):
            recipe.read_data(tmp_path / f"{name}.safetensors")


def test_split_is_disjoint_and_of_the_promised_size():
    names = [f"thing {i}" for i in range(600)]
    objects, pairs = recipe.held_out(names)
    assert (
        len(objects) == 12 and len(pairs) == 90
    )  # 2 % of the objects; 15 % with one style of three: 5 % of pairs
    assert not objects & set(pairs) and objects | set(pairs) < set(names)
    assert set(pairs.values()) == {0, 1, 2}
    assert recipe.held_out(names[::-1]) == (objects, pairs)


def test_captions():
    said = recipe.captions("fluent", "videocassette", ["tape", "vhs"])
    assert said[0] == "fluent emoji of videocassette"
    for text in (
        "image of videocassette",
        "cassette",
        "image of cassette player",
        "fluent emoji of cassette",
        "videocassette, tape",
    ):
        assert text in said
    assert len(set(said)) == len(said)
    assert all(
        "videocassette" in text or any(a in text for a in recipe.ALIASES["videocassette"])
        for text in said
    )


def test_choice_of_captions():
    counts = torch.tensor([2, 5]).repeat(20_000)
    chosen = recipe.choose_captions(counts)
    assert (chosen < counts).all()
    shares = torch.bincount(chosen[1::2], minlength=5) / 20_000
    torch.testing.assert_close(
        shares, torch.tensor([0.8, 0.05, 0.05, 0.05, 0.05]), atol=0.015, rtol=0
    )


def small_data(count: int = 16) -> recipe.Emoji:
    """The third style of five objects held out, one object held out in all; pictures of noise."""
    names = [
        "red apple",
        "blue book",
        "t-rex",
        "piñata",
        "man's shoe",
        *(f"thing{i}" for i in range(count - 5)),
    ]
    objects, styles = torch.arange(count).repeat_interleave(3), torch.arange(3).repeat(count)
    split = torch.where(objects == 1, 2, torch.where((objects < 6) & (styles == 2), 1, 0))
    images = torch.randint(256, (3 * count, 3, 64, 64), dtype=torch.uint8)
    return recipe.Emoji(images, objects, styles, split, names, [["fruit"]] * count, {})


def test_tokenizer_round_trip(tmp_path):
    from transformers import CLIPTokenizer

    data = small_data()
    made = recipe.train_tokenizer(recipe.vocabulary_texts(data), tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    squeeze = str.maketrans("", "", " ")
    for text in [*data.captions(), "image of red apple", "Ein Über-東 🍎 zebra!"]:
        ids = tokenizer(text).input_ids
        assert ids == made(text).input_ids
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
        assert tokenizer.unk_token_id not in ids[1:-1]  # every byte has a token: nothing is unknown
        assert tokenizer.decode(ids, skip_special_tokens=True).translate(
            squeeze
        ) == text.lower().translate(squeeze)
    for name in ("red apple", "blue book", "piñata"):
        assert len(tokenizer(name).input_ids) == 2 + len(name.split())  # one token a word
    tokens = recipe.tokenise(tokenizer, ["noto emoji of red apple", ""])
    assert tokens.shape == (2, recipe.TOKENS) and (tokens[1, 1:] == tokenizer.eos_token_id).all()


def test_words_of_names_and_aliases_come_first_in_the_vocabulary(tmp_path):
    """64 merges: enough for the twelve of a rare alias, not for the tags, which have letter pairs
    in common."""
    tags = [
        [f"{a}{b}{c}" for a in ("lor", "mip", "dol")]
        for b in ("ab", "ec", "id", "of", "ug")
        for c in ("zor", "ent", "ilk")
    ]
    names = ["t-rex", *(f"thing{i}" for i in range(len(tags) - 1))]
    data = small_data()._replace(names=names, tags=tags)
    tokenizer = recipe.train_tokenizer(recipe.vocabulary_texts(data), tmp_path, 320)
    assert len(tokenizer("tyrannosaurus").input_ids) == 3
    assert len(tokenizer("loridzor").input_ids) > 3


def test_caption_table():
    data = small_data()
    rows = torch.tensor([0, 4])
    tokens, counts = recipe.caption_table(
        data, rows, lambda texts: torch.tensor([[len(t), ord(t[0])] for t in texts])
    )
    for row, table, count in zip(rows, tokens, counts, strict=True):
        said = recipe.captions(recipe.STYLES[row % 3], data.names[row // 3], ["fruit"])
        assert count == len(said)
        torch.testing.assert_close(table[:count], torch.tensor([[len(t), ord(t[0])] for t in said]))


def tiny_corpus(count: int = 6, tokens: int = 8) -> recipe.Corpus:
    return recipe.Corpus(
        torch.randn(count, 4, 8, 8),
        torch.full((count, 4, 8, 8), 0.1),
        torch.randint(2, 50, (count, 3, tokens)),
        torch.full((count,), 3),
        torch.ones(tokens, dtype=torch.long),
    )


class Oracle(nn.Module):
    """For data that is 0 everywhere the noise is x_t / sqrt(1 - alpha_bar), diffusers' own
    alpha_bar at its own timestep; ``wrong`` adds an error of that size."""

    def __init__(self, wrong: float = 0.0):
        super().__init__()
        self.wrong, self.seen = nn.Parameter(torch.tensor(wrong)), []

    def forward(self, x_t, timestep, tokens):
        self.seen.append((timestep, tokens))
        ab = recipe.new_scheduler().alphas_cumprod[timestep].view(-1, 1, 1, 1)
        return x_t / (1 - ab).sqrt() + self.wrong


def test_diffusion_loss_against_the_exact_noise():
    corpus = tiny_corpus()
    zero = corpus._replace(mean=torch.zeros_like(corpus.mean), std=torch.zeros_like(corpus.std))
    loss, _ = recipe.diffusion_loss(Oracle(), zero, 256)
    assert loss < 1e-6
    oracle = Oracle(wrong=0.5)
    loss, figures = recipe.diffusion_loss(oracle, zero, 1000)
    timestep, tokens = oracle.seen[0]
    for limit in (
        100,
        300,
        600,
        900,
    ):  # density t^(2/3), so (t/T)^(5/3) of the times up to t; stratified
        assert (timestep < limit).sum().item() == pytest.approx(
            1000 * (limit / 1000) ** (5 / 3), abs=2
        )
    assert timestep.min() >= 0 and timestep.max() == 999
    ab = recipe.new_scheduler().alphas_cumprod[timestep]
    snr = ab / (1 - ab)
    weight = (torch.minimum(snr, torch.tensor(5.0)) + 1) / snr
    torch.testing.assert_close(loss, 0.25 * weight.mean(), rtol=1e-4, atol=0)
    for figure in figures.values():
        torch.testing.assert_close(figure, torch.tensor(0.25), rtol=1e-3, atol=0)
    empty = (tokens == 1).all(1).double().mean().item()
    assert 0.06 < empty < 0.14  # 10 % of 1000, four standard deviations


def test_shifted_pictures():
    images = torch.full((64, 3, 20, 20), 255, dtype=torch.uint8)
    images[:, :, 8, 6] = 0
    moved = recipe.shifted(images)
    assert moved.dtype == torch.uint8 and moved.shape == images.shape
    where = (moved[:, 0] == 0).nonzero()
    assert len(where) == 64 and (moved == 0).sum() == 3 * 64
    assert set(where[:, 1].tolist()) == set(range(4, 13))
    assert set(where[:, 2].tolist()) <= set(range(2, 11)) | set(range(9, 18))
    assert min(where[:, 2]) < 5 and max(where[:, 2]) > 14


def test_psnr():
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    others = torch.stack([images[0] + 255, images[0] + 51])
    torch.testing.assert_close(
        recipe.psnr(images, others), torch.tensor([0.0, 20 * math.log10(5)]).double()
    )


def tiny_vae():
    torch.manual_seed(0)
    return recipe.new_vae((16, 16, 16)).eval()


def test_centre_moves_the_latents_and_keeps_the_pictures():
    vae, images = tiny_vae(), torch.randint(256, (8, 3, 64, 64), dtype=torch.uint8)
    x = recipe.from_uint8(images)
    with torch.no_grad():
        before = vae(x).sample
        recipe.centre(vae, images)
        torch.testing.assert_close(vae(x).sample, before, atol=1e-5, rtol=1e-4)
    mean, _ = recipe.encode(vae, images)
    torch.testing.assert_close(mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        mean.std() * vae.config.scaling_factor, torch.tensor(1.0), atol=1e-3, rtol=0
    )


def tiny_denoiser() -> recipe.Denoiser:
    torch.manual_seed(0)
    model = recipe.Denoiser(recipe.new_unet((32, 32, 32), 32), recipe.new_text_encoder(60, 32, 1))
    return model.to(memory_format=torch.channels_last)


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    corpus, settings = tiny_corpus(), Settings(steps=4, lr=1e-3, warmup=1, save_minutes=0.0)

    def run(folder, on_save=None):
        def loss_fn(net):
            return recipe.diffusion_loss(net, corpus, 4)

        model = tiny_denoiser()
        return fit(
            model, loss_fn, folder, settings, on_save=on_save, matrices=recipe.matrices(model)
        )

    def kill(model, step):
        if step == 2:
            raise Killed

    run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", on_save=kill)
    run(tmp_path / "killed")
    whole, killed = (
        load_file(tmp_path / name / "state.safetensors") for name in ("whole", "killed")
    )
    assert whole.keys() == killed.keys()
    assert any(key.startswith("model.text_encoder") for key in whole)
    assert any(key.startswith("muon.") for key in whole) and any(
        key.startswith("optimizer.") for key in whole
    )
    for key in whole:
        torch.testing.assert_close(killed[key], whole[key], rtol=0, atol=0, msg=key)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run of one step of a tiny model, exported: (run folder, exported folder, data)."""
    folder = tmp_path_factory.mktemp("emoji")
    run, out = folder / "run", folder / "zoo"
    torch.manual_seed(0)
    data = small_data()
    tensors = {key: getattr(data, key) for key in ("images", "objects", "styles", "split")}
    run.mkdir()
    recipe.save_file(
        tensors,
        run / "data.safetensors",
        metadata={key: json.dumps(getattr(data, key)) for key in ("names", "tags", "packages")},
    )
    tiny_vae().save_pretrained(run / "vae")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            recipe, "new_text_encoder", partial(recipe.new_text_encoder, width=32, layers=1)
        )
        patch.setattr(recipe, "new_unet", partial(recipe.new_unet, (32, 32, 32), 32))
        patch.setattr(recipe, "LOOK", ("noto emoji of red apple",))
        recipe.main(["--run", str(run), "diffusion", "--steps", "1", "--batch", "4"])
    state = load_file(run / "diffusion" / "state.safetensors")
    moved = {
        key: value + 0.01 if key.startswith("ema.module.unet") else value
        for key, value in state.items()
    }
    # after one step weights and average are equal; and the log of a running training is ahead of
    # its checkpoint
    recipe.save_file(moved, run / "diffusion" / "state.safetensors", metadata={"step": "1"})
    with (run / "diffusion" / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 2, "seconds": 9.0, "loss": 0.5}) + "\n")
    recipe.main(["--run", str(run), "export", "--folder", str(out)])
    return run, out, data


def test_exported_pipeline_loads_offline_and_matches_our_sampler(exported):
    from diffusers import StableDiffusionPipeline

    _, out, _ = exported
    pipe = StableDiffusionPipeline.from_pretrained(out, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
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
    theirs = pipe(
        prompts, num_inference_steps=2, guidance_scale=1.0, latents=x_T, output_type="latent"
    ).images
    hidden = pipe.text_encoder(recipe.tokenise(pipe.tokenizer, prompts))[0]

    def model(x_t, t):
        return pipe.unet(x_t, t - 1, hidden).sample

    with torch.no_grad():
        ours = ddim_sample(
            model, x_T, scheduler_times(pipe.scheduler, 2), from_scheduler(pipe.scheduler)
        )
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert pipe(prompts, num_inference_steps=2, output_type="np").images.shape == (2, 64, 64, 3)


def test_export_has_averaged_weights_examples_and_card(exported):
    run, out, data = exported
    card = zoo.verify(out)
    assert card["training"]["diffusion"]["steps"] == 1 and card["parameters"]["unet"] > 0
    assert "history" not in card and card["quality"] == {}
    for config in ("vae/config.json", "unet/config.json", "tokenizer/tokenizer_config.json"):
        assert (
            not {"_name_or_path", "is_local", "local_files_only"}
            & json.loads((out / config).read_text()).keys()
        )
    weights = load_file(out / "unet" / "diffusion_pytorch_model.safetensors")
    state = load_file(run / "diffusion" / "state.safetensors")
    for name, value in weights.items():
        torch.testing.assert_close(value, state[f"ema.module.unet.{name}"].half(), rtol=0, atol=0)
    examples = load_file(out / "examples.safetensors")
    torch.testing.assert_close(examples["images"], data.images[data.split > 0])
    torch.testing.assert_close(examples["labels"], data.objects[data.split > 0])
    assert zoo.load(out, device="cpu").captions == data.captions(
        (data.split > 0).nonzero()[:, 0].tolist()
    )


def test_a_fresh_run_starts_from_exported_weights(exported, tmp_path):
    run, out, data = exported
    (tmp_path / "data.safetensors").write_bytes((run / "data.safetensors").read_bytes())
    _, tokenizer, _, unet = recipe.prepare(data, tmp_path, out)
    weights = load_file(out / "unet" / "diffusion_pytorch_model.safetensors")
    for name, value in unet.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, weights[name].float(), rtol=0, atol=0)
    assert (
        tokenizer("red apple").input_ids
        == recipe.components(run, "tokenizer")[0]("red apple").input_ids
    )
    assert recipe.progress(tmp_path)["diffusion"]["steps"] == 1
    assert (tmp_path / "vae" / "config.json").exists()
    recipe.prepare(data, tmp_path, out)  # going on with the same command
    with pytest.raises(ValueError, match=r"the run has .*vae of its own, which would be lost"):
        recipe.prepare(data, run, out)
    with pytest.raises(
        FileNotFoundError, match="vae is not there, wanted the folder of a pipeline"
    ):
        recipe.prepare(data, tmp_path / "new", tmp_path / "nowhere")


def test_progress_counts_the_checkpoint_and_not_the_log(tmp_path):
    """A run that was killed between two lines of the log, after one that was logged."""
    (tmp_path / "diffusion").mkdir()
    for name, steps in (
        ("autoencoder", 7),
        ("diffusion", 66),
    ):  # the first has a checkpoint before the first line
        (tmp_path / name).mkdir(exist_ok=True)
        recipe.save_file(
            {"x": torch.zeros(1)},
            tmp_path / name / "state.safetensors",
            metadata={"step": str(steps), "seconds": "7200"},
        )
        lines = [
            {"step": step, "lr": 1.0, "seconds": 60.0 * step, "loss": 1 / step}
            for step in (50, 100)
        ]
        (tmp_path / name / "log.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines)
        )
    (tmp_path / "diffusion" / "init.json").write_text(
        json.dumps({"diffusion": {"steps": 100, "hours": 0.5}})
    )
    assert recipe.progress(tmp_path) == {
        "autoencoder": {"steps": 7, "hours": 2.0},
        "diffusion": {"steps": 166, "hours": 2.5, "loss": 0.02},
    }


@pytest.mark.parametrize(
    "arguments", [["--steps", "0"], ["--batch", "0"], ["--decay-from", "2"], ["--warmup", "-1"]]
)
def test_impossible_settings_are_refused(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit):
        recipe.main(["--run", str(tmp_path), "diffusion", *arguments])
    assert "wanted" in capsys.readouterr().err


def test_only_training_pictures_are_trained_on(exported):
    run, _, data = exported
    vae, tokenizer = recipe.components(run, "vae", "tokenizer")
    corpus, rows = recipe.corpus(data, vae, tokenizer), (data.split == 0).nonzero()[:, 0]
    mean, std = recipe.encode(vae, data.images[rows])
    torch.testing.assert_close(corpus.mean, vae.config.scaling_factor * mean)
    torch.testing.assert_close(corpus.std, vae.config.scaling_factor * std)
    names = recipe.tokenise(tokenizer, [data.names[data.objects[row]] for row in rows])
    for name, tokens, count in zip(names, corpus.tokens, corpus.counts, strict=True):
        assert (tokens[:count] == name).all(1).any()  # the bare name is one of its captions
    assert tokenizer.decode(corpus.empty, skip_special_tokens=True) == ""


def test_the_autoencoder_learns_from_training_pictures_alone(tmp_path, monkeypatch):
    """Training pictures are grey, the others random: the trained one has their latents centred, and
    has moved."""
    data = small_data()
    grey = torch.where((data.split == 0).view(-1, 1, 1, 1), data.images // 4 + 96, data.images)
    monkeypatch.setattr(recipe, "read_data", lambda path: data._replace(images=grey))
    first = tiny_vae()
    monkeypatch.setattr(recipe, "new_vae", partial(recipe.new_vae, (16, 16, 16)))
    seen = []
    loss = recipe.autoencoder_loss
    monkeypatch.setattr(
        recipe,
        "autoencoder_loss",
        lambda net, images, batch: (seen.append(images), loss(net, images, batch))[1],
    )
    recipe.main(["--run", str(tmp_path), "autoencoder", "--steps", "3", "--batch", "4"])
    assert all(torch.equal(images, grey[data.split == 0]) for images in seen) and len(seen) == 3
    (vae,) = recipe.components(tmp_path, "vae")
    mean, _ = recipe.encode(vae, grey[data.split == 0])
    torch.testing.assert_close(mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        mean.std() * vae.config.scaling_factor, torch.tensor(1.0), atol=1e-2, rtol=0
    )
    pairs = zip(vae.encoder.parameters(), first.encoder.parameters(), strict=True)
    assert max((a - b).abs().max() for a, b in pairs) > 1e-5


class Fixed(nn.Module):
    """An autoencoder with a known reconstruction x + error, mean and log variance."""

    def __init__(self, error: float):
        super().__init__()
        self.error = nn.Parameter(torch.tensor(error))

    def forward(self, x):
        return x + self.error, torch.full((1, 4), 2.0), torch.full((1, 4), math.log(3.0))


def test_autoencoder_loss_of_a_known_error():
    """A constant error e: |e| + e^2, nothing in the Laplacian, and the KL divergence of N(2, 3) to
    N(0, 1)."""
    images = torch.randint(256, (5, 3, 16, 16), dtype=torch.uint8)
    loss, figures = recipe.autoencoder_loss(Fixed(0.5), images, 8)
    kl = 0.5 * (4 + 3 - 1 - math.log(3))
    seen = [loss.item(), figures["mse"].item(), figures["kl"].item()]
    assert seen == pytest.approx([0.5 + 0.25 + 1e-3 * kl, 0.25, kl], rel=1e-4)


def test_samples_do_not_depend_on_the_batch_and_are_the_pipelines_own(exported):
    from diffusers import StableDiffusionPipeline

    _, out, _ = exported
    pipe = StableDiffusionPipeline.from_pretrained(out, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    prompts = ["noto emoji of red apple", "image of blue book", "t-rex"]
    one, two = (
        recipe.sample(pipe, prompts, steps=3, scale=5.0, seed=4, batch=batch) for batch in (1, 2)
    )
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
    for i, prompt in enumerate(prompts):
        wanted = pipe(
            prompt,
            num_inference_steps=3,
            guidance_scale=5.0,
            output_type="latent",
            generator=torch.Generator().manual_seed(4 * 1_000_003 + i),
        ).images
        torch.testing.assert_close(
            one[i : i + 1], wanted / pipe.vae.config.scaling_factor, atol=1e-4, rtol=1e-4
        )


def test_the_text_reaches_every_residual_block(exported):
    """The pooled text is part of the time embedding: without any attention the noise still depends
    on the prompt."""
    _, out, _ = exported
    (unet,) = recipe.components(out, "unet")
    outputs = [
        module for name, module in unet.named_modules() if re.search(r"attn2\.to_out\.0$", name)
    ]
    assert len(outputs) >= 5  # of two blocks down, the middle and two up
    for module in outputs:
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
    x_t = torch.randn(1, 4, 16, 16)
    with torch.no_grad():
        one, other = (unet(x_t, 500, torch.randn(1, 5, 32)).sample for _ in range(2))
    assert (one - other).abs().max() > 1e-3


BANK = torch.eye(12).view(12, 3, 4)  # twelve training pictures: four objects in three styles
OBJECTS, KINDS = torch.arange(4).repeat_interleave(3), torch.arange(3).repeat(4)


def test_retrieval_on_planted_samples():
    samples = BANK[[0, 4, 8]] + 0.01
    truth = (torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2]))
    perfect = {"top-1": 1.0, "top-5": 1.0, "style": 1.0}
    assert measures.retrieval(samples, *truth, BANK, OBJECTS, KINDS) == perfect
    one_wrong = measures.retrieval(
        samples, torch.tensor([0, 1, 3]), torch.tensor([0, 2, 2]), BANK, OBJECTS, KINDS
    )
    assert one_wrong["top-1"] == one_wrong["style"] == pytest.approx(2 / 3)
    # a blend: nearest is object 0, then object 1 in all its styles, then object 2 once
    blend = (BANK[0] + 0.5 * BANK[3] + 0.4 * BANK[4] + 0.3 * BANK[5] + 0.2 * BANK[6])[None]
    for k, (top_1, top_5) in enumerate([(1, 1), (0, 1), (0, 1), (0, 0)]):
        got = measures.retrieval(blend, torch.tensor([k]), torch.tensor([0]), BANK, OBJECTS, KINDS)
        assert (got["top-1"], got["top-5"]) == (top_1, top_5)


def test_other_styles_leaves_out_the_style_asked_for():
    styles = torch.arange(12) % 3
    # 0.9 of a picture of object 0 in style 0 and a trace of it in style 1, behind five others in
    # styles 1 and 2
    near = 0.9 * BANK[0] + sum(0.3 * BANK[i] for i in (4, 5, 7, 8, 10)) + 0.1 * BANK[1]
    asked = (torch.tensor([0]), torch.tensor([0]))
    assert measures.other_styles(near[None], *asked, BANK, OBJECTS, styles) == 0
    assert measures.other_styles(near[None] + 0.5 * BANK[1], *asked, BANK, OBJECTS, styles) == 1


def test_distances_and_derangement():
    torch.testing.assert_close(
        measures.distances(BANK[:2], BANK[:3]),
        (torch.tensor([[0, 2, 2], [2, 0, 2]]).double() / 12).sqrt(),
    )
    for count in (2, 3, 50):
        order = measures.derangement(count, torch.Generator().manual_seed(count))
        assert sorted(order.tolist()) == list(range(count)) and (order != torch.arange(count)).all()


def test_evaluation_writes_its_figures_into_the_card(exported, monkeypatch):
    run, out, data = exported
    asked = []
    monkeypatch.setattr(recipe, "ALIASES", {"red apple": ["apple"], "blue book": ["book"]})
    monkeypatch.setattr(measures, "ALIASES", {"red apple": ["apple"], "blue book": ["book"]})

    def sample(pipe, prompts, *, steps, scale, seed=0):
        asked.append((len(prompts), steps, scale, seed))
        return planted(pipe, data, prompts)

    monkeypatch.setattr(measures, "sample", sample)
    titles = []
    monkeypatch.setattr(
        measures,
        "save_grid",
        lambda path, images, said, columns: (
            titles.extend(said),
            recipe.save_grid(path, images, said, columns),
        ),
    )
    quality = measures.emoji(out, run / "data.safetensors", count=20, table_count=10)
    card = zoo.verify(out)
    assert card["quality"] == quality and (out / "samples.png").stat().st_size > 10_000
    assert card["measured"]["precision"] in ("bf16", "float32")
    assert "20 trained prompts, 50 steps, guidance 4, picture i from seed i" in card["samples"]
    got = quality["20 trained prompts, 50 steps"]
    assert got["guidance 4"] == {
        "top-1": 1,
        "top-5": 1,
        "style": 1,
    }  # the samples are the pictures asked for
    assert got["guidance 4, prompts shuffled"]["top-1"] < 0.3
    far = quality["latent distance to the nearest training picture, root mean square"]
    assert far["samples, trained prompts"]["median"] < 1e-3 < far["held-out pictures"]["median"]
    (same,) = (
        value for key, value in quality.items() if key.startswith("share of the trained prompts")
    )
    assert same == 1
    # held-out pairs: planted are the held-out pictures themselves, so both rows say the same
    pairs = quality["5 held-out (style, object) pairs, guidance 4"]
    assert pairs["top-5 of the other styles"] == pairs["the held-out pictures themselves"]
    assert quality[
        "prompts without a style, guidance 4"
    ] == {  # "book" is of an object that was held out
        kind: {"top-1": 1, "top-5": 1}
        for kind in ("20 of 'image of NAME'", "1 of 'image of ALIAS'", "1 of 'ALIAS'")
    }
    assert quality["3 prompts for objects it never saw, among all pictures, theirs as well"] == {
        "top-1": 1,
        "top-5": 1,
        "style": 1,
    }
    # which runs: three scales, the pairs, three kinds without style, the unseen, then the table
    # less what was drawn
    table = [
        (10, steps, scale, 0) for steps in (5, 10, 20, 50, 100) for scale in (1.0, 2.0, 4.0, 7.5)
    ]
    assert asked == [
        (20, 50, 1.0, 0),
        (20, 50, 4.0, 0),
        (20, 50, 7.5, 0),
        (5, 50, 4.0, 1),
        (20, 50, 4.0, 2),
        (1, 50, 4.0, 2),
        (1, 50, 4.0, 2),
        (3, 50, 4.0, 3),
    ] + [run for run in table if run[1] != 50 or run[2] == 2.0]
    assert titles == measured_prompts(data, 20)
    other = run.parent / "other.safetensors"
    other.write_bytes((run / "data.safetensors").read_bytes())
    monkeypatch.setattr(measures, "read_data", lambda path: data._replace(split=data.split.roll(3)))
    with pytest.raises(ValueError, match="its held-out pictures are not those of"):
        measures.emoji(out, other)


def measured_prompts(data: recipe.Emoji, count: int) -> list[str]:
    """The prompts of the evaluation, chosen as its docstring says: seeded, among the training
    pictures."""
    train = (data.split == 0).nonzero()[:, 0]
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:count]
    return data.captions(train[order].tolist())


def planted(pipe, data: recipe.Emoji, prompts: list[str]) -> torch.Tensor:
    """The latent means of the very pictures that the prompts name, or of the object's first
    training picture."""
    captions, rows = data.captions(), []
    for prompt in prompts:
        name = (
            prompt.removeprefix("image of ").replace("apple", "red apple").replace("red red", "red")
        )
        rows.append(
            captions.index(prompt)
            if prompt in captions
            else next(
                i
                for i, text in enumerate(captions)
                if text.endswith(f" of {name}") and data.split[i] == 0
            )
        )
    return recipe.encode(pipe.vae, data.images)[0][rows]
