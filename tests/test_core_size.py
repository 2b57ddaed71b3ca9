"""The core stays small: five files, at most 450 lines of code, docstrings, comments and blank lines not counted."""

import ast
import io
import tokenize
from pathlib import Path

import ddim_tutorial

CORE = ("schedule.py", "jump.py", "sampling.py", "inversion.py", "guidance.py")
SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(source):
    """The number of lines that hold a token of code."""
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            docstrings |= set(range(body[0].lineno, body[0].end_lineno + 1))
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SILENT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def test_the_counter_counts():
    docstrings = '"""Module.\n\nText."""\n\nimport os  # why\n\n\ndef f(x):\n    """Doc."""\n    # why\n'
    assert code_lines(docstrings + '    y = """a\n    b"""\n    return y\n') == 5


def test_the_core_fits_in_450_lines():
    folder = Path(ddim_tutorial.__file__).parent
    counts = {name: code_lines((folder / name).read_text()) for name in CORE}
    assert sum(counts.values()) <= 450, counts
