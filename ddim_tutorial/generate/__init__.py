"""Many pictures by one command, on one process or many, that goes on where it was stopped.

python -m ddim_tutorial.generate --help

Picture i depends on the model, the arguments and i alone: its noise comes from its own generator,
and its batch lies within its shard, so the number of processes changes nothing. On another device,
with another batch or number of threads, the last bits may differ.
"""

from .outputs import contact_sheet, frechet_to_fashion
from .run import generate
from .shards import Shards
from .source import Request, Source, picture_seed

__all__ = [
    "Request",
    "Shards",
    "Source",
    "contact_sheet",
    "frechet_to_fashion",
    "generate",
    "picture_seed",
]
