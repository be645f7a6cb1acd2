"""Files appear whole or not at all."""

import json
import math
import os

import numpy as np
import pandas as pd
import pytest

from zwicky.errors import UserError
from zwicky.io import (
    read_json,
    read_settings,
    replacing,
    replacing_directory,
    temporary_path,
    write_json,
    write_table,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.txt"
    write_text(path, "old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert [child.name for child in tmp_path.iterdir()] == ["table.txt"]


def test_the_file_is_invisible_until_it_is_whole(tmp_path):
    path = tmp_path / "new" / "table.txt"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent  # so that the rename is one step
    assert path.read_text() == "whole"


def test_the_next_attempt_overwrites_what_a_killed_writer_left(tmp_path):
    path = tmp_path / "a.txt"
    temporary_path(path).write_text("half")
    write_text(path, "whole")
    assert [child.name for child in tmp_path.iterdir()] == ["a.txt"]


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder"

    def fail():
        with replacing_directory(path) as folder:
            (folder / "a").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []
    temporary_path(path).mkdir()
    (temporary_path(path) / "stale").write_text("")
    with replacing_directory(path) as folder:
        (folder / "a").write_text("whole")
        assert not path.exists()
    assert [child.name for child in path.iterdir()] == ["a"]
    with pytest.raises(UserError, match="cannot write"), replacing_directory(path):
        pass
    assert [child.name for child in path.iterdir()] == ["a"]


def test_an_unwritable_path_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "below.txt", tmp_path):
        with pytest.raises(UserError, match="cannot write"):
            write_text(path, "text")
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(UserError, match="cannot write"):
            write_text(tmp_path / "locked" / "a.txt", "text")


def test_json_holds_numbers_of_any_kind_and_no_nan(tmp_path):
    value = {"a": math.nan, "b": [np.float32(1.5), np.int64(2)], "c": np.array([1.0, np.nan])}
    value |= {"d": (True, None), 5: "é"}
    write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    expected = {"a": None, "b": [1.5, 2], "c": [1.0, None], "d": [True, None], "5": "é"}
    assert json.loads(text) == read_json(tmp_path / "x.json") == expected


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe"])
def test_damaged_json_is_one_line(tmp_path, content):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="cannot read"):
        read_json(path)


def test_the_suffix_is_the_format_of_a_table(tmp_path):
    table = pd.DataFrame([{"a": 0.1 + 0.2}, {"b": "x,y", "a": 2.5}])
    write_table(tmp_path / "x.csv", table)
    assert (tmp_path / "x.csv").read_text().splitlines() == ["a,b", "0.30000000000000004,", '2.5,"x,y"']
    write_table(tmp_path / "x.parquet", table)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "x.parquet"), table)


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2", "just text", "", "\xff\xfe"])
def test_malformed_settings_are_one_line(tmp_path, text):
    (tmp_path / "x.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError):
        read_settings(tmp_path / "x.yaml")
