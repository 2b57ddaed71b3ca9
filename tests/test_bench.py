"""The benchmark runs and reports what it says; how fast anything is, is no test's business."""

import json

import pytest
import torch

from parts import tiny_pipeline
from tools import bench


def test_a_tiny_benchmark_prints_json(capsys):
    bench.main(["--device", "cpu", "--pairs", "3", "--calls", "2", "--steps", "2", "--width", "8"])
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"environment", "step", "loop"}
    for kind in ("step", "loop"):
        assert set(report[kind]) == set(bench.SHAPES)
        for figures in report[kind].values():
            assert 0 < figures["ratio_min"] <= figures["ratio_median"] <= figures["ratio_max"]
            assert figures["diffusers_us"] > 0 and figures["ours_us"] > 0
    assert all(len(figures["noise"]) == 3 for figures in report["loop"].values())


def test_a_ratio_is_theirs_over_ours_run_in_turns(monkeypatch):
    """On a clock that only the functions move: theirs takes 3 s, ours 2 s."""
    clock, order = [0.0], []
    monkeypatch.setattr(bench, "timer", lambda: clock[0])

    def takes(name, amount):
        def call():
            clock[0] += amount
            order.append(name)

        return call

    figures = bench.compare(takes("theirs", 3.0), takes("ours", 2.0), pairs=4, calls=2)
    assert figures["ratio_median"] == figures["ratio_min"] == figures["ratio_max"] == 1.5
    assert figures["diffusers_us"] == pytest.approx(3e6) and figures["ours_us"] == pytest.approx(
        2e6
    )
    assert order[:2] == ["theirs", "ours"]  # the warm-up
    assert order[2::4] == ["ours", "theirs", "ours", "theirs"]  # two calls a run, two runs a pair


def test_a_latent_model_is_compared_with_its_own_pipeline(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        bench, "compare", lambda theirs, ours, **_: seen.append((theirs(), ours())) or {}
    )
    tiny_pipeline(tmp_path / "sd" / "tokenizer").save_pretrained(
        tmp_path / "sd", safe_serialization=True
    )
    figures = bench.bench_latent(
        str(tmp_path / "sd"), "cpu", batch=2, steps=4, pairs=1, compiled=False
    )
    ((theirs, ours),) = seen
    assert (
        ours.dtype == torch.float32 and 0 < (theirs - ours).norm() <= 0.05 * theirs.norm()
    )  # bf16 against float32
    assert 30 < figures["psnr"] < 90


def test_a_pixel_model_is_no_latent_one():
    with pytest.raises(ValueError, match="fashion is a model of pixels, wanted a latent one"):
        bench.main(["--latent", "fashion", "--device", "cpu"])


def test_both_sides_compute_the_same(monkeypatch):
    """Benchmarking two different things would be easy: the results are compared instead of the
    times."""
    pairs = []

    def keep(theirs, ours, **_):
        if theirs is not ours:
            pairs.append((theirs(), ours()))
        return dict.fromkeys(("ratio_min", "ratio_median", "ratio_max"), 1.0)

    monkeypatch.setattr(bench, "compare", keep)
    bench.run("cpu", steps=3, width=8)
    assert len(pairs) == 4
    for theirs, ours in pairs[:2]:
        assert (theirs.prev_sample - ours[0]).norm() <= 2e-5 * ours[0].norm()
        assert (theirs.pred_original_sample - ours[1]).norm() <= 2e-5 * ours[1].norm()
    for theirs, ours in pairs[2:]:
        assert (theirs - ours).norm() <= 2e-5 * ours.norm()
