"""The notebooks as a reader gets them: copied without loss, their tables found from anywhere."""

import sys
from pathlib import Path

import pytest
from jupyterlab import labapp

from ddim_tutorial import __main__ as command
from ddim_tutorial import lessons

SOURCE = Path(__file__).parents[1] / "notebooks"
NAMES = {path.name for path in SOURCE.glob("[0-9]*.ipynb")} | {
    f"data/{path.name}" for path in SOURCE.glob("data/*.json")
}


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    """Two lessons and a table that a test may change."""
    folder = tmp_path / "source"
    (folder / "data").mkdir(parents=True)
    for name in (lessons.FIRST, "01_b.ipynb", "_template.ipynb", "data/numbers.json"):
        (folder / name).write_text(f'{{"name": "{name}"}}', encoding="utf-8")
    monkeypatch.setattr(lessons, "folder", lambda: folder)
    return folder


def test_everything_is_copied_once(tmp_path):
    target = tmp_path / "with spaces" / "é"
    copied, kept = lessons.copy(target)
    assert set(copied) == NAMES and kept == []
    assert all((target / name).read_bytes() == (SOURCE / name).read_bytes() for name in NAMES)
    assert lessons.copy(target) == ([], [])


def test_a_changed_file_is_kept_and_a_missing_one_comes_back(source, tmp_path):
    target = tmp_path / "mine"
    assert lessons.copy(target) == ([lessons.FIRST, "01_b.ipynb", "data/numbers.json"], [])
    (target / lessons.FIRST).write_text("my answer")
    (target / "01_b.ipynb").unlink()
    assert lessons.copy(target) == (["01_b.ipynb"], [lessons.FIRST])
    assert (target / lessons.FIRST).read_text() == "my answer"


def test_a_new_version_replaces_what_the_reader_has_not_touched(source, tmp_path):
    target = tmp_path / "mine"
    lessons.copy(target)
    (target / lessons.FIRST).write_text("my answer")
    for name in (lessons.FIRST, "01_b.ipynb"):
        (source / name).write_text("new")
    assert lessons.copy(target) == (["01_b.ipynb"], [lessons.FIRST])
    assert (target / "01_b.ipynb").read_text() == "new"


def test_a_file_that_was_there_before_is_the_readers(source, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / lessons.FIRST).write_text("something else of that name")
    copied, kept = lessons.copy(tmp_path / "mine")
    assert kept == [lessons.FIRST] and lessons.FIRST not in copied


def test_the_originals_are_not_copied_onto_themselves(source):
    assert lessons.copy(source) == ([], []) and not (source / lessons.RECORD).exists()


def test_a_damaged_record_is_named(source, tmp_path):
    (tmp_path / lessons.RECORD).write_text("{")
    with pytest.raises(ValueError, match=r"\.copied\.json is damaged"):
        lessons.copy(tmp_path)


def test_a_table_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lessons.table("fashion_table1")["cells"]
    with pytest.raises(FileNotFoundError, match=r"'fashion_table9'.*fashion_table1"):
        lessons.table("fashion_table9")


def test_the_command_says_what_it_did(source, tmp_path, capsys):
    target = tmp_path / "mine"
    assert command.main(["notebooks", str(target)]) == 0
    assert f"3 files copied into {target}" in capsys.readouterr().out
    (target / lessons.FIRST).write_text("my answer")
    assert command.main(["notebooks", str(target)]) == 1
    assert f"kept {target / lessons.FIRST}" in capsys.readouterr().out


def test_a_folder_that_cannot_be_made_is_an_error_in_one_line(source, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stopped:
        command.main(["notebooks", str(tmp_path / "file" / "below")])
    assert stopped.value.code == 1 and len(capsys.readouterr().err.splitlines()) == 1


def test_lab_opens_the_first_copy(source, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(labapp, "main", started.append)
    target = tmp_path / "mine"
    assert command.main(["lab", str(target), "--no-browser"]) == 0
    assert started == [["--no-browser", str(target / lessons.FIRST)]]
    assert (target / lessons.FIRST).is_file()


def test_lab_without_jupyterlab_says_how_to_get_it(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jupyterlab.labapp", None)
    with pytest.raises(SystemExit) as stopped:
        command.main(["lab", str(tmp_path / "mine")])
    assert stopped.value.code == 1 and "pip install" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("arguments", [[], ["notebooks"], ["doctor", "--fast"], ["nurse"]])
def test_other_words_are_refused(arguments):
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2
