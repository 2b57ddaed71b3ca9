"""The notebooks' data files are found whatever the working directory is."""

import json

import pytest

from ddim_tutorial import notebook_data


@pytest.mark.parametrize("name", ["fashion_table1.json", "fashion_table2.json"])
def test_a_data_file_is_found_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = notebook_data.path(name)
    assert found.is_absolute() and json.loads(found.read_text(encoding="utf-8"))


def test_a_copy_beside_the_notebook_serves_where_the_package_has_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.json").write_text("{}")
    assert notebook_data.path("mine.json") == tmp_path / "data" / "mine.json"


def test_another_name_is_told_what_there_is():
    with pytest.raises(FileNotFoundError, match=r"table9.*fashion_table1\.json"):
        notebook_data.path("table9.json")
