"""Merging: files of judgements, CSVs of other tools, Zooniverse exports; catalogues in three formats."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table

from zwicky import cli
from zwicky.data.labels import GRADES
from zwicky.errors import UserError
from zwicky.grading import merge
from zwicky.grading.agreement import Reliability
from zwicky.grading.database import COLUMNS, Judgements
from zwicky.grading.imports import read_grades
from zwicky.grading.merge import known_lenses, merge_grades
from zwicky.rng import numpy_rng


def write_grader(path, name, grades, truth=None, repeat=0, **columns):
    """Write a file of judgements of objects by id, with a comment and a subclass on the first."""
    judgements = Judgements(path)
    rows = []
    for number, (identifier, grade) in enumerate(grades.items()):
        row = dict.fromkeys(COLUMNS) | {"id": identifier, "repeat": repeat, "grade": grade, "grader": name}
        row |= {"key": f"{name}{repeat}{identifier}", "view": "single"}
        row |= {"seconds": 2.0, "time": f"2026-01-01T{number:06d}"}
        row |= {"subclass": "ring" if number == 0 else "", "comment": f"by {name}" if number == 0 else ""}
        row |= {"truth": None if truth is None else truth[identifier]} | {k: v[identifier] for k, v in columns.items()}
        rows.append(row)
    judgements.append(rows)
    judgements.close()
    return path


def test_team_grades_by_hand(tmp_path):
    ids = [f"o{k}" for k in range(5)]
    stratum = {name: "random" if name == "o4" else "top" for name in ids}
    inclusion = {name: 0.01 if name == "o4" else 1.0 for name in ids}
    for name, grades in {"ana": "AABXX", "bob": "ABCXC", "cleo": "BAX  "}.items():
        values = {name: grade for name, grade in zip(ids, grades, strict=True) if grade != " "}
        write_grader(tmp_path / f"{name}.db", name, values, stratum=stratum, inclusion_probability=inclusion)
    write_grader(tmp_path / "ana.db", "ana", {"o0": "A", "o1": "X"}, repeat=1)
    text = merge_grades([tmp_path / f"{name}.db" for name in ("ana", "bob", "cleo")], tmp_path / "catalogue.csv")
    table = pd.read_csv(tmp_path / "catalogue.csv", keep_default_na=False).set_index("id")
    assert table["team_grade"].to_dict() == dict(zip(ids, "AACXC", strict=True))
    means = dict(zip(ids, (8 / 3, 8 / 3, 1, 0, 0.5), strict=True))
    assert table["grade_mean"].astype(float).to_dict() == pytest.approx(means)
    assert table["n_graders"].to_dict() == dict(zip(ids, (3, 3, 3, 2, 2), strict=True))
    assert table.loc["o0", ["subclass", "comment"]].tolist() == ["ring", "by ana | by bob | by cleo"]
    assert table.loc["o4", ["stratum", "inclusion_probability"]].tolist() == ["random", 0.01]
    assert "5 objects by 3 graders: 2 A, 0 B, 2 C, 1 X" in text
    assert "Krippendorff's alpha 0." in text
    grades = pd.read_csv(tmp_path / "grades.csv")
    assert list(grades) == merge.GRADES_COLUMNS
    assert len(grades) == 13
    graders = pd.read_csv(tmp_path / "graders.csv").set_index("grader")
    assert graders.loc["ana", ["graded", "repeats", "same_grade"]].tolist() == [5, 2, 0.5]


def test_reliable_graders_decide(tmp_path):
    rng, ids = numpy_rng(0), [f"o{k}" for k in range(200)]
    known = {f"k{k}": k % 2 for k in range(300)}
    is_lens = {name: rng.random() < 0.2 for name in ids}
    for name, right in {"good": 0.97, "coin": 0.5}.items():
        grade = lambda truth, right=right: "AX"[int((rng.random() < right) != truth)]  # noqa: E731
        path = write_grader(tmp_path / f"{name}.db", name, {i: grade(truth) for i, truth in is_lens.items()})
        write_grader(path, name, {i: grade(truth) for i, truth in known.items()}, truth=known)
    merge_grades([tmp_path / "good.db", tmp_path / "coin.db"], tmp_path / "catalogue.fits")
    table = Table.read(tmp_path / "catalogue.fits")
    table.convert_bytestring_to_unicode()
    assert len(table) == 200  # no calibration image
    truth = [is_lens[name] for name in table["id"]]
    assert ((table["p_lens"] > 0.5) == truth).mean() > 0.93
    graders = pd.read_csv(tmp_path / "graders.csv").set_index("grader")
    assert graders.loc["good", "right_on_lenses"] > 0.9
    assert graders.loc["coin", "known_images"] == 300


def test_the_first_look_at_a_calibration_image_counts(tmp_path):
    known = {"k0": 1, "k1": 1, "k2": 0}
    path = write_grader(tmp_path / "ana.db", "ana", {"o0": "A"})
    write_grader(path, "ana", {"k0": "A", "k1": "X", "k2": "X"}, truth=known)
    write_grader(path, "ana", {"k0": "X", "k1": "X", "k2": "A"}, truth=known, repeat=1)
    merge_grades([path], tmp_path / "catalogue.csv")
    row = pd.read_csv(tmp_path / "graders.csv").iloc[0]
    assert row[["right_on_lenses", "right_on_others", "known_images", "repeats"]].tolist() == [0.5, 1, 3, 0]
    expected = Reliability(np.array([2 / 4]), np.array([2 / 3])).probability(np.array([[1.0]]))
    assert pd.read_csv(tmp_path / "catalogue.csv")["p_lens"][0] == pytest.approx(expected[0])


def test_the_latest_of_several_files_of_one_grader_counts(tmp_path):
    for day, grade in {"2": "A", "1": "X"}.items():
        write_grader(tmp_path / f"{day}.db", "ana", {"a": grade}, time={"a": f"2026-01-0{day}"})
    merge_grades([tmp_path / "2.db", tmp_path / "1.db"], tmp_path / "catalogue.csv")
    assert pd.read_csv(tmp_path / "catalogue.csv")["team_grade"].tolist() == ["A"]


def test_graded_are_objects_with_a_grade(tmp_path):
    grades = {"d": "", "a": "A", "b": "X", "c": "B"}  # the first has a comment alone
    seconds = {"d": 90.0, "a": 1.0, "b": 2.0, "c": 9.0}
    path = write_grader(tmp_path / "ana.db", "ana", grades, seconds=seconds)
    merge_grades([path], tmp_path / "catalogue.csv")
    assert pd.read_csv(tmp_path / "graders.csv")[["graded", "median_seconds"]].to_numpy().tolist() == [[3, 2]]


def test_of_equal_grades_those_of_the_reliable_come_first(tmp_path):
    known = {f"k{k}": k % 2 for k in range(40)}
    for name, grade, others in (("good", "XA", "XXAA"), ("coin", "XX", "AAXX")):
        path = write_grader(tmp_path / f"{name}.db", name, {i: grade[truth] for i, truth in known.items()}, truth=known)
        write_grader(path, name, dict(zip("abcd", others, strict=True)))
    merge_grades([tmp_path / "good.db", tmp_path / "coin.db"], tmp_path / "catalogue.csv")
    assert pd.read_csv(tmp_path / "catalogue.csv")["id"].tolist() == ["c", "d", "a", "b"]


@pytest.mark.parametrize("suffix", [".csv", ".fits", ".vot"])
def test_catalogue_formats_agree(suffix, tmp_path):
    write_grader(tmp_path / "ana.db", "ana", {"a": "A", "b": "X", "é": "C"}, ra={"a": 1.5, "b": 2, "é": None})
    merge_grades([tmp_path / "ana.db"], tmp_path / f"out{suffix}")
    table = Table.read(tmp_path / f"out{suffix}")
    assert [str(name) for name in table["id"]][::2] == ["a", "b"]
    assert list(table["grade_mean"]) == [3, 1, 0]
    assert float(table["ra"][0]) == 1.5


def test_csvs_of_other_tools_and_zooniverse(tmp_path, make_candidates):
    cutouts = make_candidates(6, [f"images/{name}.png" for name in "abcdef"])
    cutouts.table["stratum"] = ["random"] * 2 + ["top"] * 4
    (tmp_path / "mosaic.csv").write_text(
        "file_name,classification,grid_pos,page,time\na.png,1.0,1,0,3\nb.png,0.0,2,0,0\nc.png,2,3,0,1\nd.png,0,0,0,0\n"
    )
    (tmp_path / "single.csv").write_text(
        "file_name,classification,subclassification,ra,dec,comment,image_dim,time\n"
        "a.png,B,None,10,20,faint,64,5\nb.png,X,Spiral,,,,64,5\nc.png,None,None,,,,64,0\nd.png,I,None,,,,64,1\n"
    )
    (tmp_path / "stamps.csv").write_text("ra,dec,filename,grade,mag\n1,2,a.png,3,20\n1,3,b.png,0,21\n1,4,zz.png,2,21\n")
    answers = [("u1", "a", "Yes, a lens"), ("u1", "b", "No"), ("u2", "a", [{"x": 3, "y": 4}]), ("u2", "b", [])]
    answers.append(("u3", "b", [{"task": "T1", "value": None}, {"task": "T2", "value": "No"}]))  # a combination
    table = pd.DataFrame(answers, columns=["user_name", "file", "value"]).assign(classification_id=range(5))
    table["annotations"] = [json.dumps([{"task": "T0", "value": value}]) for value in table.pop("value")]
    subjects = ({str(n): {"retired": None, "Filename": f"{name}.png"}} for n, name in enumerate(table.pop("file")))
    table["subject_data"] = [*map(json.dumps, subjects)]
    table.assign(subject_ids=range(5)).to_csv(tmp_path / "zoo.csv", index=False)
    files = [tmp_path / f"{name}.csv" for name in ("mosaic", "single", "stamps", "zoo")]
    text = merge_grades(files, tmp_path / "catalogue.csv", cutouts)
    assert "single.csv: 1 rows with the grade 'I' left out" in text
    table = pd.read_csv(tmp_path / "catalogue.csv").set_index("id")
    assert table["n_graders"].to_dict() == {"images/a.png": 5, "images/b.png": 6, "images/c.png": 1, "zz.png": 1}
    assert table.loc["images/a.png", "grade_mean"] == pytest.approx((3 + 2 + 3 + 3 + 3) / 5)
    assert table.loc["images/b.png", ["team_grade", "subclass"]].tolist() == ["X", "Spiral"]
    assert np.isfinite(table.loc["images/a.png", ["ra", "score"]].astype(float)).all()
    grades = pd.read_csv(tmp_path / "grades.csv")
    assert set(grades["grader"]) == {"mosaic", "single", "stamps", "u1", "u2", "u3"}
    assert grades["time"][grades["view"] == "zooniverse"].isna().all()  # this export has none
    again = merge_grades([tmp_path / "grades.csv"], tmp_path / "again.csv")  # its own grades.csv is a source, too
    assert again.splitlines()[0] == text.splitlines()[0]
    for name in ("catalogue", "again"):  # a network must not learn from the random stratum
        stratum = pd.read_csv(tmp_path / f"{name}.csv").set_index("id")["stratum"].dropna()
        assert stratum.to_dict() == dict.fromkeys(cutouts.ids[:2], "random") | {cutouts.ids[2]: "top"}


def test_votes_without_names_all_count(tmp_path):
    votes = [("a", "Yes"), ("a", "Yes"), ("a", "No"), ("b", "No")]
    rows = [(json.dumps([{"value": vote}]), json.dumps({"1": {"file": f"{name}.png"}})) for name, vote in votes]
    table = pd.DataFrame(rows, columns=["annotations", "subject_data"])
    for number, content in enumerate((table, table.assign(user_name=["", "", "ana", "ana"]))):
        content.to_csv(tmp_path / f"{number}.csv", index=False)
        merge_grades([tmp_path / f"{number}.csv"], tmp_path / "catalogue.csv")
        merged = pd.read_csv(tmp_path / "catalogue.csv").set_index("id")
        assert merged["n_graders"].to_dict() == {"a.png": 3, "b.png": 1}
        assert merged["grade_mean"].to_dict() == {"a.png": 2, "b.png": 0}


def test_known_lenses_are_named(tmp_path, monkeypatch):
    assert "lenscat" in sys.modules or all(name is None for name in known_lenses(np.array([1.0]), np.array([1.0])))
    (tmp_path / "lenscat" / "data").mkdir(parents=True)
    (tmp_path / "lenscat" / "__init__.py").write_text("raise ImportError('never imported')")
    text = "name,RA [deg],DEC [deg],type\nJ1,10,-5,galaxy\n2,20,5,cluster\n"
    (tmp_path / "lenscat" / "data" / "catalog.csv").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    ra, dec = np.array([10 + 3 / 3600, 20, np.nan, 30]), np.array([-5, 5 + 6 / 3600, 1, 1])
    assert list(known_lenses(ra, dec)) == ["J1", "", "", ""]


def test_mistakes_are_user_errors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("mag,flux\n1,2\n")
    (tmp_path / "b.csv").write_text("file_name,classification\na.png,None\n")
    for words, message in {
        "--merge absent.db --out c.csv": "absent.db",
        "--merge a.csv --out c.csv": "no column of file names",
        "--merge b.csv --out c.csv": "no grades",
        "--merge b.csv --out c.xlsx": "must end in",
        "": "--grader",
        "x --grader ../a": "letters",
    }.items():
        with pytest.raises(UserError, match=message):
            cli.run(["grade", *words.split()])


def test_rows_that_name_nothing_are_counted(tmp_path):
    (tmp_path / "m.csv").write_text("file_name,classification,grid_pos\na.png,1,here\nb.png,0,\nc.png,0,0\n,1,4\n")
    rows, notes = read_grades(tmp_path / "m.csv")
    assert dict(zip(rows["id"], rows["grade"], strict=True)) == {"a.png": "A", "b.png": "X", "c.png": ""}
    assert notes == ["m.csv: 1 rows without a file name or id left out"]
    yes = json.dumps([{"task": "T0", "value": "Yes"}])
    pairs = [(yes, '{"7": {"Filename": "a.png"}}'), (yes, "{}"), (yes, ""), (yes, "[]"), (yes, '{"8": null}')]
    pairs += [("", '{"9": {}}'), ("{", '{"9": {}}'), ('["perhaps"]', '{"9": {}}')]
    pd.DataFrame(pairs, columns=["annotations", "subject_data"]).to_csv(tmp_path / "z.csv", index=False)
    rows, notes = read_grades(tmp_path / "z.csv")
    assert list(zip(rows["id"], rows["grade"], strict=True)) == [("a.png", "A"), ("8", "A"), ("9", "")]
    assert notes[0] == "z.csv: 3 rows without a file name or id left out"
    assert len(notes) == 3


@pytest.mark.parametrize("name", ["grades.csv", "graders.csv"])
def test_no_table_of_someone_else_is_overwritten(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / name
    own.write_text("filename,grade,my_notes\na.png,A,an arc in the east\n")
    before = own.read_bytes()
    write_grader(tmp_path / "ana.db", "ana", {"a.png": "A"})
    for files, out in [(name, "catalogue.csv"), ("ana.db", "catalogue.csv"), ("ana.db", name)]:  # input or not
        with pytest.raises(UserError, match=f"{name}.*another"):
            cli.run(["grade", "--merge", files, "--out", out])
        assert own.read_bytes() == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "link.csv").symlink_to(own)
    for out in (f"../{tmp_path.name}/{name}", "other/link.csv"):  # an input by other names
        with pytest.raises(UserError, match="another --out"):
            cli.run(["grade", "--merge", name, "--out", out])
        assert own.read_bytes() == before
    cli.run(["grade", "--merge", name, "ana.db", "--out", "other/catalogue.csv"])
    assert pd.read_csv(tmp_path / "other" / "catalogue.csv")["n_graders"].tolist() == [2]


def test_a_merge_is_repeated_in_its_folder(tmp_path):
    write_grader(tmp_path / "ana.db", "ana", {"a": "A"})
    merge_grades([tmp_path / "ana.db"], tmp_path / "catalogue.csv")
    write_grader(tmp_path / "bob.db", "bob", {"a": "X"})
    merge_grades([tmp_path / "grades.csv", tmp_path / "bob.db"], tmp_path / "catalogue.csv")
    assert set(pd.read_csv(tmp_path / "grades.csv")["grader"]) == {"ana", "bob"}


def test_every_spelling_has_one_grade(tmp_path):
    spellings = {"A": "3,SL,lens,3.0", "B": "ML,maybe lens,2", "C": "possible", "X": "Non-lens,D,NL"}
    pairs = [(f"{grade}{text}.png", text) for grade, texts in spellings.items() for text in texts.split(",")]
    pd.DataFrame(pairs, columns=["file_name", "classification"]).to_csv(tmp_path / "a.csv", index=False)
    table, notes = read_grades(tmp_path / "a.csv")
    assert notes == []
    assert (table["grade"] == table["id"].str[0]).all()
    assert set(table["grade"]) == set(GRADES)


def test_our_own_ids_are_not_matched_again(tmp_path, make_candidates):
    path = write_grader(tmp_path / "ana.db", "ana", {"1.fits": "A", "2.fits": "X"})
    write_grader(path, "ana", {"lens/1.fits": "A", "non/2.fits": "X"}, {"lens/1.fits": 1, "non/2.fits": 0})
    merge_grades([path], tmp_path / "c.csv", make_candidates(2, ["1.fits", "2.fits"]))
    assert set(pd.read_csv(tmp_path / "c.csv")["id"]) == {"1.fits", "2.fits"}


def test_files_of_one_name_are_of_several_people(tmp_path):
    for name, grade in {"ana": "A", "bob": "X"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "marks.csv").write_text(f"file_name,grade\na.png,{grade}\n")
    merge_grades([tmp_path / name / "marks.csv" for name in ("ana", "bob")], tmp_path / "c.csv")
    assert pd.read_csv(tmp_path / "c.csv")["n_graders"].tolist() == [2]


def test_odd_spreadsheets(tmp_path, make_candidates):
    (tmp_path / "a.csv").write_text("Name,Object ID,Grade\nAna,19,A\nAna,20,X\n")
    assert read_grades(tmp_path / "a.csv")[0]["id"].tolist() == ["19", "20"]
    (tmp_path / "b.csv").write_text("object_id;grade\n1.23457E+18;A\n1.23457E+18;X\n")
    text = merge_grades([tmp_path / "b.csv"], tmp_path / "c.csv", make_candidates(1, ["1234567890123456789"]))
    assert "2 of 2 rows of other tools name no cutout" in text
    assert "1 of 2 rows of other tools grade an object again" in text


def test_codes_and_yes_or_no_are_no_grades_c(tmp_path):
    (tmp_path / "a.csv").write_text("file_name,grade\na,-1\nb,3\nc,-1.0\n")
    assert read_grades(tmp_path / "a.csv")[0]["grade"].tolist() == ["", "A", ""]
    (tmp_path / "b.csv").write_text("file_name,is_lens\na,1\nb,0\n")
    assert read_grades(tmp_path / "b.csv")[0]["grade"].tolist() == ["A", "X"]
    values = {"a": ["None of these"], "b": "Not sure", "c": "Not a lens", "d": "No", "e": [{"choice": "NOTHINGHERE"}]}
    rows = [(json.dumps([{"value": v}]), json.dumps({"1": {"file": k}})) for k, v in values.items()]
    pd.DataFrame(rows, columns=["annotations", "subject_data"]).to_csv(tmp_path / "z.csv", index=False)
    table, notes = read_grades(tmp_path / "z.csv")
    assert dict(zip(table["id"], table["grade"], strict=True)) == {"a": "X", "c": "X", "d": "X"}
    assert len(notes) == 2
