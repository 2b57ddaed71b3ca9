"""What a maintainer runs from the project's folder: the notebooks, the figures, the benchmark."""
