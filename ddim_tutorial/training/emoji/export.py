"""From the run's last checkpoint to the bundled folder: fp16 weights, examples, card."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ddim_tutorial.training.checkpoint import finished, read_average

from .data import RUN, STYLES, Emoji, read_data
from .judge import read_judge
from .networks import Denoiser, components, new_pipeline
from .objects import ALIASES

ZOO = Path(__file__).parents[2] / "zoo" / "emoji"


def trained(run: Path):
    """The pipeline with the averaged weights of the run's last checkpoint, float32."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    vae, tokenizer = components(run, "vae", "tokenizer")
    state = run / "diffusion" / "state.safetensors"
    if not state.exists():
        raise FileNotFoundError(
            f"{state} is not there: start the diffusion training and wait for its first checkpoint"
        )
    config = UNet2DConditionModel.load_config(run / "diffusion" / "unet")
    config.pop("_name_or_path", None)  # of --init
    denoiser = Denoiser(
        UNet2DConditionModel.from_config(config),
        CLIPTextModel(CLIPTextConfig.from_pretrained(run / "diffusion" / "text_encoder")),
    )
    denoiser.load_state_dict(read_average(state))
    return new_pipeline(vae, denoiser.text_encoder, tokenizer, denoiser.unet)


def progress(run: Path) -> dict[str, dict[str, Any]]:
    """Steps, hours (by the clock) and losses (of the last line of the log) of both trainings at
    their last checkpoint; steps and hours of the weights that the run started from are added."""
    init = run / "diffusion" / "init.json"
    parts: dict[str, dict[str, Any]] = json.loads(init.read_text()) if init.exists() else {}
    for name in ("autoencoder", "diffusion"):
        log, state = run / name / "log.jsonl", run / name / "state.safetensors"
        if log.exists() and state.exists():
            step, seconds = finished(state)
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            last = ([{}] + [line for line in lines if line["step"] <= step])[-1]
            losses = {
                key: round(value, 5)
                for key, value in last.items()
                if key not in ("step", "lr", "seconds")
            }
            before = parts.get(name, {})
            parts[name] = {
                "steps": step + before.get("steps", 0),
                "hours": round(seconds / 3600 + before.get("hours", 0), 2),
                **losses,
            }
    return parts


def write_examples(data: Emoji, path: Path) -> None:
    """The held-out pictures: images (N, 3, 64, 64) uint8, labels (N,) int64 into the object names;
    the metadata has the captions, the names, and whether the style or the object is held out."""
    rows = (data.split > 0).nonzero()[:, 0].tolist()
    kinds = ["pair" if k == 1 else "object" for k in data.split[rows].tolist()]
    save_file(
        {"images": data.images[rows].contiguous(), "labels": data.objects[rows].contiguous()},
        path,
        metadata={
            "captions": json.dumps(data.captions(rows)),
            "names": json.dumps(data.names),
            "held_out": json.dumps(kinds),
        },
    )


def amend(path: Path, without: Iterable[str] = (), **entries: Any) -> None:
    """Add entries to a JSON file, or take some out."""
    content = {
        key: value for key, value in json.loads(path.read_text()).items() if key not in without
    }
    path.write_text(json.dumps(content | entries, indent=2) + "\n")


WEAKNESSES = (
    "It knows the names of its training pictures, in four styles, and little else: a prompt of"
    " other words gives an object it has seen or a blend.",
    "One object on white; no scenes, no counting, no text, no people.",
    "It misses the style asked for in one picture of five, and in nearly half of the pairs of style"
    " and object that it has not seen.",
    "Most weight of its cross-attention rests on the start and on the padding of the text"
    " (attention.png), so that maps of words hold little.",
)
COMMANDS = [
    *(
        f"python -m ddim_tutorial.training.emoji {part}"
        for part in ("data", "autoencoder", "diffusion", "judge", "export")
    ),
    "python -m ddim_tutorial.training.evaluate emoji",
]


def write_pipeline(pipe, folder: Path) -> None:
    """The pipeline as fp16 safetensors, without the traces of where it was before."""
    pipe.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    # transformers would load the text encoder in the dtype of its file and diffusers the rest in
    # float32
    amend(folder / "text_encoder" / "config.json", dtype="float32")
    for config in ("vae/config.json", "tokenizer/tokenizer_config.json"):
        amend(folder / config, without=("_name_or_path", "is_local", "local_files_only"))


def describe(data: Emoji, pipe, run: Path) -> dict[str, Any]:
    """The card: what the weights are, what they were made of and how, and what they may be used
    for. ``run``/history.txt, if there is one, says what the commands do not."""
    training, history = progress(run), run / "history.txt"
    parts = ("unet", "text_encoder", "vae")
    return {
        "name": "emoji",
        "title": "Emoji 64 x 64 from text: a latent diffusion model in Stable Diffusion's format",
        "data": {
            "pictures": len(data.images),
            "objects": len(data.names),
            "styles": list(STYLES),
            "training pictures": int((data.split == 0).sum()),
            "packages": data.packages,
        },
        "licence": "weights MIT; pictures: Noto Emoji and its blobs of 2017 Apache-2.0, Twemoji CC"
        " BY 4.0, Fluent Emoji MIT",
        "command": COMMANDS,
        "hours": round(sum(part["hours"] for part in training.values()), 2),
        "training": training,
        **({"history": history.read_text().strip()} if history.exists() else {}),
        "parameters": {
            part: sum(p.numel() for p in getattr(pipe, part).parameters()) for part in parts
        },
        "aliases": ALIASES,
        "quality": {},
        "weaknesses": list(WEAKNESSES),
    }


def export(run: Path = RUN, folder: Path = ZOO) -> None:
    """Write the pipeline of the run's last checkpoint with judge, examples and card. A quality
    measured before is dropped, for it belongs to other weights."""
    from ddim_tutorial.zoo import write_card

    data = read_data(run / "data.safetensors")
    judge = read_judge(run / "judge.safetensors", data.names)
    pipe = trained(run)
    write_pipeline(pipe, folder)
    judge.save(folder / "classifier")
    write_examples(data, folder / "examples.safetensors")
    write_card(folder, describe(data, pipe, run))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB")
