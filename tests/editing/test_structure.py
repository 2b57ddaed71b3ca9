"""The structure distance where its value is known."""

import pytest
import torch

from ddim_tutorial.editing.structure import self_similarity, structure_distance


@pytest.fixture
def pictures():
    g = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 16, 16, generator=g, dtype=torch.float64) * 2 - 1


def test_cosines_of_the_features_before_the_last_layer(pipe, pictures):
    seen = []
    hook = pipe.vae.encoder.mid_block.register_forward_hook(lambda *a: seen.append(a[2]))
    found = self_similarity(pipe.vae, pictures)
    hook.remove()
    features = seen[0].flatten(2).float()
    centred = features - features.mean(2, keepdim=True)
    for b, i, j in ((0, 0, 0), (0, 3, 17), (1, 5, 60)):
        cosine = torch.cosine_similarity(centred[b, :, i], centred[b, :, j], dim=0)
        torch.testing.assert_close(found[b, i, j], cosine, atol=1e-5, rtol=0)
    assert found.shape == (2, 64, 64)
    assert not pipe.vae.encoder.conv_norm_out._forward_pre_hooks


def test_the_distance_is_each_pictures_own(pipe, pictures):
    other = pictures.flip(3)
    found = structure_distance(pipe.vae, pictures, other)
    one, two = self_similarity(pipe.vae, pictures), self_similarity(pipe.vae, other)
    wanted = [((one[b] - two[b]) ** 2).mean() ** 0.5 for b in range(2)]
    torch.testing.assert_close(found, torch.stack(wanted))
    assert (structure_distance(pipe.vae, pictures, pictures) == 0).all() and (found > 0.05).all()
    alone = structure_distance(pipe.vae, pictures[:1], other[:1])
    torch.testing.assert_close(alone, found[:1])
