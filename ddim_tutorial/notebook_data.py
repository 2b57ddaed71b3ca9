"""The small data files of the notebooks, found from any working directory."""

from pathlib import Path

PACKAGE = Path(__file__).parent
# inside an installed package, beside a clone's, or where a notebook was copied to
FOLDERS = (
    PACKAGE / "notebooks" / "data",
    PACKAGE.parent / "notebooks" / "data",
    Path("data"),
    Path("notebooks", "data"),
)


def path(name: str) -> Path:
    """Where the data file ``name`` is, such as "fashion_table1.json"; FileNotFoundError that lists
    what there is instead."""
    for folder in FOLDERS:
        if (folder / name).is_file():
            return (folder / name).resolve()
    there = sorted({file.name for folder in FOLDERS for file in folder.glob("*") if file.is_file()})
    raise FileNotFoundError(
        f"{name}: no such data file of the notebooks; there are {', '.join(there) or 'none'},"
        f" looked for in {', '.join(str(folder) for folder in FOLDERS)}"
    )
