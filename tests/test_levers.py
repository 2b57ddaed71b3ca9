"""The levers are measured row by row, and a table goes on where it was."""

import json

import pytest
import torch

from ddim_tutorial import times
from ddim_tutorial.sampling import final, sample
from ddim_tutorial.solvers import dpmpp_2m
from parts import tiny_pipeline
from tools import levers


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd")
    tiny_pipeline(folder / "tokenizer").save_pretrained(folder, safe_serialization=True)
    return str(folder)


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setattr(levers, "TABLE", tmp_path / "data" / "levers.json")
    return levers.TABLE


def test_a_stopped_table_goes_on_and_another_processor_gets_rows_of_its_own(
    model, table, monkeypatch, capsys
):
    measured = []
    monkeypatch.setattr(
        levers.Bench, "row", lambda self, lever, pairs: measured.append(lever) or {"pairs": pairs}
    )
    command = ["--model", model, "--device", "cpu", "--batch", "2"]
    command += ["--pictures", "4", "--only", "our loop"]
    levers.main(command)
    levers.main([*command, "bf16"])
    assert measured == [levers.Lever(), levers.Lever(dtype=torch.bfloat16)]
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    levers.main(command)
    rows = json.loads(table.read_text())["rows"]
    assert [(row["lever"], row["isa"]) for row in rows] == [
        ("our loop", "native"), ("bf16", "native"), ("our loop", "AVX2"),
    ]  # fmt: skip
    assert capsys.readouterr().out.count("\n") == 3
    levers.main([*command, "--pictures", "6"])  # it had fewer: measured again, in its place
    rows = json.loads(table.read_text())["rows"]
    assert [(row["isa"], row["pictures"]) for row in rows] == [
        ("native", 4), ("native", 4), ("AVX2", 6),
    ]  # fmt: skip
    levers.main(command)
    assert json.loads(table.read_text())["rows"] == rows
    old = json.loads(table.read_text()) | {"unet_sha256": "of other weights"}
    table.write_text(json.dumps(old))
    levers.main(command)
    assert len(json.loads(table.read_text())["rows"]) == 1


def test_every_lever_draws_what_the_baseline_draws_but_for_its_error(model, monkeypatch):
    monkeypatch.setattr(levers, "SCALE", 1.5)
    bench = levers.Bench(model, 2, 4, "cpu")
    baseline, pictures = bench.baseline(), bench.run(levers.Lever())
    own = bench.drawn(levers.Lever())
    assert own.dtype == torch.float32 and own.shape == bench.end.shape
    assert (baseline - (pictures / 2 + 0.5).clamp(0, 1)).abs().max() < 1e-3
    for lever in (levers.Lever(interval=3), levers.Lever("dpmpp_2m", "ays", 20, torch.bfloat16)):
        z = bench.drawn(lever)
        assert 1e-6 < (z - own).norm() / own.norm() < 0.5
    again = bench.drawn(levers.Lever())  # no cache is left behind
    assert torch.equal(again, own)


def test_evaluations_that_are_left_out_are_the_last_and_the_run_ends_in_0(model):
    bench = levers.Bench(model, 2, 2, "cpu")
    z = bench.drawn(levers.Lever("dpmpp_2m", "karras", 10, left_out=3))
    space = bench.bundle(torch.float32, False).space(bench.prompts, scale=levers.SCALE)
    walked = [*times(1000, 10, "karras", space.schedule)[:7], 0]
    assert torch.equal(z, final(dpmpp_2m(space.model, bench.z_T, walked, space.schedule)))


def test_guidance_on_a_part_of_the_run_is_the_prompt_alone_outside_it(model):
    bench = levers.Bench(model, 2, 2, "cpu")
    space = bench.bundle(torch.float32, False).space(bench.prompts, scale=4.0)
    asked = levers.partly_guided(space, 300, 800)
    z, alone = torch.randn(2, 4, 8, 8), space.network
    for t in (300, 301, 800, 801):
        now = torch.full((2,), t)
        inside = 300 < t <= 800
        wanted = space.model(z, now) if inside else alone(z, now, space.condition)
        assert torch.equal(asked(z, now), wanted), t


def test_the_error_is_of_all_pictures_and_the_time_of_one_batch(model):
    bench = levers.Bench(model, 1, 2, "cpu")
    lever = levers.Lever(steps=2)
    both = bench.drawn(lever)
    space = bench.bundle(torch.float32, False).space(bench.prompts[1:], scale=levers.SCALE)
    second = sample(space.model, bench.z_T[1:], space.times(2), space.schedule)
    assert len(both) == 2 and torch.equal(both[1:], second)
    assert len(bench.run(lever)) == len(bench.baseline()) == 1
    with pytest.raises(ValueError, match="pictures=3: the last batch would not be of 2"):
        levers.Bench(model, 2, 3, "cpu")


def test_a_row_says_what_was_gained_and_what_it_cost(model, monkeypatch):
    runs = []
    monkeypatch.setattr(
        levers, "compare", lambda theirs, ours, *, pairs, calls: runs.append((theirs, ours))
        or dict(ratio_median=2.0, ratio_min=1.0, ratio_max=3.0),
    )  # fmt: skip
    bench = levers.Bench(model, 1, 1, "cpu")
    row = bench.row(levers.Lever("dpmpp_2m", "logsnr", 100), 5)
    assert row["error"] == 0 and row["psnr"] == float("inf")  # it is the end itself
    row = bench.row(levers.Lever(steps=3), 5)
    assert row["error"] > 1e-3 and 5 < row["psnr"] < 90
    assert (row["ratio median"], row["ratio min"], row["ratio max"]) == (2.0, 1.0, 3.0)
    assert row["pairs"] == 5 and runs[0][0] == bench.baseline


def test_a_pixel_model_is_no_latent_one(table):
    with pytest.raises(ValueError, match="fashion is a model of pixels, wanted a latent one"):
        levers.main(["--model", "fashion", "--device", "cpu"])
