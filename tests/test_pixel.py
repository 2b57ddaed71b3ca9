"""The adapter for pixel networks: time index, labels, learned variance, precision."""

import warnings

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from torch import nn

from ddim_tutorial.guidance import cfg, cfg_batched
from ddim_tutorial.peers import from_scheduler, scheduler_times
from ddim_tutorial.pixel import conditional, eps_model
from ddim_tutorial.sampling import sample
from ddim_tutorial.schedule import linear
from parts import relative


class Echo(nn.Module):
    """Answers with what it was told: channel 0 the timestep it saw, plus 100 times the label; then
    zeros."""

    def __init__(self, channels_out: int):
        super().__init__()
        self.channels_out = channels_out
        self.weight = nn.Parameter(torch.zeros(channels_out))

    def forward(self, x, timesteps, y=None):
        value = timesteps + (0 if y is None else 100 * y)
        out = x.new_zeros(len(x), self.channels_out, *x.shape[2:])
        out[:, 0] = value[:, None, None]
        return out + self.weight[:, None, None]


def unet(classes: int | None = 4, channels_out: int = 1) -> UNet2DModel:
    torch.manual_seed(1)
    return (
        UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=channels_out,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            num_class_embeds=classes,
            attention_head_dim=4,
        )
        .eval()
        .requires_grad_(False)
    )


def test_our_time_is_the_networks_timestep_plus_one(device):
    x_t, t = torch.zeros(2, 1, 4, 4, device=device), torch.tensor([1, 1000], device=device)
    eps = eps_model(Echo(1).to(device))(x_t, t)
    assert eps[:, 0, 0, 0].tolist() == [0, 999]


def test_a_whole_run_equals_the_diffusers_pipeline():
    net = unet(classes=None)
    scheduler = DDIMScheduler(1000, clip_sample=False, timestep_spacing="trailing")
    seed = torch.Generator().manual_seed(3)
    theirs = DDIMPipeline(net, scheduler)(
        batch_size=2,
        generator=seed,
        num_inference_steps=5,
        output_type="np",
        use_clipped_model_output=False,
    ).images
    x_T = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    ours = sample(eps_model(net), x_T, scheduler_times(scheduler, 5), from_scheduler(scheduler))
    torch.testing.assert_close(
        (ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1),
        torch.from_numpy(theirs),
        rtol=2e-5,
        atol=2e-5,
    )


def test_labels_one_for_all_one_each_and_none():
    x_t, t = torch.zeros(2, 1, 4, 4), torch.tensor([1, 1])
    assert eps_model(Echo(1), labels=3)(x_t, t)[:, 0, 0, 0].tolist() == [300, 300]
    assert eps_model(Echo(1), labels=torch.tensor([3, 5]))(x_t, t)[:, 0, 0, 0].tolist() == [
        300,
        500,
    ]
    assert eps_model(Echo(1))(x_t, t)[:, 0, 0, 0].tolist() == [0, 0]


@pytest.mark.filterwarnings("ignore:labels=None")
def test_no_label_is_the_last_class_of_a_conditional_unet():
    net, x_t, t = unet(classes=4), torch.randn(2, 1, 8, 8), torch.tensor([7, 300])
    direct = net(x_t, t - 1, torch.tensor([3, 3])).sample
    torch.testing.assert_close(eps_model(net)(x_t, t), direct, rtol=0, atol=0)
    assert (eps_model(net, labels=0)(x_t, t) - direct).abs().max() > 1e-3


def test_learned_variance_keeps_the_first_channels():
    net, x_t = Echo(4), torch.zeros(3, 2, 4, 4)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([1.0, 2, 3, 4]))
    eps = eps_model(net, learned_variance=True)(x_t, torch.tensor([1, 1, 1]))
    assert eps.shape == x_t.shape and eps[0, :, 0, 0].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("channels_out", "learned", "said"),
    [
        (2, False, "learned_variance=True"),
        (1, True, "wanted 2"),
        (3, False, "wanted 1"),
        (3, True, "wanted 2"),
    ],
)
def test_wrong_channel_counts_are_refused(channels_out, learned, said):
    with pytest.raises(ValueError, match=f"unet: .*{said}"):
        eps_model(unet(None, channels_out), learned_variance=learned)(
            torch.zeros(1, 1, 8, 8), torch.tensor([5])
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_network_computes_in_its_dtype_and_the_state_keeps_its_own(dtype, device):
    seen = []
    net = unet().to(device, dtype)
    net.conv_in.register_forward_hook(lambda _, inputs, out: seen.append(inputs[0].dtype))
    x_t = torch.randn(2, 1, 8, 8).to(device)
    eps = eps_model(net, labels=1)(x_t, torch.tensor([500, 500], device=device))
    assert seen == [dtype] and eps.dtype == torch.float32
    reference = eps_model(unet().to(device), labels=1)(x_t, torch.tensor([500, 500], device=device))
    torch.testing.assert_close(
        eps, reference, rtol=0, atol=0.05 if dtype == torch.bfloat16 else 1e-5
    )


def test_conditional_serves_batched_guidance():
    net, x_t, t = unet(), torch.randn(2, 1, 8, 8), torch.tensor([400, 400])
    labels, null = torch.tensor([0, 2]), torch.tensor([3])
    twice = cfg(eps_model(net, labels=labels), eps_model(net, null_class=3), 3.0)(x_t, t)
    torch.testing.assert_close(
        cfg_batched(conditional(net), labels, null, 3.0)(x_t, t), twice, rtol=1e-5, atol=1e-5
    )


def test_nothing_is_read_from_the_device():
    """A meta tensor has no values: whoever asks for one raises."""
    net, x_t, t = (
        unet().to("meta"),
        torch.zeros(2, 1, 8, 8, device="meta"),
        torch.ones(2, dtype=int, device="meta"),
    )
    for labels in (None, 1, torch.zeros(2, dtype=int, device="meta")):
        assert eps_model(net, labels=labels, null_class=3)(x_t, t).shape == x_t.shape


def test_a_compiled_network_is_taken_as_it_is():
    net, x_t, t = unet(), torch.randn(2, 1, 8, 8), torch.tensor([1, 400])
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    for labels in (None, 1):
        torch.testing.assert_close(
            eps_model(compiled, labels=labels, null_class=3)(x_t, t),
            eps_model(net, labels=labels, null_class=3)(x_t, t),
        )


@pytest.mark.parametrize("labels", [4, -1, torch.tensor([0, 9])])
def test_labels_outside_the_classes_are_refused(labels):
    with pytest.raises(ValueError, match=r"labels.*0\.\.3"):
        eps_model(unet(classes=4), labels=labels)


def test_other_bad_input_is_refused():
    x_t, t = torch.zeros(2, 1, 8, 8), torch.tensor([5, 5])
    with pytest.raises(ValueError, match="no classes"):
        eps_model(unet(classes=None), labels=1)
    with pytest.raises(ValueError, match=r"labels: .*\(3,\)"):
        eps_model(unet(), labels=torch.tensor([1, 2, 3]))(x_t, t)
    with pytest.raises(ValueError, match=r"labels: .*float"):
        eps_model(unet(), labels=torch.tensor([1.0, 2.0]))(x_t, t)
    with pytest.raises(ValueError, match=r"t: .*\(1,\)"):
        eps_model(unet(classes=None))(x_t, t[:1])
    with pytest.raises(ValueError, match=r"t: .*float"):
        eps_model(unet(classes=None))(x_t, t.float())
    with pytest.raises(TypeError, match=r"x_t: .*uint8"):
        eps_model(unet(classes=None))(x_t.to(torch.uint8), t)


def test_a_missing_label_is_the_last_class_with_a_warning():
    with pytest.warns(UserWarning, match="4 classes: the last one, 3, .*pass null_class=3"):
        eps_model(unet(classes=4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in (dict(null_class=3), dict(labels=1), dict(labels=torch.tensor([0, 2]))):
            eps_model(unet(classes=4), **options)
        eps_model(unet(classes=None))


def test_the_null_class_may_be_any():
    net, x_t, t = unet(classes=4), torch.randn(2, 1, 8, 8), torch.tensor([7, 300])
    direct = net(x_t, t - 1, torch.tensor([0, 0])).sample
    torch.testing.assert_close(eps_model(net, null_class=0)(x_t, t), direct, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"null_class=4 is out of range: pass an int in 0\.\.3"):
        eps_model(net, null_class=4)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(prediction="v"), "prediction='v': pass one of epsilon, v_prediction, sample"),
        (dict(prediction="v_prediction"), "schedule=None: pass the Schedule"),
    ],
)
def test_a_prediction_needs_its_name_and_its_schedule(options, message):
    with pytest.raises(ValueError, match=message):
        eps_model(unet(classes=None), **options)


def test_v_is_found_among_the_channels_of_a_learned_variance():
    net, x_t, t = Echo(4), torch.randn(3, 2, 4, 4), torch.tensor([1, 500, 1000])
    with torch.no_grad():
        net.weight.copy_(torch.tensor([0.5, 2, 3, 4]))
    schedule = linear()
    ab = schedule.alpha_bar[t].view(3, 1, 1, 1)
    v = torch.stack([t - 1 + 0.5, torch.full((3,), 2.0)], 1).double().view(3, 2, 1, 1)
    model = eps_model(net, learned_variance=True, prediction="v_prediction", schedule=schedule)
    wanted = ab.sqrt() * v + (1 - ab).sqrt() * x_t  # Salimans & Ho 2022, App. D
    torch.testing.assert_close(model(x_t, t), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_a_whole_run_of_v_or_x0_equals_diffusers(prediction):
    net, x = unet(classes=None), torch.randn(2, 1, 8, 8)
    scheduler = DDIMScheduler(
        prediction_type=prediction, timestep_spacing="trailing", clip_sample=False
    )
    schedule = from_scheduler(scheduler)
    model = eps_model(net, prediction=prediction, schedule=schedule)
    ours = sample(model, x, scheduler_times(scheduler, 10), schedule)
    scheduler.set_timesteps(10)
    for timestep in scheduler.timesteps:
        x = scheduler.step(net(x, timestep).sample, timestep, x).prev_sample
    assert relative(ours, x) <= 2e-5
