"""Files appear whole or not at all."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from zwicky import io
from zwicky.errors import UserError


@pytest.mark.parametrize("directory", [False, True])
def test_a_file_or_directory_appears_whole_or_not_at_all(tmp_path, directory):
    path = tmp_path / "new" / "table"

    def write(text, fail=False):
        with io.replacing(path, directory=directory) as temporary:
            (temporary / "a" if directory else temporary).write_text(text)
            assert temporary.parent == path.parent  # so that the rename is one step
            if fail:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        write("half", fail=True)
    assert list(path.parent.iterdir()) == []
    if directory:  # left by a killed writer
        path.with_name(".table.tmp").mkdir()
        path.with_name(".table.tmp").joinpath("stale").write_text("")
    else:
        path.with_name(".table.tmp").write_text("half, and longer")
    write("whole")
    assert [each.name for each in path.parent.iterdir()] == ["table"]
    assert (path / "a" if directory else path).read_text() == "whole"
    if not directory:
        write("again")
        assert path.read_text() == "again"
        return
    assert [each.name for each in path.iterdir()] == ["a"]
    with pytest.raises(UserError, match="cannot write"):
        write("another")
    for unwritable in (path / "a" / "below.txt", path):
        with pytest.raises(UserError, match="cannot write"):
            io.write_text(unwritable, "text")
    assert (path / "a").read_text() == "whole"


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
