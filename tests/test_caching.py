"""DeepCache: bit-equal to the network with a fresh cache, stale in between, gone afterwards."""

import pytest
import torch

from ddim_tutorial import dpmpp_2m, linear, times
from ddim_tutorial.caching import DeepCache
from ddim_tutorial.latent import from_pipeline
from ddim_tutorial.pixel import eps_model
from ddim_tutorial.sampling import final
from parts import relative, tiny_pipeline, tiny_unet

X, T = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0)), torch.full((3,), 500)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return tiny_pipeline(tmp_path_factory.mktemp("tokenizer"))


def counting(unet):
    """How often each deep block computes."""
    seen = []
    for block in (unet.down_blocks[1], unet.mid_block, unet.up_blocks[0]):
        first = next(m for m in block.modules() if isinstance(m, torch.nn.GroupNorm))
        first.register_forward_hook(lambda *_: seen.append(1))
    return seen


def test_a_fresh_cache_gives_the_full_networks_answer_bit_for_bit(pipe):
    space = from_pipeline(pipe, ["a cassette player"] * 3, scale=4.0)
    z = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = space.model(z, T)
        with DeepCache(pipe.unet, 3) as cache:
            answers = [space.model(z, T) for _ in range(7)]
    assert (cache.calls, cache.full) == (7, 3)
    assert all(torch.equal(answer, expected) for answer in answers)


def test_between_full_calls_the_deep_blocks_do_not_run():
    unet = tiny_unet()
    seen = counting(unet)
    model = eps_model(unet)
    with torch.no_grad(), DeepCache(unet, 3) as cache:
        for _ in range(6):
            model(X, T)
    assert cache.full == 2 and len(seen) == 2 * 3


def test_another_state_meets_old_features_until_the_next_full_call():
    unet = tiny_unet()
    model = eps_model(unet)
    with torch.no_grad():
        expected = model(2 * X, T)
        with DeepCache(unet, 2):
            model(X, T)
            stale = model(2 * X, T)
            fresh = model(2 * X, T)
    assert not torch.equal(stale, expected) and torch.equal(fresh, expected)


def test_another_shape_and_another_run_begin_anew_and_the_network_is_left_as_it_was():
    unet = tiny_unet()
    model, before = eps_model(unet), set(vars(unet.mid_block))
    cache = DeepCache(unet, 5)
    with torch.no_grad():
        for state in (X, -X):
            with cache:
                assert torch.equal(model(state, T), eps_model(tiny_unet())(state, T))
        with cache:
            model(X, T)
            assert torch.equal(model(X[:1], T[:1]), eps_model(tiny_unet())(X[:1], T[:1]))
        assert torch.equal(model(2 * X, T), eps_model(tiny_unet())(2 * X, T))
    assert set(vars(unet.mid_block)) == before and not unet._forward_pre_hooks


def test_an_error_inside_leaves_the_network_as_it_was():
    unet = tiny_unet()
    with pytest.raises(RuntimeError), DeepCache(unet, 2):
        eps_model(unet)(X[:, :1], T)
    assert "forward" not in vars(unet.mid_block)


def test_it_serves_every_solver_and_costs_full_calls_only_now_and_then():
    unet, schedule = tiny_unet(), linear()
    model, grid = eps_model(unet), times(1000, 9)
    full = final(dpmpp_2m(model, X, grid, schedule))
    with DeepCache(unet, 1):
        assert torch.equal(final(dpmpp_2m(model, X, grid, schedule)), full)
    with DeepCache(unet, 3) as cache:
        cached = final(dpmpp_2m(model, X, grid, schedule))
    assert cache.full == 3 and 0 < relative(cached, full) < 1


def test_a_forward_that_a_block_had_of_its_own_is_there_again():
    unet = tiny_unet()
    own = unet.mid_block.forward = unet.mid_block.forward  # as an offloading hook leaves it
    with DeepCache(unet, 2), DeepCache(unet, 3):
        assert vars(unet.mid_block)["forward"] is not own
    assert vars(unet.mid_block)["forward"] is own and "forward" not in vars(unet.up_blocks[0])


@pytest.mark.parametrize("interval", [0, -1, 1.5, True])
def test_what_is_no_interval_is_refused(interval):
    with pytest.raises((ValueError, TypeError), match="interval"):
        DeepCache(tiny_unet(), interval)


def test_what_is_no_u_net_is_refused():
    with pytest.raises(ValueError, match="got a Linear, wanted a U-Net of diffusers"):
        DeepCache(torch.nn.Linear(1, 1), 2)
