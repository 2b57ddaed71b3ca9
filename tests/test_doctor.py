"""``python -m ddim_tutorial doctor`` says what would fail, and its exit code too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddim_tutorial import __main__ as command
from ddim_tutorial import zoo
from parts import tiny_pipeline, tiny_unet

ROOT = Path(__file__).parents[1]


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    """A zoo of two small models, under the names of the default ones."""
    from diffusers import DDIMScheduler

    folder = tmp_path / "fashion"
    tiny_unet().save_pretrained(folder / "unet")
    DDIMScheduler(clip_sample=False).save_pretrained(folder / "scheduler")
    zoo.write_card(folder, {"name": "fashion"})
    tiny_pipeline(tmp_path / "emoji" / "tokenizer").save_pretrained(
        tmp_path / "emoji", safe_serialization=True
    )
    zoo.write_card(tmp_path / "emoji", {"name": "emoji"})
    monkeypatch.setattr(zoo, "ZOO", tmp_path)
    monkeypatch.delenv(zoo.VARIABLE, raising=False)
    return folder


def report(capsys) -> tuple[int, str, str]:
    """Exit code, what is said before "would fail:", and after."""
    code = command.doctor()
    said, would_fail = capsys.readouterr().out.split("would fail:")
    return code, said, would_fail


def test_a_whole_installation(bundled, capsys):
    code, said, would_fail = report(capsys)
    assert (code, would_fail.strip()) == (0, "nothing")
    assert "torch>=" in said and "ok  fashion  " in said and "threads" in said
    assert said.count("sha256 as in the card") == said.count("loads and evaluates on") == 2


@pytest.mark.parametrize(("name", "kind"), [("fashion", "pixel"), ("emoji", "latent")])
def test_changed_weights(bundled, capsys, name, kind):
    weights = bundled.parent / name / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    code, said, would_fail = report(capsys)
    assert code == 1 and f"NO  {name}" in said and f"NO  the {kind} model" in said
    assert (
        "diffusion_pytorch_model.safetensors" in would_fail
        and said.count("loads and evaluates on") == 1
    )


def test_a_chosen_model_that_is_damaged(bundled, capsys, monkeypatch, tmp_path):
    """The bundled models are whole, but the notebooks on latent models would not load this one."""
    tiny_pipeline(tmp_path / "sd" / "tokenizer").save_pretrained(
        tmp_path / "sd", safe_serialization=True
    )
    (tmp_path / "sd" / "vae" / "config.json").unlink()
    monkeypatch.setenv(zoo.VARIABLE, str(tmp_path / "sd"))
    code, said, would_fail = report(capsys)
    assert (
        code == 1
        and "NO  the latent model" in said
        and "vae" in would_fail
        and "fashion loads" in said
    )


def test_no_model(bundled, capsys, monkeypatch):
    monkeypatch.setattr(zoo, "ZOO", bundled / "nothing")
    code, _, would_fail = report(capsys)
    assert code == 1 and "no model is bundled" in would_fail


def test_a_chosen_model_that_does_not_exist(bundled, capsys, monkeypatch):
    monkeypatch.setenv(zoo.VARIABLE, "no-such-model")
    code, _, would_fail = report(capsys)
    assert code == 1 and "no-such-model" in would_fail


@pytest.mark.parametrize(("name", "code"), [("torch", 1), ("jupyterlab", 1), ("hypothesis", 0)])
def test_a_missing_package_fails_what_needs_it(bundled, capsys, monkeypatch, name, code):
    found = command.version

    def version(package):
        if package == name:
            raise command.PackageNotFoundError(package)
        return found(package)

    monkeypatch.setattr(command, "version", version)
    seen, said, would_fail = report(capsys)
    assert seen == code and "not installed" in said and (name in would_fail) == bool(code)


def test_an_old_package(bundled, capsys, monkeypatch):
    found = command.version
    monkeypatch.setattr(
        command, "version", lambda name: "0.1" if name == "diffusers" else found(name)
    )
    code, _, would_fail = report(capsys)
    assert code == 1 and "found 0.1" in would_fail


def call(name: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ddim_tutorial", name]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command():
    done = call("doctor")
    assert "would fail:" in done.stdout and done.returncode == (
        "would fail: nothing" not in done.stdout
    )
    assert call("nurse").returncode == 2


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "ddim_tutorial", "doctor"),
        ("-m", "tools.run_notebooks", "modèles.ipynb"),
        ("-m", "tools.figures", "modèles"),
        ("-m", "tools.bench", "--device", "modèles"),
    ],
)
def test_a_letter_that_the_terminal_lacks_is_escaped(command, tmp_path):
    environment = os.environ | {
        "DDIM_TUTORIAL_MODEL": "modèles/sd",
        "PYTHONIOENCODING": "ascii",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, env=environment, cwd=tmp_path, check=False
    )
    output = (done.stdout + done.stderr).decode("ascii")
    assert r"mod\xe8les" in output and "UnicodeEncodeError" not in output and done.returncode != 0
    if "doctor" in command:
        assert "would fail:" in output and not done.stderr.strip().startswith(b"Traceback")
