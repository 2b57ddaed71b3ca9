"""Keys in the noise: what they cover, what they leave alone, and what detection answers."""

import math

import pytest
import torch
from scipy.stats import binomtest, kstest

from ddim_tutorial import watermark
from ddim_tutorial.watermark import FourierKey, SignKey, correlate, detect, embed, identify, key

SHAPES = [(1, 32, 32), (4, 16, 16), (3, 9, 12), (2, 8, 7)]  # odd and even sides, not square
FOURIER = ("zeros", "rand", "rings")


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(shape, batch=3, seed=1, dtype=torch.float32):
    return torch.randn(batch, *shape, generator=source(seed), dtype=dtype)


def whole(k):
    """A Fourier key in float64, to compare beyond float32."""
    return FourierKey(k.mask, k.values.to(torch.complex128))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", FOURIER)
@pytest.mark.parametrize("radius", [0, 2.5, math.inf])
def test_a_key_is_the_transform_of_something_real(kind, shape, radius):
    """Written into a real transform it leaves nothing imaginary behind, and comes out as it is."""
    k = whole(key(kind, shape, source(), radius=radius))
    transform = torch.fft.fft2(noise(shape, dtype=torch.float64), norm="ortho")
    marked = torch.fft.ifft2(torch.where(k.mask, k.values, transform), norm="ortho")
    assert marked.imag.abs().max() <= 1e-6
    read = torch.fft.fft2(embed(noise(shape, dtype=torch.float64), k), norm="ortho")
    torch.testing.assert_close(read[:, k.mask], k.values[k.mask].expand(3, -1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", watermark.KINDS)
def test_embedding_again_changes_nothing(kind, shape):
    k = key(kind, shape, source())
    once = embed(noise(shape), k)
    torch.testing.assert_close(embed(once, k), once, rtol=0, atol=1e-5)


def test_what_is_not_covered_stays():
    """The same, said by waves: a cosine outside of the mask passes, one inside is replaced."""
    k = key("zeros", (2, 16, 16), radius=4, inner=2, channels=[1])
    n = torch.arange(16) * 2 * math.pi / 16
    for f, stays in ((1, True), (2, False), (4, False), (5, True)):
        for wave in ((f * n).cos()[None].expand(16, 16), (f * n).cos()[:, None].expand(16, 16)):
            x = wave.expand(1, 2, 16, 16)
            out = embed(x, k)
            torch.testing.assert_close(out[:, 0], x[:, 0], rtol=0, atol=1e-5)
            wanted = x[:, 1] if stays else torch.zeros(1, 16, 16)
            torch.testing.assert_close(out[:, 1], wanted, rtol=0, atol=1e-5)


def test_a_wide_picture_counts_along_its_shorter_side():
    """A wave of 4 cycles over 16 of 32 columns has 2 of them over as many pixels as there are
    rows."""
    d = watermark.radii(16, 32)
    assert d[0, 4] == 2 and d[2, 0] == 2 and d[0, 16] == 8 and d[8, 0] == 8


def test_a_rings_key_is_one_real_number_a_ring():
    k = key("rings", (2, 16, 16), source(), radius=5)
    ring = watermark.radii(16, 16).round()
    for channel in range(2):
        for r in range(6):
            values = k.values[channel][k.mask[channel] & (ring == r)]
            assert (values == values[0]).all() and values[0].imag == 0
    assert k.values[k.mask].real.unique().numel() == 12


def test_the_same_generator_makes_the_same_key_and_another_another():
    for kind in ("rand", "rings", "signs"):
        one, same, other = (key(kind, (1, 8, 8), source(s)) for s in (0, 0, 1))
        assert torch.equal(one[-1], same[-1]) and not torch.equal(one[-1], other[-1])


def test_rand_keys_and_signs_keep_the_noise_normal():
    """Over keys, x_T is N(0, I): its numbers by Kolmogorov and Smirnov, and pairs of them
    uncorrelated. A ring of one value is not, and shows it in its neighbours."""
    shape, many = (1, 8, 8), 2000
    x = noise(shape, many)
    for kind, normal in (("rand", True), ("signs", True), ("rings", False)):
        marked = torch.cat(
            [embed(x[i : i + 1], key(kind, shape, source(i + 10), radius=3)) for i in range(many)]
        ).flatten(1)
        covariance = (marked.T @ marked / many - torch.eye(64)).abs().max()
        passes = kstest(marked[:, 9].numpy(), "norm").pvalue > 1e-3
        assert passes and (covariance < 0.15) == normal, kind


def test_one_key_of_signs_keeps_every_magnitude_and_joins_its_pictures():
    k = key("signs", (1, 32, 32), source())
    x = noise((1, 32, 32), 200)
    marked = embed(x, k)
    assert torch.equal(marked.abs(), x.abs()) and torch.equal(marked[0].sign(), k.signs)
    assert kstest(marked[0].flatten().numpy(), "norm").pvalue > 1e-3
    alike = (marked[0::2] * marked[1::2]).mean().item()
    assert alike == pytest.approx(2 / math.pi, abs=0.02)  # E|z| squared


@pytest.mark.parametrize("kind", watermark.KINDS)
def test_the_x_T_that_carries_the_key_is_found_for_certain(kind):
    shape = (2, 16, 16)
    k = key(kind, shape, source())
    marked, plain = detect(embed(noise(shape), k), k), detect(noise(shape), k)
    assert marked.distance.max() <= 1e-5 and plain.distance.min() >= 0.3
    if kind == "zeros":
        assert marked.correlation.isnan().all() and plain.correlation.isnan().all()
    else:
        torch.testing.assert_close(marked.correlation, torch.ones(3))
        assert plain.correlation.abs().max() <= 0.4
        assert marked.p_value.max() < 1e-12 < plain.p_value.min()


def test_the_correlation_does_not_see_a_size_and_the_distance_does():
    k = key("rand", (1, 16, 16), source())
    x = embed(noise((1, 16, 16)), k)
    torch.testing.assert_close(correlate(x / 3, k), torch.ones(3))
    size = k.values[k.mask].abs().mean().item()
    torch.testing.assert_close(detect(x / 3, k).distance, torch.full((3,), size * 2 / 3))


@pytest.mark.parametrize("kind", FOURIER)
@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 9, 12)])
def test_the_p_value_of_white_noise_is_uniform_where_its_variance_is_known(kind, shape):
    k = key(kind, shape, source(5), radius=3)
    p = detect(2 * noise(shape, 4000), k, variance=4.0).p_value
    assert kstest(p.numpy(), "uniform").pvalue > 1e-3


def test_the_p_value_is_the_share_of_noise_that_comes_as_near():
    """Simulated: a third of the way from noise to the key, against 100,000 draws of noise."""
    shape, k = (1, 8, 8), key("rand", (1, 8, 8), source(), radius=1)
    x = noise(shape, 1)
    nearer = (2 * x + embed(x, k)) / 3
    y = torch.fft.fft2(noise(shape, 100_000, seed=7), norm="ortho")[:, k.mask]
    near = (torch.fft.fft2(nearer, norm="ortho")[:, k.mask] - k.values[k.mask]).abs().square()
    share = ((y - k.values[k.mask]).abs().square().sum(1) <= near.sum()).double().mean().item()
    p = detect(nearer, k, variance=1.0).p_value.item()
    assert 0.01 < p < 0.5 and abs(p - share) <= 5 * math.sqrt(p / 100_000)


def test_the_variance_of_the_paper_is_that_of_the_covered_frequencies():
    k = key("rand", (1, 16, 16), source())
    x = noise((1, 16, 16), 1) / 2
    power = torch.fft.fft2(x, norm="ortho")[:, k.mask].abs().square().mean().item()
    torch.testing.assert_close(detect(x, k).p_value, detect(x, k, power).p_value)
    zeros = key("zeros", (1, 16, 16))
    p = detect(noise((1, 16, 16), 20), zeros).p_value
    assert p.max() - p.min() <= 1e-4  # eta is |M| whatever x_T: this p-value says nothing


def test_the_p_value_of_signs_is_binomial():
    k = key("signs", (1, 4, 4), source())
    x = k.signs[None].clone()
    x[0, 0, 0, :3] *= -1
    found = detect(x, k)
    assert found.p_value.item() == pytest.approx(binomtest(13, 16, alternative="greater").pvalue)
    assert found.distance.item() == pytest.approx(3 / 16)
    assert found.correlation.item() == pytest.approx(10 / 16)


@pytest.mark.parametrize("kind", ["rand", "rings", "signs"])
def test_the_right_one_of_several_keys_is_named(kind):
    shape = (1, 16, 16)
    keys = [key(kind, shape, source(i), radius=6) for i in range(32)]
    marked = torch.cat([embed(noise(shape, 1, seed=100 + i), k) for i, k in enumerate(keys)])
    blurred = 0.3 * marked + noise(shape, 32, seed=7) * (0.3 if kind != "rings" else 0.05)
    assert identify(blurred, keys).tolist() == list(range(32))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: key("ring", (1, 8, 8)), "kind='ring'"),
        (lambda: key("rand", (8, 8)), r"shape=\(8, 8\)"),
        (lambda: key("rand", (1, 8, 8), channels=[1]), "a channel=1"),
        (lambda: key("rand", (1, 8, 8), radius=2, inner=3), "no frequency"),
        (lambda: key("rand", (1, 8, 8), channels=[]), "no frequency"),
        (lambda: embed(noise((1, 9, 9)), key("rand", (1, 8, 8))), r"the key \(1, 8, 8\)"),
        (lambda: detect(noise((1, 9, 9)), key("signs", (1, 8, 8))), r"the key \(1, 8, 8\)"),
        (lambda: embed(torch.full((1, 1, 8, 8), math.nan), key("rand", (1, 8, 8))), "NaN"),
        (lambda: detect(noise((1, 8, 8)), key("rand", (1, 8, 8)), 0), "variance=0"),
        (lambda: identify(noise((1, 8, 8)), []), "got none"),
        (lambda: identify(noise((1, 8, 8)), [key("zeros", (1, 8, 8))]), "one of zeros"),
    ],
)
def test_what_makes_no_sense_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_half_precision_is_marked_in_float32():
    for k in (key("rand", (1, 8, 8)), SignKey(torch.ones(1, 8, 8))):
        assert embed(noise((1, 8, 8)).half(), k).dtype == torch.float32


def test_it_runs_on_every_device(device):
    x = noise((1, 8, 8)).to(device)
    for kind in watermark.KINDS:
        k = key(kind, (1, 8, 8), source())
        marked = embed(x, k)
        assert marked.device == x.device
        assert detect(marked, k).distance.max() <= 1e-5
