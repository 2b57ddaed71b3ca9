"""How much x_T decides: every measure on samples whose answer is known."""

import math
from types import SimpleNamespace

import pytest
import torch

from ddim_tutorial.training.emoji import dependence as recipe
from ddim_tutorial.training.emoji.family import members
from ddim_tutorial.training.emoji.pictures import sample, starts
from ddim_tutorial.training.emoji.subject import Subject
from parts import WORDS, tiny_pipeline
from training.emoji.planted import Known, Pooling


@pytest.fixture
def subject(small_data) -> Subject:
    pipe = SimpleNamespace(vae=Pooling())
    return Subject(pipe, small_data, Known(8), torch.zeros(1, 4, 16, 16))


def test_rms():
    one = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    assert recipe.rms(one, torch.zeros(2, 2)) == pytest.approx(math.sqrt(10 / 4))


def test_seeds_that_are_members_of_the_family_have_ratio_one(subject):
    """Every other picture is nearly white: prompts lie further apart than members."""
    rows, images = torch.arange(30), subject.data.images.clone()
    images[1::2] = images[1::2].clamp(min=235)
    subject = subject._replace(data=subject.data._replace(images=images))
    pairs = [members(subject.data.images[i], 2, seed=77 + i)[0] for i in rows.tolist()]
    one, other = (subject.encode(torch.stack([pair[k] for pair in pairs])) for k in (0, 1))
    found = recipe.seeds(subject, rows, one, other)
    assert found["over rms between two members of the family"] == pytest.approx(1, abs=0.2)
    still = recipe.seeds(subject, rows, one, one)
    assert still["rms between two seeds"] == still["over rms between two prompts"] == 0
    moved = recipe.seeds(subject, rows, one, one.roll(1, 0))
    assert moved["over rms between two prompts"] == pytest.approx(1)
    half = recipe.seeds(subject, rows, one, (one + other) / 2)
    half_ratio = half["rms between two seeds"] / found["rms between two seeds"]
    assert half_ratio == pytest.approx(0.5)


def test_likeness():
    truth = torch.randn(4, 4, 16, 16)
    double = recipe.likeness(2 * truth, truth)
    std = 2 * truth.std().item()
    assert list(double.values()) == pytest.approx([1, 1, std], rel=1e-5)
    noise = torch.randn_like(truth)
    mixed = recipe.likeness(0.6 * truth + 0.8 * noise, truth)
    assert list(mixed.values()) == pytest.approx([0.6, math.sqrt(0.8), 1], abs=0.03)


def rectangles(height: int, width: int, angle: float, right: float, down: float) -> torch.Tensor:
    """A rectangle whose long side is turned counter-clockwise by ``angle`` degrees."""
    x, y = torch.meshgrid(torch.arange(64.0) - 31.5, torch.arange(64.0) - 31.5, indexing="xy")
    x, y, turn = x - right, -(y - down), math.radians(angle)
    along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    inside = (along.abs() < width / 2) & (across.abs() < height / 2)
    return torch.where(inside, 0, 255).byte().expand(1, 3, 64, 64)


@pytest.mark.parametrize("angle", [0, 30, 45, 90, 150])
def test_the_pose_of_planted_rectangles(angle):
    """The second moments of a rectangle a x b are a^2 / 12 and b^2 / 12."""
    (found,) = recipe.poses(rectangles(12, 30, angle, right=4, down=-6))
    elongation = (30**2 - 12**2) / (30**2 + 12**2)
    turn = math.radians(2 * angle)
    wanted = [4, -6, math.sqrt(360), elongation * math.cos(turn), elongation * math.sin(turn)]
    assert found.tolist() == pytest.approx(wanted, abs=0.15, rel=0.01)


def test_a_white_picture_has_a_pose_without_numbers_that_are_none():
    assert recipe.poses(torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)).isfinite().all()


def test_the_variance_of_the_pose_is_taken_within_a_prompt():
    """Prompts that lie far apart do not count; samples that move half as far have a quarter."""
    wanted = torch.randn(50, 8, 5) + 100 * torch.randn(50, 1, 5)
    centre = wanted.mean(1, keepdim=True)
    found = recipe.pose_variance(centre + (wanted - centre) / 2, wanted)
    assert list(found) == list(recipe.POSE)
    for figures in found.values():
        assert figures["ratio"] == pytest.approx(0.25, rel=1e-3)
        assert figures["members"] == pytest.approx(1, abs=0.25)


def test_a_model_that_draws_the_family_has_its_spread(subject):
    class Faithful(Subject):
        def draw(self, prompts, steps=50, scale=4.0, seed=0):
            asked.extend(prompts)
            rows = [captions.index(prompt) for prompt in prompts[::8]]
            images = [members(self.data.images[i], 8, seed=99 + i)[0] for i in rows]
            return self.encode(torch.cat(images))

    asked, captions = [], subject.data.captions()
    found = recipe.pose_spread(Faithful(*subject), torch.arange(0, 31), 4.0, 3)
    for name in ("right", "down", "size"):
        assert found[name]["ratio"] == pytest.approx(1, abs=0.35)
    assert asked == [text for text in captions for _ in range(8)]


@pytest.fixture(scope="module")
def random_pipeline(tmp_path_factory):
    return tiny_pipeline(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_exact_inversion_reads_x_T_back_where_naive_inversion_errs(random_pipeline, scale):
    """From the latent, with the prompt known."""
    what = Subject(random_pipeline, None, None, torch.zeros(1, 4, 8, 8))
    latents = sample(random_pipeline, WORDS[:2], steps=10, scale=scale)
    found = recipe.recovery(what, WORDS[:2], latents, scale, 10)
    exact = found["prompt known, from the latent, exact"]
    naive = found["prompt known, from the latent, naive"]
    assert exact["correlation"] > 0.9999 and exact["relative error"] < 0.01
    assert exact["largest residual"] < 2e-4
    assert naive["relative error"] > 3 * exact["relative error"]
    blind = found["empty prompt, from the decoded and encoded picture, exact"]
    assert blind["correlation"] < exact["correlation"]


def test_who_has_the_pictures_alone_uses_no_prompt(random_pipeline):
    what = Subject(random_pipeline, None, None, torch.zeros(1, 4, 8, 8))
    latents = sample(random_pipeline, WORDS[:2], steps=4, scale=2.0)
    seen = what.encode(what.decode(latents))
    naive = recipe.METHODS["naive"]
    alone, _ = recipe.read_back(what, None, latents, 2.0, 4, naive)
    spelt, _ = recipe.read_back(what, ["", ""], seen, 1.0, 4, naive)
    torch.testing.assert_close(alone, spelt)


def test_starts_are_the_samples_own_noise(random_pipeline):
    x_T = starts((4, 8, 8), 0, 2, seed=3)
    drawn = sample(random_pipeline, WORDS[:2], steps=2, scale=1.0, seed=3)
    options = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "latent"}
    theirs = random_pipeline(WORDS[:2], latents=x_T, **options).images
    torch.testing.assert_close(drawn * random_pipeline.vae.config.scaling_factor, theirs)
    torch.testing.assert_close(starts((4, 8, 8), 1, 1, seed=3), x_T[1:])


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_precision_is_that_of_the_network(precision):
    def model(x_t, t):
        assert torch.is_autocast_enabled("cpu") == (precision == "bf16")
        return (x_t.flatten(1) @ torch.eye(4)).unflatten(1, (1, 2, 2))

    eps = recipe.in_precision(model, precision)(torch.rand(3, 1, 2, 2), torch.tensor([1, 1, 1]))
    assert eps.dtype == torch.float32
