"""What every command does first."""

import sys


def escape_unprintable() -> None:
    r"""Write ``\xe8`` for a letter that a stream's encoding lacks, where Python would stop: a
    report with an escaped letter is still a report."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
