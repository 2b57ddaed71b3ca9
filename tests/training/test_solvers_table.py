"""The rows of the solvers' tables: what they cost, what they measure, where they go on."""

import json

import pytest
import torch

from ddim_tutorial import linear, scaled_linear, times, zoo
from ddim_tutorial.analytic import gaussian
from ddim_tutorial.metrics import relative_error
from ddim_tutorial.sampling import sample
from ddim_tutorial.training.evaluate import __main__ as command
from ddim_tutorial.training.evaluate import solvers, tables
from parts import tiny_pipeline

SCHEDULE = scaled_linear()
MODEL = gaussian(torch.full((1, 2, 2), 0.3).double(), 0.7, SCHEDULE)
X = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double()


def test_every_row_costs_what_its_s_says():
    rows = {(c["solver"], c["grid"], c["S"]) for c in solvers.plan(8, 1, 1.0)}
    *most, long = solvers.plan(50, 3, 1.0)
    assert {c["pictures"] for c in most} == {50}
    of_seed = [{(c["solver"], c["grid"], c["S"]) for c in most if c["seed"] == k} for k in range(3)]
    again = {(*how, S) for how in solvers.CONTENDERS for S in (5, 10, 20)} | {solvers.END}
    assert of_seed == [rows - {("ddim", "trailing", 1000)}, again, again] and again < rows
    few = {c["solver"] for c in solvers.plan(50, 3, 1.0, 20) if c["pictures"] == 20}
    assert set(solvers.PEERS) <= few and len(solvers.plan(50, 3, 1.0, 20)) == len(most) + 1
    assert (long["solver"], long["S"], long["seed"], long["pictures"]) == ("ddim", 1000, 0, 10)
    assert solvers.END in rows
    for solver, grid, S in rows:
        calls = [0]
        model = solvers.counted(MODEL, calls)
        solvers.run(model, X, SCHEDULE, solver, grid, S)
        assert calls[0] == (S - (S + 1) % 2 if solver == "Heun" else S), (solver, grid, S)


def test_every_solver_goes_to_the_same_end():
    """Gaussian data: the ODE scales what it starts from; the grids that end at t = 1 stop short."""
    end = solvers.run(MODEL, X, SCHEDULE, *solvers.END)
    spread = (0.7**2 * SCHEDULE.alpha_bar[-1] + 1 - SCHEDULE.alpha_bar[-1]).sqrt()
    exact = 0.3 + 0.7 / spread * (X - SCHEDULE.alpha_bar[-1].sqrt() * 0.3)
    assert relative_error(end, exact) < 2e-3
    for peer in solvers.PEERS:
        assert relative_error(solvers.run(MODEL, X, SCHEDULE, peer, "", 60), exact) < 0.06, peer


def test_a_picture_depends_on_its_seed_alone():
    def model_of(part):
        return MODEL

    cell = {"solver": "ddim", "grid": "trailing", "S": 4, "pictures": 5}
    draws = [solvers.runner(model_of, (1, 2, 2), SCHEDULE, batch) for batch in (5, 2)]
    (x, n), (y, m) = (draw(cell | {"seed": 1}) for draw in draws)
    assert n == m == 4 and torch.allclose(x, y, atol=1e-6)
    other, _ = draws[0](cell | {"seed": 0})
    assert (other - x).flatten(1).norm(dim=1).min() > 1e-3
    end = solvers.ends(draws[0])
    assert end(cell | {"seed": 1, "scale": 1.0}) is end(cell | {"seed": 1, "scale": 1.0})


def test_the_emoji_table_goes_on_where_it_was(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    tiny_pipeline(folder / "tokenizer").save_pretrained(folder, safe_serialization=True)
    monkeypatch.setattr(tables, "TABLES", tmp_path)
    some = [("ddim", "trailing", 2), solvers.END, ("UniPC", "its own", 5)]
    rows = [
        {"solver": a, "grid": b, "S": S, "seed": 0, "scale": 4.0, "pictures": 2} for a, b, S in some
    ]
    for most in (1, 3, 3):
        monkeypatch.setattr(solvers, "plan", lambda *_, most=most: rows[:most])
        solvers.emoji_solvers(folder, tmp_path, count=2)
        cells = json.loads((tmp_path / "emoji_solvers.json").read_text())["cells"]
        assert [c["evaluations"] for c in cells] == [2, 100, 5][:most]
    coarse, end, _ = cells
    assert end["error"] == 0 and end["sharpness"] == 1 and "psnr" not in end
    assert coarse["error"] > 0.01 and 0 < coarse["psnr"] < 60


def test_sharpness_is_the_mean_laplacian():
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1.0
    assert solvers.sharpness(x) == pytest.approx(8 / 9)
    ramp = torch.arange(5.0).expand(1, 1, 5, 5)
    assert solvers.sharpness(ramp) == 0


def test_the_command_passes_sizes_on_and_refuses_them_elsewhere(monkeypatch, capsys):
    seen = []
    monkeypatch.setitem(
        command.COMMANDS, "fashion-solvers", (lambda *_, **size: seen.append(size), command.DATA)
    )
    for given in ([], ["--count", "20"], ["--count", "20", "--seeds", "2"]):
        monkeypatch.setattr("sys.argv", ["evaluate", "fashion-solvers", *given])
        command.main()
    assert seen == [{}, {"count": 20}, {"count": 20, "seeds": 2}]
    monkeypatch.setattr("sys.argv", ["evaluate", "fashion-table1", "--count", "20"])
    with pytest.raises(SystemExit):
        command.main()
    assert "belong to fashion-solvers, emoji-solvers" in capsys.readouterr().err


def test_ddim_of_the_table_is_the_samplers():
    grid = times(1000, 7)
    schedule = linear()
    model = gaussian(torch.full((1, 2, 2), 0.3).double(), 0.7, schedule)
    expected = sample(model, X, grid, schedule)
    assert torch.equal(solvers.run(model, X, schedule, "ddim", "trailing", 7), expected)


def test_rows_of_fewer_garments_than_the_table_asks_for_have_no_frechet_distance(
    tmp_path, monkeypatch
):
    """It depends on the number of pictures."""
    pictures = torch.randint(0, 256, (40, 1, 32, 32), dtype=torch.uint8)
    monkeypatch.setattr(solvers, "read_data", lambda *_: (pictures, torch.arange(40) % 10))
    monkeypatch.setattr(tables, "TABLES", tmp_path)
    cell = {"solver": "ddim", "grid": "trailing", "S": 1, "seed": 0, "scale": 1.0}
    rows = [cell | {"pictures": 20}, cell | {"S": 2, "pictures": 10}]
    monkeypatch.setattr(solvers, "plan", lambda *_: rows)
    monkeypatch.setattr(solvers, "END", ("dpmpp_2m", "logsnr", 3))
    solvers.fashion_solvers(zoo.ZOO / "fashion", tmp_path, count=20, seeds=1)
    table = json.loads((tmp_path / "fashion_solvers.json").read_text())
    whole, part = table["cells"]
    assert whole["frechet"] > 0 and set(whole) - set(part) == {"frechet"}
    assert part["error"] > 0.01 and set(table["train_to_test"]) == {"20"}
