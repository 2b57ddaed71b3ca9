"""Models of the Hugging Face hub, in its local cache; the network only where that is allowed."""

from pathlib import Path
from typing import NamedTuple

from .pipeline import TEXT_ENCODER, UNET, VAE, missing_files

VARIABLE, DOWNLOAD = "DDIM_TUTORIAL_MODEL", "DDIM_TUTORIAL_DOWNLOAD"


class Alias(NamedTuple):
    """A model on the Hugging Face hub, at one revision for ever, with what its licence asks to be
    said."""

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
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    alias = next(
        (alias for short, alias in ALIASES.items() if name in (short, alias.hub_id)),
        Alias(name, "main", "see its page on the hub", "some gigabytes"),
    )
    ask = {"repo_id": alias.hub_id, "revision": alias.revision, "allow_patterns": HUB_FILES}
    tried = f"not bundled ({', '.join(bundled)}), not a folder, not in the cache {HF_HUB_CACHE}"
    go_on = f"To go on without it: zoo.load('emoji'), and {VARIABLE} not set"
    cause: Exception | None = None
    try:
        folder = Path(snapshot_download(**ask, local_files_only=True))
        whole = not (lost := missing_files(folder))
        tried += (
            "" if whole else f" as a whole (it lacks {lost[0]}: perhaps a download was cut short)"
        )
    except (LocalEntryNotFoundError, HFValidationError) as error:
        whole, cause = False, error
    if not whole and not download:
        raise ValueError(
            f"{name}: {tried}; the network was not used. To download it once ({alias.size}, to the"
            f" cache): {DOWNLOAD}=1, or zoo.load({name!r}, download=True). {go_on}"
        ) from cause
    if not whole:
        try:
            folder = Path(snapshot_download(**ask))
        except Exception as error:
            raise ValueError(
                f"{name}: {tried}, and the download failed ({type(error).__name__}: {error})."
                f" {go_on}"
            ) from error
        if lost := missing_files(folder):
            raise ValueError(
                f"{name}: the hub has no {lost[0]} there, wanted a StableDiffusionPipeline in"
                " safetensors"
            )
    if alias.hub_id not in NOTICED:
        NOTICED.add(alias.hub_id)
        print(f"{alias.hub_id} is under its own licence: {alias.licence}")
    return folder
