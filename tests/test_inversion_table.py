"""The table of inversion methods: its measures against closed forms, its rows one by one."""

import json
import math
from itertools import pairwise

import pytest
import torch

from ddim_tutorial import analytic, scaled_linear, times, zoo
from ddim_tutorial.inversion import Inversion, InversionStep
from ddim_tutorial.solvers import dpmpp_2m
from ddim_tutorial.training.evaluate import inversion, tables, trips
from ddim_tutorial.training.evaluate.subjects import Subject, ending_at_1, mixture

SCHEDULE, STD = scaled_linear(), 0.5
ROWS = sorted(tables.TABLES.glob("inversion_*.json"))


def gauss(n=4, dtype="float64", folder=None, sha256="a"):
    """Data N(0, STD^2), where the flow's end is known."""
    own = torch.Generator().manual_seed(0)
    x_0 = STD * torch.randn(n, 1, 4, 4, generator=own, dtype=torch.float64)
    return Subject("mixture", sha256, SCHEDULE, x_0, lambda scale: analytic.gaussian(
        0.0, STD, SCHEDULE), {"trailing": lambda S: times(1000, S)})  # fmt: skip


def measure(method, S=10):
    return inversion.measure(gauss(), "trailing", method, S, 1.0, "float64", ends={})


def test_the_flow_ends_where_the_closed_form_says():
    """The flow of Gaussian data multiplies by the ratio of the standard deviations."""
    x_T, ab = torch.ones(1, 2, 2, dtype=torch.float64), SCHEDULE.alpha_bar
    wanted = STD / (STD**2 * ab[1000] + 1 - ab[1000]).sqrt()
    ends = {}
    end = inversion.flow_end(gauss(), 1.0, x_T, [1000, 0], ends)
    assert (end / wanted - 1).abs().max() <= 1e-4 and len(ends) == 1
    later = inversion.flow_end(gauss(), 1.0, x_T, [500, 1], ends)
    wanted = ((STD**2 * ab[1] + 1 - ab[1]) / (STD**2 * ab[500] + 1 - ab[500])).sqrt()
    assert (later / wanted - 1).abs().max() <= 1e-4


def test_the_sampling_error_of_ddim_is_that_of_the_product_of_cosines():
    """On Gaussian data DDIM shrinks the flow's end by the cosines between neighbouring (STD alpha,
    sigma)."""
    grid, ab = times(1000, 10), SCHEDULE.alpha_bar
    u = torch.stack([STD * ab[grid].sqrt(), (1 - ab[grid]).sqrt()], 1)
    wanted = 1 - torch.cosine_similarity(u[1:], u[:-1]).prod().item()
    row = measure(inversion.EXACT)
    assert abs(row["sampling"]["median"] - wanted) <= 2e-4
    assert row["round trip"]["max"] <= 1e-11 and row["solved pictures"] == 1
    assert row["finds the noise"]["relative error"]["max"] <= 1e-11
    assert row["unsolved steps"] == [] and "x_T under DDIM" not in row


def test_naive_inversion_finds_the_noise_times_a_number_that_correlation_does_not_see():
    ab, factor = SCHEDULE.alpha_bar, 1.0
    a, sigma = ab.sqrt(), (1 - ab).sqrt()
    slope = sigma / (STD**2 * ab + 1 - ab)
    grid = times(1000, 10)
    for t, s in pairwise(grid):
        up = a[t] / a[s] + (sigma[t] - sigma[s] * a[t] / a[s]) * slope[t]
        down = a[s] / a[t] + (sigma[s] - sigma[t] * a[s] / a[t]) * slope[t]
        factor *= (up * down).item()
    found = measure(inversion.NAIVE)["finds the noise"]
    assert found["relative error"]["median"] == pytest.approx(abs(1 - factor), rel=1e-6)
    assert found["correlation"] == pytest.approx(1) and abs(1 - factor) > 0.05


@pytest.mark.parametrize("method", inversion.COUPLED)
def test_a_coupled_row_tells_its_own_trip_from_that_under_ddim(method):
    row = measure(method)
    assert row["round trip"]["max"] <= 1e-10 and row["x_T under DDIM"]["median"] >= 1e-3
    assert "solved pictures" not in row
    stages = {
        "EDICT": 2,
        "EDICT, alternating": 2,
        "BDIA": 1,
        "O-BELM": 1,
        "Rex": 4,
        "Rex, Euler": 2,
    }[method]
    assert row["evaluations a step"] == stages


def test_what_2m_found_is_off_under_ddim_by_the_ratio_of_their_gains():
    """Every sampler multiplies data N(0, STD^2) by a number, DDIM by (STD^2 a_t a_s + sigma_t
    sigma_s) / (STD^2 a_t^2 + sigma_t^2) in a step."""
    grid, ab = times(1000, 10), SCHEDULE.alpha_bar
    a, sigma = ab.sqrt(), (1 - ab).sqrt()
    t, s = grid[:-1], grid[1:]
    gains = (STD**2 * a[t] * a[s] + sigma[t] * sigma[s]) / (STD**2 * ab[t] + 1 - ab[t])
    one = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    *_, last = dpmpp_2m(analytic.gaussian(0.0, STD, SCHEDULE), one, grid, SCHEDULE)
    wanted = abs(gains.prod().item() / last.x_s.mean().item() - 1)
    row = measure("DPM-Solver++ 2M")
    assert row["x_T under DDIM"]["median"] == pytest.approx(wanted, rel=1e-6) and wanted > 1e-3


def test_the_second_order_samplers_end_nearer():
    errors = {name: measure(name)["sampling"]["median"] for name in inversion.INVERSIONS}
    assert max(errors["O-BELM"], errors["Rex"]) < errors[inversion.NAIVE] / 1.5


def test_what_was_not_solved_is_told_step_by_step():
    steps = (
        InversionStep(0, 100, 9, torch.tensor([1e-3, 1e-7])),
        InversionStep(100, 200, 3, torch.tensor([1e-7, 5e-7])),
    )
    row = trips.cost(Inversion(torch.zeros(2), 1e-3, False, 12, steps), 1e-6)
    assert row["evaluations a step"] == 6 and row["solved pictures"] == 0.5
    assert row["unsolved steps"] == [100] and row["worst step"] == [0, 100]
    assert row["residual of the first step"] == pytest.approx(1e-3)
    assert row["residual of the others"] == pytest.approx(5e-7)


def test_a_walk_of_one_step_has_no_others():
    steps = (InversionStep(0, 1000, 9, torch.tensor([1e-3, 1e-7])),)
    row = trips.cost(Inversion(torch.zeros(2), 1e-3, False, 9, steps), 1e-6)
    assert row["residual of the first step"] == pytest.approx(1e-3)
    assert row["residual of the others"] is None


def test_the_four_tests_on_a_tensor_whose_answers_are_known():
    checker = (-1.0) ** (torch.arange(8)[:, None] + torch.arange(8)).double()
    row = trips.four_tests(3 + 2 * checker[None, None])
    n = 64 / 63  # torch's std divides by n - 1
    assert row["mean"] == pytest.approx(3) and row["std"] == pytest.approx(2 * math.sqrt(n))
    assert row["kurtosis"] == pytest.approx(1 / n**2)
    assert row["neighbours"] == pytest.approx(-1 / n)
    assert "neighbours" not in trips.four_tests(torch.randn(4, 8))


@pytest.mark.parametrize(
    ("grid", "to_1"), [([9, 5, 0], [9, 5, 1]), ([9, 1, 0], [9, 1]), ([9, 2, 1], [9, 2, 1])]
)
def test_a_grid_is_ended_at_1(grid, to_1):
    assert ending_at_1(grid) == to_1


def test_rows_are_saved_one_by_one_and_measured_again_from_more_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(inversion, "TABLES", tmp_path)
    calls = []

    def fake(subject, grid, method, S, scale, dtype, ends):
        calls.append((S, len(subject.x_0)))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {"seen": len(calls)}

    monkeypatch.setattr(inversion, "measure", fake)
    plan = [dict(zip(inversion.KEY, ("trailing", "EDICT", S, 1.0, "float64"), strict=True))
            for S in (10, 20)]  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        inversion.fill_table("mixture", plan, 2, subjects=gauss)
    inversion.fill_table("mixture", plan, 2, subjects=gauss)
    assert calls == [(10, 2), (20, 2), (20, 2)]
    inversion.fill_table("mixture", plan[1:], 3, subjects=gauss)
    inversion.fill_table("mixture", plan, 1, subjects=gauss)
    path = tmp_path / "inversion_mixture.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    assert [(row["S"], row["pictures"]) for row in table["rows"]] == [(10, 2), (20, 3)]
    inversion.fill_table("mixture", plan[:1], 1, subjects=lambda *given: gauss(1, sha256="b"))
    table = json.loads(path.read_text(encoding="utf-8"))
    assert table["sha256"] == "b" and len(table["rows"]) == 1


def test_the_command_makes_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(inversion, "TABLES", tmp_path)
    options = "--pictures 2 --steps 10 --scales 1 --dtypes float64 --methods"
    inversion.main(["mixture", *options.split(), "EDICT"])
    table = json.loads((tmp_path / "inversion_mixture.json").read_text(encoding="utf-8"))
    (row,) = table["rows"]
    assert [row[key] for key in inversion.KEY] == ["trailing", "EDICT", 10, 1.0, "float64"]
    assert row["pictures"] == 2 and table["command"].endswith("inversion mixture")


def test_the_command_refuses_a_grid_of_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr(inversion, "TABLES", tmp_path)
    with pytest.raises(SystemExit):
        inversion.main(["fashion", "--grids", "pipeline"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.stem)
def test_a_stored_table_belongs_to_its_weights(path):
    table = json.loads(path.read_text(encoding="utf-8"))
    name = path.stem.removeprefix("inversion_")
    sha256 = mixture(1, "float64").sha256 if name == "mixture" else zoo.load(name).sha256
    assert table["sha256"] == sha256
    assert table["command"] == f"python -m ddim_tutorial.training.evaluate.inversion {name}"
    keys = [tuple(row[key] for key in inversion.KEY) for row in table["rows"]]
    assert len(keys) == len(set(keys)) and {"torch", "python"} <= table["versions"].keys()
