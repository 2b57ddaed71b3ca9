"""A wheel also holds the notebooks, beside the modules; pyproject.toml says everything else."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithNotebooks(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # a checkout has them beside the package
            target = Path(self.build_lib, "ddim_tutorial", "notebooks")
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(
                "notebooks", target, ignore=shutil.ignore_patterns(".*", "_*", "__pycache__")
            )


setup(cmdclass={"build_py": WithNotebooks})
