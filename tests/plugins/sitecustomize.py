"""Python imports this at start-up when its folder is on PYTHONPATH."""

import offline  # noqa: F401
