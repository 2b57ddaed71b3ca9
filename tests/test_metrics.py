"""Error measures on pictures whose difference is known, and an order that was put in."""

import math

import pytest
import torch

from ddim_tutorial.metrics import auc, mse, order, psnr, relative_error, rms, tpr


def test_a_known_difference(device):
    a = torch.rand(3, 2, 4, 4, device=device)
    b = a + torch.tensor([0.0, 0.02, 2.0], device=device).view(3, 1, 1, 1)
    torch.testing.assert_close(mse(a, b), torch.tensor([0, 4e-4, 4.0]).double(), rtol=1e-4, atol=0)
    assert psnr(a, b)[0] == math.inf
    torch.testing.assert_close(psnr(a, b)[1:], torch.tensor([40, 0.0]).double(), rtol=0, atol=1e-3)
    assert math.isclose(rms(a, b), math.sqrt((4e-4 + 4) / 3), rel_tol=1e-5)


def test_whole_numbers_do_not_wrap_around():
    black = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    assert math.isclose(psnr(black, black + 255, data_range=255), 0, abs_tol=1e-12)
    assert math.isclose(psnr(black + 1, black, data_range=255), 20 * math.log10(255))
    both = torch.cat([black + 51, black])
    assert psnr(both, both * 0, data_range=255).tolist() == [
        pytest.approx(20 * math.log10(5)),
        math.inf,
    ]


def test_the_psnr_of_a_batch_is_that_of_its_mean_error():
    a, b = torch.zeros(2, 5), torch.tensor([[0.2], [0.02]]).expand(2, 5)
    wanted = 10 * math.log10(4 / ((0.2**2 + 0.02**2) / 2))
    assert math.isclose(psnr(a[None], b[None]), wanted, rel_tol=1e-6)
    assert psnr(a[None], b[None]) < psnr(a, b).mean()


def test_the_relative_error_is_that_of_the_norms():
    x, wanted = torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([[0.0, 4.0], [0.0, 5.0]])
    assert math.isclose(relative_error(x, wanted), 5 / 41**0.5, rel_tol=1e-12)


@pytest.mark.parametrize("wanted", [1, 2, 3.5])
def test_the_order_that_was_put_in(wanted):
    steps = [10, 20, 50, 200]
    assert math.isclose(order(steps, [7 * n**-wanted for n in steps]), wanted, rel_tol=1e-12)


@pytest.mark.parametrize("steps, errors", [([10, 20], [1.0]), ([10], [1.0]), ([10, 20], [1, 0.0])])
def test_an_order_needs_two_positive_errors(steps, errors):
    with pytest.raises(ValueError, match="pass equally many positive numbers"):
        order(steps, errors)


@pytest.mark.parametrize("b", [torch.zeros(1, 3), [[0.0] * 3] * 2, None])
def test_pictures_of_another_shape_are_refused(b):
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match=r"b is .*wanted a tensor of shape \(2, 3\)"):
            mse(torch.zeros(2, 3), b)
    finally:
        config.update("jaxtyping_disable", False)


def test_the_area_under_the_roc_is_that_of_torchmetrics_and_ties_count_half():
    from torchmetrics.functional.classification import binary_auroc

    positive, negative = (10 * torch.randn(60) + 5).round(), (10 * torch.randn(90)).round()
    scores = (torch.cat([positive, negative]) + 100) / 200
    peer = binary_auroc(scores, torch.cat([torch.ones(60), torch.zeros(90)]).long())
    assert auc(positive, negative) == pytest.approx(peer.item(), abs=1e-6)
    assert auc(torch.ones(3), torch.ones(4)) == 0.5 and auc(torch.ones(3), torch.zeros(4)) == 1


@pytest.mark.parametrize(
    ("count", "fpr", "allowed"), [(40, 0.01, 0), (200, 0.01, 2), (50, 0.1, 5), (100, 0.29, 29)]
)
def test_as_many_false_alarms_as_the_rate_allows(count, fpr, allowed):
    negative = torch.randperm(count).float()
    positive = torch.arange(count) - 0.5
    assert tpr(positive, negative, fpr) == allowed / count
    assert tpr(positive + 1, negative, fpr) == (allowed + 1) / count
