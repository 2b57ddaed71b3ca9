"""The recipes that made the bundled weights: one file a model, one command each."""
