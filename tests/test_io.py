"""Files appear whole or not at all."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from zwicky import io
from zwicky.errors import UserError


def write_half(context, path):
    """Fail in the middle of a write."""
    with context(path) as temporary:
        (temporary / "a" if temporary.is_dir() else temporary).write_text("half")
        raise RuntimeError


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "table.txt"
    with io.replacing(path) as temporary:
        temporary.write_text("old")
        assert not path.exists()
        assert temporary.parent == path.parent  # so that the rename is one step
    with pytest.raises(RuntimeError):
        write_half(io.replacing, path)
    assert (path.read_text(), names(path.parent)) == ("old", ["table.txt"])
    io.temporary_path(path).write_text("half")  # left by a killed writer
    io.write_text(path, "whole")
    assert (path.read_text(), names(path.parent)) == ("whole", ["table.txt"])


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder"
    with pytest.raises(RuntimeError):
        write_half(io.replacing_directory, path)
    assert names(tmp_path) == []
    io.temporary_path(path).mkdir()
    (io.temporary_path(path) / "stale").write_text("")
    with io.replacing_directory(path) as folder:
        (folder / "a").write_text("whole")
        assert not path.exists()
    assert names(path) == ["a"]
    with pytest.raises(UserError, match="cannot write"), io.replacing_directory(path):
        pass
    assert names(path) == ["a"]
    for unwritable in (path / "a" / "below.txt", path):
        with pytest.raises(UserError, match="cannot write"):
            io.write_text(unwritable, "text")


def test_json_holds_numbers_of_any_kind_and_no_nan(tmp_path):
    value = {"a": math.nan, "b": [np.float32(1.5), np.int64(2)], "c": np.array([1.0, np.nan])}
    value |= {"d": (True, None), 5: "é"}
    io.write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    expected = {"a": None, "b": [1.5, 2], "c": [1.0, None], "d": [True, None], "5": "é"}
    assert json.loads(text) == io.read_json(tmp_path / "x.json") == expected


def test_damaged_files_are_one_line(tmp_path):
    for content in (b"{", b"\xff\xfe"):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(UserError, match="cannot read"):
            io.read_json(tmp_path / "x.json")
    with pytest.raises(UserError, match="cannot read"):
        io.read_json(tmp_path / "missing.json")
    for content in (b"a: [", b"- 1\n- 2", b"just text", b"", b"\xff\xfe"):
        (tmp_path / "x.yaml").write_bytes(content)
        with pytest.raises(UserError):
            io.read_settings(tmp_path / "x.yaml")


def test_the_suffix_is_the_format_of_a_table(tmp_path):
    table = pd.DataFrame([{"a": 0.1 + 0.2}, {"b": "x,y", "a": 2.5}])
    io.write_table(tmp_path / "x.csv", table)
    assert (tmp_path / "x.csv").read_text().splitlines() == ["a,b", "0.30000000000000004,", '2.5,"x,y"']
    io.write_table(tmp_path / "x.parquet", table)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "x.parquet"), table)
