"""Models of the Hugging Face hub, in its local cache; the network only where that is allowed."""

from pathlib import Path
from typing import NamedTuple

from .pipeline import TEXT_ENCODER, UNET, VAE, missing_files

VARIABLE, DOWNLOAD = "DDIM_TUTORIAL_MODEL", "DDIM_TUTORIAL_DOWNLOAD"


class Alias(NamedTuple):
    """A model on the Hugging Face hub, pinned to one revision, with its licence notice."""

    hub_id: str
    revision: str
    licence: str
    size: str


ALIASES = {
    "sd-v1-4": Alias(
        "CompVis/stable-diffusion-v1-4",
        "133a221b8aa7292a167afc5127cb63fb5005638b",
        "CreativeML OpenRAIL-M, which forbids some uses and asks that they are passed on: "
        "https://huggingface.co/spaces/CompVis/stable-diffusion-license",
        "4.3 GB",
    )
}


HUB_FILES = [
    "model_index.json",
    "*/config.json",
    "scheduler/*",
    "tokenizer/*",
    UNET,
    VAE,
    TEXT_ENCODER,
]


NOTICED: set[str] = set()  # licences that were shown


def from_hub(name: str, download: bool, bundled: list[str]) -> Path:
    """The folder of a hub model in the local cache, filled from the network if that is allowed."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    alias = next(
        (alias for short, alias in ALIASES.items() if name in (short, alias.hub_id)),
        Alias(name, "main", "see its page on the hub", "some gigabytes"),
    )
    request = {"repo_id": alias.hub_id, "revision": alias.revision, "allow_patterns": HUB_FILES}
    advice = f"To go on without it: zoo.load('emoji'), and {VARIABLE} not set"
    cause: Exception | None = None
    folder, missing = Path(), ["everything"]
    try:
        folder = Path(snapshot_download(**request, local_files_only=True))
        missing = missing_files(folder)
        state = (
            f" as a whole (it lacks {missing[0]}: perhaps a download was cut short)"
            if missing
            else ""
        )
    except (LocalEntryNotFoundError, HFValidationError) as error:
        state, cause = _other_revisions(alias), error
    state = f"not bundled ({', '.join(bundled)}), not a folder, not in the cache {_cache()}{state}"
    if missing and not download:
        raise ValueError(
            f"{name}: {state}; the network was not used. To download it once ({alias.size}, to the"
            f" cache): {DOWNLOAD}=1, or zoo.load({name!r}, download=True). {advice}"
        ) from cause
    if missing:
        try:
            folder = Path(snapshot_download(**request))
        except Exception as error:
            raise ValueError(
                f"{name}: {state}, and the download failed ({type(error).__name__}: {error})."
                f" {advice}"
            ) from error
        if missing := missing_files(folder):
            raise ValueError(
                f"{name}: the hub has no {missing[0]} there, wanted a StableDiffusionPipeline in"
                " safetensors"
            )
    if alias.hub_id not in NOTICED:
        NOTICED.add(alias.hub_id)
        print(f"{alias.hub_id} is under its own licence: {alias.licence}")
    return folder


def _cache() -> str:
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE


def _other_revisions(alias: Alias) -> str:
    """Which revisions of the model the cache has instead, and how to load one of them."""
    snapshots = Path(_cache()) / f"models--{alias.hub_id.replace('/', '--')}" / "snapshots"
    folders = sorted(path for path in snapshots.glob("*") if path.is_dir())
    if not folders:
        return ""
    return (
        f" at revision {alias.revision}; the cache has {', '.join(path.name for path in folders)}:"
        f" to use that one, zoo.load({str(folders[0])!r})"
    )


def hub_name(folder: Path) -> str:
    """The folder's name, or the hub id where the folder lies in the hub's cache
    (models--owner--name/snapshots/...)."""
    if folder.parent.name == "snapshots":
        return folder.parents[1].name.removeprefix("models--").replace("--", "/")
    return folder.name
