"""The networks: the text's one way in, and a warm start."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ddim_tutorial.training.emoji import networks

TRUE, EMPTY = (torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(k)) for k in (1, 2))
X_T = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
TIMES = torch.tensor([100, 900])


def random_unet(attention: str, seed: int = 0, channels=(32, 32, 32)):
    """Random weights, also where a new network has zeros."""
    torch.manual_seed(seed)
    unet = networks.new_unet(channels, 32, attention=attention).eval().requires_grad_(False)
    for parameter in unet.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    return unet


def cross_attentions(unet) -> dict[str, nn.Module]:
    return {name: part for name, part in unet.named_modules() if name.endswith(".attn2")}


@torch.no_grad()
def eps(unet, text):
    return unet(X_T, TIMES, encoder_hidden_states=text).sample


@pytest.mark.parametrize(("attention", "maps"), [("8", {16, 64}), ("16", {16, 64, 256})])
def test_the_text_is_looked_at_from_these_maps(attention, maps):
    unet, seen = random_unet(attention), set()
    for part in cross_attentions(unet).values():
        part.register_forward_pre_hook(lambda _, given: seen.add(given[0].shape[1]))
    eps(unet, TRUE)
    assert seen == maps


@pytest.mark.parametrize("attention", ["8", "16"])
def test_the_text_in_cross_attention_alone_is_all_of_the_text(attention):
    """eps with the true text in every cross-attention and the empty text everywhere else is eps of
    the true text: there is no side door."""
    unet = random_unet(attention)
    conditional, empty = eps(unet, TRUE), eps(unet, EMPTY)
    assert (conditional - empty).abs().max() > 1e-3

    def true_text(_, given, options):
        return given, options | {"encoder_hidden_states": TRUE}

    for part in cross_attentions(unet).values():
        part.register_forward_pre_hook(true_text, with_kwargs=True)
    torch.testing.assert_close(eps(unet, EMPTY), conditional, rtol=0, atol=0)


@pytest.mark.parametrize("attention", ["8", "16"])
def test_without_cross_attention_the_prompt_changes_nothing(attention):
    unet = random_unet(attention)
    for part in cross_attentions(unet).values():
        nn.init.zeros_(part.to_out[0].weight)
        nn.init.zeros_(part.to_out[0].bias)
    torch.testing.assert_close(eps(unet, TRUE), eps(unet, EMPTY), rtol=0, atol=0)


@pytest.mark.parametrize("attention", ["8", "16"])
def test_a_warm_start_gives_what_the_other_gave(attention):
    """Attention on a larger map is new, and changes nothing before it is trained."""
    unet, other = random_unet(attention), random_unet("8", seed=1)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    networks.inherit(unet, other)
    weights = unet.state_dict()
    for name, value in other.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=0, msg=name)
    torch.testing.assert_close(eps(unet, TRUE), eps(other, TRUE), rtol=0, atol=0)
    new = weights.keys() - other.state_dict().keys()
    assert bool(new) == (attention == "16")
    kept = [name for name in new if ".proj_out." not in name]
    assert all(torch.equal(weights[name], before[name]) for name in kept)


def test_weights_of_another_shape_are_not_inherited():
    unet, other = random_unet("8"), random_unet("8", seed=1, channels=(64, 32, 32))
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    networks.inherit(unet, other)
    weights = unet.state_dict()
    assert torch.equal(weights["conv_in.weight"], before["conv_in.weight"])
    same = "mid_block.resnets.0.conv1.weight"
    assert torch.equal(weights[same], other.state_dict()[same])


def test_the_denoiser_gives_the_unet_the_text_encoders_states():
    unet, tokens = random_unet("8"), torch.tensor([[0, 3, 1], [0, 4, 1]])

    def text_encoder(given):
        return (given[:, :, None] * TRUE[:, :3],)

    model = networks.Denoiser(unet, nn.Identity())
    model.text_encoder.forward = text_encoder
    with torch.no_grad():
        seen = model(X_T, TIMES, tokens)
    torch.testing.assert_close(seen, eps(unet, text_encoder(tokens)[0]))


def test_an_autoencoder_forward_is_decode_of_a_sample():
    class Vae(nn.Module):
        def encode(self, x):
            posterior = SimpleNamespace(sample=lambda: 2 * x, mean=x, logvar=-x)
            return SimpleNamespace(latent_dist=posterior)

        def decode(self, z):
            return SimpleNamespace(sample=z + 1)

    x = torch.randn(2, 3)
    reconstruction, mean, logvar = networks.Autoencoder(Vae())(x)
    torch.testing.assert_close(reconstruction, 2 * x + 1)
    assert torch.equal(mean, x) and torch.equal(logvar, -x)


def test_a_folder_that_is_no_pipeline_is_named(tmp_path):
    match = "vae is not there, wanted the folder of a pipeline"
    with pytest.raises(FileNotFoundError, match=match):
        networks.components(tmp_path, "vae", "tokenizer")
