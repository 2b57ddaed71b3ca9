"""Kinds of numbers on the command line."""

import argparse


def positive(text: str) -> int:
    """A whole number from 1 up, of the command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}, wanted 1 or more")
    return value


def natural(text: str) -> int:
    """A whole number from 0 up, of the command line."""
    return positive(text) if text != "0" else 0


def fraction(text: str) -> float:
    """A number from 0 to 1, of the command line."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"got {value}, wanted 0 to 1")
    return value
