"""Many pictures: the same ones on any number of processes and after any number of kills; what would
mix or lose pictures is refused before the first."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ddim_tutorial import files, generators, latent, randn, sample, times, zoo
from ddim_tutorial.generate import Request, Source, contact_sheet, generate, picture_seed, shards
from ddim_tutorial.generate import __main__ as command
from ddim_tutorial.generate import source as source_module
from parts import relative, tiny_pipeline
from test_zoo import build

COUNT, SHARD, BATCH = 45, 6, 4
ARGUMENTS = ["--count", str(COUNT), "--steps", "3", "--shard", str(SHARD), "--batch", str(BATCH)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate") / "tiny"
    build(folder)
    zoo.write_card(folder, {"name": "tiny"})
    return folder


@pytest.fixture(scope="module")
def bundle(model):
    return zoo.load(model, device="cpu")


@pytest.fixture(scope="module")
def text_bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate") / "sd"
    tiny_pipeline(folder / "tokenizer").save_pretrained(folder, safe_serialization=True)
    return zoo.load(folder, device="cpu")


def small(**options):
    return Request(**{"count": 20, "steps": 3, "shard": 6, "batch": 4, **options})


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*"))}


def alone(*command_line, **variables):
    """Run python in a process of one thread, so that two runs add in the same order."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run([sys.executable, *command_line], env=environment, timeout=300,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- kills and processes --------------------------------------------------------------------------

KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from ddim_tutorial import zoo
from ddim_tutorial.generate import Request, Source, generate

model, whole, killed = sys.argv[1:]
source = Source(zoo.load(model, device="cpu"), Request(count=45, steps=3, shard=6, batch=4))
count = lambda: len(list(Path(killed).glob("shard-*")))

def run(folder):  # in a process of its own: this one never computes, so that it may fork
    child = os.fork()
    if child:
        return child
    try:
        generate(source, folder)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)

def finish(folder):
    if os.waitpid(run(folder), 0)[1]:
        sys.exit("a run failed")

begun = time.monotonic()
finish(whole)
pace, kills = (time.monotonic() - begun) / 8, 0  # seconds a shard
while kills < 4 and count() < 7:
    before, child = count(), run(killed)
    while count() == before and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.001)
    time.sleep(random.uniform(0, pace))
    os.kill(child, signal.SIGKILL)
    kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
finish(killed)
print(kills)
"""


@pytest.fixture(scope="module")
def runs(model, tmp_path_factory):
    """(kills, folder of an uninterrupted run, folder of a run that was killed)."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    folder = tmp_path_factory.mktemp("runs")
    whole, killed = folder / "whole", folder / "killed"
    seen = alone("-c", KILLER, str(model), str(whole), str(killed))
    return int(seen), whole, killed


def test_a_killed_run_goes_on_to_the_same_bytes(runs):
    kills, whole, killed = runs
    assert kills >= 2
    assert contents(killed) == contents(whole) and len(contents(whole)) == 8
    assert (killed / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()


def test_two_processes_make_the_same_bytes_as_one(runs, model, tmp_path):
    line = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    line += ["ddim_tutorial.generate", "--model", str(model), "--out", str(tmp_path / "two")]
    alone(*line, *ARGUMENTS, "--sheet", str(tmp_path / "sheet.png"), CUDA_VISIBLE_DEVICES="")
    assert contents(tmp_path / "two") == contents(runs[1])
    assert Image.open(tmp_path / "sheet.png").size == (8 * 8, 6 * 8)


def test_a_shard_holds_its_own_pictures_whatever_the_batch(runs):
    seen = [load_file(path) for path in sorted(runs[1].glob("shard-*"))]
    assert torch.cat([part["indices"] for part in seen]).tolist() == list(range(COUNT))
    assert [len(part["images"]) for part in seen] == [6] * 7 + [3]
    assert all(part["images"].dtype == torch.uint8 for part in seen)
    assert all(part["images"].shape[1:] == (1, 8, 8) for part in seen)


def test_what_is_done_is_not_done_again(bundle, tmp_path, monkeypatch):
    source = Source(bundle, small())
    generate(source, tmp_path)
    before = contents(tmp_path)
    (tmp_path / "shard-00002.safetensors").unlink()
    asked, real = [], Source.__call__
    spy = lambda self, part: asked.append(list(part)) or real(self, part)  # noqa: E731
    monkeypatch.setattr(Source, "__call__", spy)
    generate(source, tmp_path)
    assert asked == [[12, 13, 14, 15], [16, 17]]  # a batch begins and ends with its shard
    assert contents(tmp_path) == before


# --- the pictures ---------------------------------------------------------------------------------


def by_hand(bundle, indices, labels, solver_steps, seed=0):
    seeds = generators([picture_seed(seed, i) for i in indices])
    grid = times(1000, solver_steps)
    network = bundle.conditional(torch.tensor(labels))
    return sample(network, randn((len(indices), *bundle.shape), seeds), grid, bundle.schedule)


def test_pictures_are_those_of_the_sampler_from_their_own_seeds(bundle):
    source = Source(bundle, small(solver="ddim", labels=[2, 0]))
    seen, indices = source.floats([3, 4, 9]), [3, 4, 9]
    assert torch.equal(seen, by_hand(bundle, indices, [0, 2, 0], 3))
    every_class = Source(bundle, small(solver="ddim", seed=5)).floats(indices)
    assert torch.equal(every_class, by_hand(bundle, indices, [3 % 3, 4 % 3, 9 % 3], 3, seed=5))
    pixels = ((seen.clamp(-1, 1) + 1) * 127.5).round()
    assert torch.equal(source(indices).float(), pixels)


def test_guidance_is_applied(bundle):
    seen = [Source(bundle, small(scale=s)).floats([0, 1]) for s in (0.0, 1.0, 2.0)]
    assert all(relative(a, b) > 1e-4 for a, b in (seen[:2], seen[1:]))
    assert torch.equal(seen[1], Source(bundle, small()).floats([0, 1]))
    null = sample(
        bundle.model, randn((2, 1, 8, 8), generators([0, 1])), times(1000, 3), bundle.schedule
    )
    ddim = Source(bundle, small(scale=0.0, solver="ddim")).floats([0, 1])
    torch.testing.assert_close(ddim, null)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_a_picture_does_not_depend_on_its_batch(bundle, solver):
    """To rounding: another batch adds in another order, which 8 bits hide but for a few pixels."""
    source = Source(bundle, small(solver=solver, steps=10))
    together, pixels = source.floats(range(7)), source(range(7)).int()
    for i in range(7):
        assert relative(source.floats([i])[0], together[i]) <= 5e-6
        off = (source([i])[0].int() - pixels[i]).abs()
        assert off.max() <= 1 and off.float().mean() <= 0.01


def test_texts_make_pictures_in_turn(text_bundle):
    texts = ["a red apple on a table", "blurry"]
    source = Source(text_bundle, small(solver="ddim", prompts=texts, scale=2.0))
    assert source.shape == (3, 16, 16) and source(range(3)).shape == (3, 3, 16, 16)
    space = text_bundle.space([texts[1], texts[0]], scale=2.0)
    z_T = randn((2, *text_bundle.shape), generators([5, 6]))
    z_0 = sample(space.model, z_T, times(1000, 3), space.schedule)
    torch.testing.assert_close(source.floats([5, 6]), latent.decode(text_bundle.pipe.vae, z_0))


def test_seeds_are_distinct_and_fit_torchs_generator():
    seeds = {picture_seed(seed, i) for seed in range(20) for i in range(2000)}
    assert len(seeds) == 40_000 and min(seeds) >= 0 and max(seeds) < 2**32
    assert [picture_seed(0, i) for i in range(3)] == [0, 1, 2]


def test_the_manifest_says_how_the_pictures_were_made(bundle, tmp_path):
    generate(Source(bundle, small(seed=3)), tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    asked = {"count": 20, "steps": 3, "solver": "dpmpp_2m", "spacing": "trailing", "seed": 3}
    asked |= {"scale": 1.0, "labels": [0, 1, 2], "prompts": None, "batch": 4, "shard": 6}
    asked |= {"device": "cpu", "dtype": "torch.float32"}
    assert manifest["arguments"] == asked and manifest["model"] == "tiny"
    assert manifest["weights"]["unet/diffusion_pytorch_model.safetensors"] == bundle.sha256
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["times"] == [1000, 667, 333, 0]
    assert str(tmp_path) not in json.dumps(manifest)  # local paths are meaningless elsewhere


def test_the_sheet_shows_the_first_pictures(bundle, tmp_path):
    made = generate(Source(bundle, small()), tmp_path / "out")
    contact_sheet(made, tmp_path / "sheet.png", count=11, columns=4)
    sheet = torch.tensor(list(Image.open(tmp_path / "sheet.png").getdata())).view(24, 32)
    images = torch.cat(list(made.images()))
    for i in range(12):
        cell = sheet[8 * (i // 4) : 8 * (i // 4) + 8, 8 * (i % 4) : 8 * (i % 4) + 8]
        assert torch.equal(cell, images[i, 0].long() if i < 11 else torch.zeros(8, 8).long())


def test_the_distance_is_that_of_all_pictures_at_once(bundle, tmp_path, monkeypatch):
    pytest.importorskip("torchmetrics")
    from ddim_tutorial.generate import frechet_to_fashion
    from ddim_tutorial.grids import from_uint8
    from ddim_tutorial.training import fashion_data
    from ddim_tutorial.training.evaluate.measures import classify

    test_set = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8)
    monkeypatch.setattr(
        fashion_data, "read_data", lambda folder, split: (test_set, torch.zeros(60))
    )
    made = generate(Source(bundle, small(count=50)), tmp_path)
    features = [
        classify(bundle.classifier, from_uint8(images))[0].double()
        for images in (test_set, torch.cat(list(made.images())))
    ]
    (m_a, m_b), (c_a, c_b) = [f.mean(0) for f in features], [f.T.cov() for f in features]
    root = torch.linalg.eigvals(c_a @ c_b).sqrt().real.sum()
    wanted = (m_a - m_b).square().sum() + c_a.trace() + c_b.trace() - 2 * root
    seen = frechet_to_fashion(made, bundle, tmp_path)
    assert abs(seen - wanted.item()) <= 1e-6 * abs(wanted.item()) + 1e-8


# --- refusals -------------------------------------------------------------------------------------


@pytest.fixture
def main(model, monkeypatch):
    def run(*options):
        line = ["generate", "--model", str(model), "--count", "20", "--steps", "3", *options]
        monkeypatch.setattr(sys, "argv", [str(part) for part in line])
        command.main()

    return run


def refused(main, *options):
    with pytest.raises(SystemExit) as stop:
        main(*options)
    return str(stop.value)


@pytest.mark.parametrize(
    "options, difference",
    [
        (["--count", 21], "count: 20 there, 21 asked for"),
        (["--steps", 4], "steps: 3 there, 4 asked for"),
        (["--solver", "ddim"], "solver: 'dpmpp_2m' there, 'ddim' asked for"),
        (["--spacing", "logsnr"], "spacing: 'trailing' there, 'logsnr' asked for"),
        (["--seed", 1], "seed: 0 there, 1 asked for"),
        (["--scale", 2], "scale: 1.0 there, 2.0 asked for"),
        (["--labels", 1], r"labels: [0, 1, 2] there, [1] asked for"),
        (["--batch", 5], "batch: 4 there, 5 asked for"),
        (["--shard", 7], "shard: 6 there, 7 asked for"),
    ],
)
def test_other_arguments_are_refused_by_name(main, bundle, tmp_path, options, difference):
    generate(Source(bundle, small()), tmp_path)
    before = contents(tmp_path)
    message = refused(main, "--shard", 6, "--out", tmp_path, *options)
    assert f"({difference})" in message and "another folder" in message
    assert contents(tmp_path) == before


def test_other_weights_are_refused(bundle, tmp_path):
    source = Source(bundle, small())
    generate(source, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    name = "unet/diffusion_pytorch_model.safetensors"
    manifest["weights"][name] = "0" * 64
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"{name}: '000.*asked for"):
        generate(source, tmp_path)


def test_other_versions_are_said_and_go_on(bundle, tmp_path):
    source = Source(bundle, small())
    generate(source, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["versions"]["torch"] = "1.0"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.warns(UserWarning, match=r"torch 1\.0 -> "):
        generate(source, tmp_path)


def test_a_resumed_run_keeps_its_batch(main, bundle, tmp_path):
    generate(Source(bundle, small()), tmp_path)
    before = contents(tmp_path)
    (tmp_path / "shard-00001.safetensors").unlink()
    main("--shard", 6, "--out", tmp_path)  # no --batch: 4, not 50
    assert contents(tmp_path) == before


@pytest.fixture
def no_picture(monkeypatch):
    def never(self, indices):
        raise AssertionError("a picture was made")

    monkeypatch.setattr(source_module.Source, "floats", never)


@pytest.mark.usefixtures("no_picture")
def test_a_folder_that_cannot_be_written_is_said_before_the_first_picture(main, tmp_path):
    (tmp_path / "file").write_text("")
    message = refused(main, "--out", tmp_path / "file" / "pictures")
    assert "cannot be written (Not a directory); pass a folder" in message
    message = refused(main, "--out", tmp_path / "o", "--sheet", tmp_path / "file" / "sheet.png")
    assert "cannot be written (" in message and "pass a folder" in message


@pytest.mark.usefixtures("no_picture")
def test_a_full_disk_is_said_before_the_first_picture(main, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    free = shards.RESERVE + 20 * (64 + 8)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(free, 0, free - 1))
    assert "20 pictures need 0.0 MB and 0.0 MB are free; make room" in refused(
        main, "--out", tmp_path
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(free, 0, free))
    with pytest.raises(AssertionError, match="a picture was made"):
        main("--out", tmp_path)


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize(
    "options, says",
    [
        (["--count", 0], r"count=0.*1\.\."),
        (["--steps", 0], r"steps=0.*1\.\.1000"),
        (["--steps", 1001], r"steps=1001.*1\.\.1000"),
        (["--batch", 0], "batch=0"),
        (["--shard", 0], "shard=0"),
        (["--seed", -1], "seed=-1"),
        (["--scale", "nan"], "scale=nan: pass a finite"),
        (["--labels", 9], r"a label=9.*0\.\.3"),
        (["--model", "no-such-model"], "neither a bundled model"),
        (["--prompts", "no-such-file"], "no-such-file"),
        (["--frechet"], "apt install dataset-fashion-mnist"),
    ],
)
def test_arguments_are_refused_before_the_first_picture(main, tmp_path, options, says):
    data = ["--data", tmp_path / "nothing"]
    assert re.search(says, refused(main, "--out", tmp_path / "out", *data, *options))


def test_texts_for_classes_and_classes_for_texts_are_refused(bundle, text_bundle):
    with pytest.raises(ValueError, match="prompts: tiny makes pictures of classes"):
        Source(bundle, small(prompts=["a hat"]))
    with pytest.raises(ValueError, match="labels: sd makes pictures of texts"):
        Source(text_bundle, small(prompts=["a hat"], labels=[1]))
    with pytest.raises(ValueError, match="prompts: sd has no captions of its own"):
        Source(text_bundle, small())
    with pytest.raises(ValueError, match="labels: there is none"):
        small(labels=[])
    with pytest.raises(ValueError, match=r"solver='euler'.*pass one of ddim"):
        small(solver="euler")


def test_damaged_and_foreign_shards_are_refused(bundle, tmp_path):
    source = Source(bundle, small())
    made = generate(source, tmp_path)
    path = made.path(1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match=r"shard-00001.*damaged.*remove it and run again"):
        generate(source, tmp_path)
    save_file({"images": torch.zeros(6), "indices": torch.arange(6)}, path)
    with pytest.raises(ValueError, match=r"shard-00001.*other pictures; remove it"):
        generate(source, tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"shard-00001.*missing"):
        contact_sheet(made, tmp_path / "sheet.png")
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"shards without manifest\.json"):
        generate(source, tmp_path)


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    """A stop just before the rename, the last moment that could lose anything."""
    path = tmp_path / "shard-00000.safetensors"
    files.write_whole(path, b"first")

    def stop(*names):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            files.write_whole(path, b"second")
    assert path.read_bytes() == b"first"
    assert [p.name for p in tmp_path.glob("shard-*")] == [path.name]
    files.write_whole(path, b"third")
    assert path.read_bytes() == b"third" and os.listdir(tmp_path) == [path.name]
