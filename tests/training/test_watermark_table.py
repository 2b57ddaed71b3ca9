"""The tables of notebook 11: their measures where the answer is known, their rows one by one."""

import json
import math
from pathlib import Path

import pytest
import torch

from ddim_tutorial import analytic, generators, scaled_linear, watermark, zoo
from ddim_tutorial.training.evaluate import carriers, purification, rows, tables
from ddim_tutorial.training.evaluate import watermark as command
from ddim_tutorial.training.evaluate.carriers import Carrier, Judged

SHAPE = (1, 16, 16)
KEY = "rand, 3 to 8"
STORED = sorted(tables.TABLES.glob("watermark_*.json")) + sorted(
    tables.TABLES.glob("purification_*.json")
)


def judge(x):
    return Judged(x.flatten(1)[:, :3], x.mean((1, 2, 3)) > -1)


def carrier(back=None):
    """Pictures are their own noise, of a tenth of its size; inversion, unless told, is exact."""
    return Carrier(
        "fashion", "a", SHAPE, 1.0,
        lambda x_T, scale, steps: x_T / 10,
        back or (lambda x, method, S, known: 10 * x),
        judge, torch.zeros(5, *SHAPE),
    )  # fmt: skip


def row(what, **change):
    (first, *_) = command.plan("fashion", "edits", 1.0)
    return command.measurer(what, 24)(**(first | change))


def test_scores_apart_by_a_known_distance():
    found = command.compare(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0]))
    assert found["AUC"] == 0.75 and found["TPR"] == 0.5
    assert found["separation"] == pytest.approx(1 / math.sqrt(2))


def test_where_inversion_is_exact_everything_is_found():
    found = row(carrier())
    assert all(
        found[name]["AUC"] == found[name]["TPR"] == 1 for name in ("distance", "correlation")
    )
    assert found["right key named"] == 1 and found["finds the noise"]["correlation"] > 0.99
    assert abs(found["AUC of wrong keys"]["correlation"] - 0.5) < 0.12
    assert found["accuracy"] == {"marked": 1, "plain": 1} and found["plain p below .01"] < 0.15


def test_no_key_is_made_of_the_noise_of_a_picture():
    """A plain picture from a key's seed would carry that key."""
    seeds = {first + i for first in command.DRAWS.values() for i in range(100_000)}
    assert seeds.isdisjoint(command.KEYS) and len(seeds) == 300_000 and len(command.KEYS) == 32


def test_where_inversion_finds_other_noise_nothing_is_found():
    def blind(x, method, S, known):
        return torch.randn(x.shape, generator=torch.Generator().manual_seed(int(x.sum() * 1e4)))

    found = row(carrier(blind))
    assert abs(found["correlation"]["AUC"] - 0.5) < 0.25 and found["right key named"] < 0.3
    assert abs(found["finds the noise"]["correlation"]) < 0.1


def test_a_shift_of_the_distribution_is_seen_with_any_key():
    """Rings whose frequencies are far too loud are nearer to no key, and every key sees it."""
    keys = command.keys_of(KEY, SHAPE)
    x = torch.randn(24, *SHAPE)
    found = command.detection(x / 10, x, keys)
    assert found["AUC of wrong keys"]["distance"] > 0.95
    assert abs(found["AUC of wrong keys"]["correlation"] - 0.5) < 0.12


def test_a_key_of_zeros_has_no_correlation_and_names_nobody():
    found = row(carrier(), key="zeros, |f| <= 4")
    assert "correlation" not in found and "right key named" not in found
    assert found["distance"]["AUC"] == 1


def test_edits_cost_what_they_should():
    easy, hard = (row(carrier(), edit=edit) for edit in ("none", "rotation 75"))
    assert hard["correlation"]["AUC"] < easy["correlation"]["AUC"] and "accuracy" not in hard


def test_every_key_of_the_plan_is_known():
    for name in command.CARRIERS:
        for part in command.PARTS:
            for planned in command.plan(name, part, 1.0):
                assert watermark.Key and command.keys_of(planned["key"], (4, 16, 16))
                assert planned["edit"] in command.EDITS and planned["method"] in carriers.METHODS


def test_parts_know_their_places():
    seen = []
    out = carriers.in_parts(
        torch.arange(7.0)[:, None], lambda x, places: seen.append(places) or 2 * x, batch=3
    )
    assert seen == [[0, 1, 2], [3, 4, 5], [6]] and out[:, 0].tolist() == [0, 2, 4, 6, 8, 10, 12]


def test_rows_are_saved_one_by_one_and_measured_again_from_more_pictures(tmp_path):
    path, calls = tmp_path / "deeper" / "table.json", []

    def measure(S):
        calls.append(S)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {"seen": len(calls)}

    plan = [{"S": 1}, {"S": 2}]
    with pytest.raises(KeyboardInterrupt):
        rows.fill(path, {"sha256": "a"}, plan, 4, measure)
    rows.fill(path, {"sha256": "a"}, plan, 4, measure)
    rows.fill(path, {"sha256": "a"}, plan[1:], 5, measure)
    rows.fill(path, {"sha256": "a"}, plan, 3, measure)
    assert calls == [1, 2, 2, 2]
    table = json.loads(path.read_text(encoding="utf-8"))
    assert [(r["S"], r["pictures"], r["seen"]) for r in table["rows"]] == [(1, 4, 1), (2, 5, 4)]
    rows.fill(path, {"sha256": "b"}, plan[:1], 1, measure)
    assert len(json.loads(path.read_text(encoding="utf-8"))["rows"]) == 1


# --- purification ---------------------------------------------------------------------------------


def bundle_of_grey():
    """Data N(0.5, 0.1^2), and a judge that looks at the mean: class 1 above 0."""
    schedule = scaled_linear()
    model = analytic.gaussian(0.5, 0.1, schedule)
    cpu, shape = torch.device("cpu"), (1, 8, 8)
    bundle = zoo.Bundle("grey", Path(), torch.nn.Identity(), model, schedule, shape, {}, None,
                        cpu, torch.float32, "a")  # fmt: skip

    def judge(x):
        mean = x.mean((1, 2, 3))
        return torch.stack([-10 * mean, 10 * mean], 1)

    bundle.__dict__["classifier"] = judge
    return bundle


GREY = bundle_of_grey()


def pictures(n=4):
    return torch.full((n, 1, 8, 8), 0.15), torch.ones(n, dtype=torch.long)


def test_purification_pulls_to_the_data_and_its_gradient_passes():
    x, _ = pictures()
    none = purification.purify(GREY, x, 0, 0, 0.0, None)
    assert none is x
    for S, eta in ((1, 0.0), (5, 0.0), (5, 1.0)):
        y = x.clone().requires_grad_()
        pure = purification.purify(GREY, y, 500, S, eta, generators(range(4)))
        assert (pure.mean() - 0.5).abs() < 0.1
        (gradient,) = torch.autograd.grad(pure.sum(), y)
        assert gradient.min() > 0 and gradient.mean() < 0.3


def test_one_jump_of_gaussian_data_is_the_posterior_mean():
    x, _ = pictures()
    ab = GREY.schedule.level(500)
    noise = torch.cat([torch.randn(1, 1, 8, 8, generator=g) for g in generators(range(4))])
    x_t = ab**0.5 * x + (1 - ab) ** 0.5 * noise
    wanted = 0.5 + ab**0.5 * 0.01 / (0.01 * ab + 1 - ab) * (x_t - ab**0.5 * 0.5)
    pure = purification.purify(GREY, x, 500, 1, 0.0, generators(range(4)))
    torch.testing.assert_close(pure, wanted, rtol=0, atol=1e-5)


def test_the_plain_attack_wins_and_purification_undoes_it():
    measure = purification.measurer(GREY, *pictures())
    usual = {"attack": "plain", "eps": 25.5, "eot": 1, "eta": 0.0, "draws": 10}
    assert measure(**usual, t=0, S=0)["accuracy"]["fresh"] == 0
    found = measure(**usual, t=500, S=1)["accuracy"]
    assert found == {"fresh": 1, "worst of 10": 1, "majority of 9": 1, "fixed": 1}
    none = measure(**(usual | {"attack": "none", "eps": 0}), t=0, S=0)
    assert none["accuracy"]["fresh"] == 1 and none["rms to the picture"] == 0


def test_shares_are_counted_picture_by_picture():
    right = torch.zeros(10, 4, dtype=torch.bool)
    right[:, 0] = True
    right[:5, 1] = True
    right[:4, 2] = True
    right[9, 2] = True
    found = purification.shares(right)
    assert found["fresh"] == pytest.approx((10 + 5 + 5) / 40)
    assert found["worst of 10"] == 0.25 and found["majority of 9"] == 0.5
    assert purification.shares(right[:1]) == {"fresh": 0.75}


def test_fixed_noise_is_one_for_all_and_fresh_noise_is_not():
    x, _ = pictures()
    one = [purification.purify(GREY, x, 500, 1, 0.0, purification.fixed(4)) for _ in range(2)]
    assert torch.equal(*one) and torch.equal(one[0][0], one[0][3])
    two = [purification.purify(GREY, x, 500, 1, 0.0, purification.seeds(d, range(4)))
           for d in (0, 1)]  # fmt: skip
    assert not torch.equal(*two) and not torch.equal(two[0][0], two[0][3])


@pytest.mark.parametrize("attack", ["adaptive", "adaptive, fixed noise"])
def test_an_adaptive_attack_sees_the_purifier(attack, monkeypatch):
    seen = []
    real = purification.purify
    monkeypatch.setattr(
        purification, "purify", lambda b, x, t, S, eta, noise: seen.append((t, S, noise))
        or real(b, x, t, S, eta, noise)
    )  # fmt: skip
    x, y = pictures()
    how = {"t": 500, "S": 2, "eta": 0.0}
    found = purification.attacked(GREY, x, y, attack, 16, 3, how)
    assert found.mean() < x.mean() - 0.1 and (found - x).abs().max() <= 32 / 255 + 1e-6
    assert len(seen) == 20 * 3 and {s[:2] for s in seen} == {(500, 2)}
    first = [n if isinstance(n, list) else [n] for *_, n in seen]
    same = {g.initial_seed() for part in first for g in part}
    assert same == ({purification.FIXED} if "fixed" in attack else {4})


def test_the_plan_has_every_part():
    planned = [row for part in purification.PARTS for row in purification.plan(part)]
    assert all(row["attack"] in purification.ATTACKS for row in planned)
    assert len({tuple(row) for row in planned}) == 1


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_table_belongs_to_its_weights(path):
    table = json.loads(path.read_text(encoding="utf-8"))
    what, name = path.stem.split("_")
    asked = f" {name}" if what == "watermark" else ""
    assert table["sha256"] == zoo.load(name).sha256
    assert table["command"] == f"python -m ddim_tutorial.training.evaluate.{what}{asked}"
    assert all(row["pictures"] > 0 for row in table["rows"])
