"""A tiny benchmark from end to end: its arms, files and hygiene, and that it resumes."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from zwicky import provenance
from zwicky.augment.config import NormalisationConfig, ViewsConfig
from zwicky.backbones import BackboneConfig
from zwicky.data.labels import Labels, read_labels
from zwicky.data.splits import Split, read_split, write_split
from zwicky.data.store import open_store
from zwicky.errors import UserError
from zwicky.evaluation.arms import compared_arms, make_arms
from zwicky.evaluation.baselines import PROBES
from zwicky.evaluation.benchmark import benchmark, select_for_finetuning
from zwicky.evaluation.cells import CellRunner
from zwicky.evaluation.config import DesignConfig, SelfSupervision
from zwicky.evaluation.label_draws import LabelDraw, make_label_draws, write_label_draws
from zwicky.evaluation.metrics import CLASSIFICATION
from zwicky.evaluation.results import ARM_COLUMNS, COST_COLUMNS, BenchmarkResult
from zwicky.io import read_json, write_json
from zwicky.methods import MethodConfig
from zwicky.report.page import write_report
from zwicky.training.config import FitConfig, TrainConfig
from zwicky.training.network import load_network
from zwicky.training.self_training import self_train
from zwicky.training.task import Task

from .conftest import TRAIN, make_blobs, small_config, small_vit


def folds(**changes):
    design = DesignConfig(kind="folds", folds=2, repeats=2, group="object")
    return small_config(design=design, labels=[0], probes=["knn"], **changes)


def two(**changes):
    """The method of `small_config`, and a second one with these changes."""
    (first,) = small_config().methods.values()
    return {"dino": first, "second": replace(first, **changes)}


def without_time(path):
    return pd.read_csv(path / "results.csv").drop(columns="seconds")


@pytest.fixture(scope="module", params=["holdout", "folds"])
def done(request, tmp_path_factory, store):
    """(configuration, directory of the finished benchmark)."""
    config = (small_config if request.param == "holdout" else folds)(keep_networks=True)
    out = tmp_path_factory.mktemp(request.param) / "run"
    benchmark(config, store, out, quiet=True)
    return config, out


def test_another_split_is_refused(tmp_path):
    """A store's own split is edited between two sessions: objects learned from would be tested."""
    cutouts, labels = make_blobs()
    for part in (0, 1):
        roles = {name: "test" if row % 3 == part else "train" for row, name in enumerate(labels.values)}
        draws = make_label_draws(small_config(labels=[20]), cutouts, labels, Split("holdout", roles))
        if part == 0:
            write_label_draws(tmp_path, draws)
    with pytest.raises(UserError, match="started with another split"):
        write_label_draws(tmp_path, draws)


@pytest.mark.parametrize(
    ("classes", "given", "message"),
    [(8 * ["nonlens"] + ["lens"], False, "labels of a draw are all"), (["a", "b", "c"], True, "tests no c")],
)
def test_a_class_that_is_not_drawn_or_not_tested_is_said_before_training(classes, given, message):
    cutouts, labels = make_blobs()
    labels = Labels({name: classes[row % len(classes)] for row, name in enumerate(labels.values)})
    roles = {
        name: "test" if label in "ab" and row % 4 else "train"
        for row, (name, label) in enumerate(labels.values.items())
    }
    with pytest.raises(UserError, match=message):
        make_label_draws(small_config(labels=[4]), cutouts, labels, Split("holdout", roles) if given else None)


def test_a_directory_begun_anew_keeps_nothing_but_finished_pretrainings(tmp_path, store):
    """Its first run was stopped before anything was trained."""
    config, out = small_config(methods={}, labels=[20], draws=1), tmp_path / "run"
    benchmark(config, store, out, quiet=True)
    shutil.rmtree(out / "cells")
    for name in ("audit", "chosen", "pretrain/a/run"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        write_json(out / f"{name}.json", "old")
    for name in ("pretrain/a/features.npy", "pretrain/a/network.safetensors", "pretrain/b/network.safetensors"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("old")
    write_json(out / "run.json", read_json(out / "run.json") | {"finished": None})
    benchmark(replace(config, labels=[40]), store, out, quiet=True)
    assert read_json(out / "audit.json") != "old"
    assert not (out / "chosen.json").exists()
    left = {path.relative_to(out / "pretrain").as_posix() for path in (out / "pretrain").rglob("*.*")}
    assert left == {"a/run.json", "a/network.safetensors"}


def test_every_file_is_there_with_its_columns(done):
    config, out = done
    references = ["vit-supervised", *[name.replace("_", "-") for name in config.baselines]]
    arms = ["dino-vit-finetune", *[f"dino-vit-{probe}" for probe in config.probes], *references]
    draws = 2 if config.design.kind == "holdout" else 4
    result = BenchmarkResult(out)
    table = result.results
    counts = sorted(set(table["labels"]))
    assert len(counts) == len(config.labels)
    assert tuple(table) == (*ARM_COLUMNS, *CLASSIFICATION, *COST_COLUMNS)
    assert table[["arm", "draw", "labels"]].to_numpy().tolist() == [
        [arm, draw, count] for arm in arms for draw in range(draws) for count in counts
    ]
    assert set(table["unit"]) == ({"draw 0", "draw 1"} if config.design.kind == "holdout" else {"r0", "r1"})
    trained = table["protocol"].isin(["finetune", "scratch"])
    assert set(table["used_probe"][trained].astype(str)) <= {"True", "False"}
    assert table["used_probe"][~trained].isna().all()
    assert (table["seed"] == table["draw"]).all()
    assert (table["pretrain_seed"].notna() == (table["kind"] == "ssl")).all()
    pairs = {(arm, reference) for arm in arms if arm not in references for reference in references}
    assert set(zip(result.comparisons["arm"], result.comparisons["reference"], strict=True)) == pairs
    for row in table.to_dict("records"):
        key = row["arm"], row["labels"], row["draw"]
        predictions = result.predictions(*key)
        assert list(predictions) == ["id", "group", "label", "p_nonlens", "p_lens"]
        assert np.allclose(predictions["p_nonlens"] + predictions["p_lens"], 1, atol=1e-5)
        correct = (predictions["p_lens"] > 0.5) == (predictions["label"] == "lens")
        assert correct.mean() == pytest.approx(row["accuracy"], abs=0.03)
        assert len(result.curves(*key)) > 0 or row["protocol"] not in ("finetune", "scratch")
        assert not (result.cell(*key) / "checkpoint").exists()
    assert len(result.pretraining()) == (1 if config.design.kind == "holdout" else 4)
    assert (result.data["objects"], result.data["unlabelled"], result.classes) == (90, 10, ("nonlens", "lens"))
    assert result.run["finished"]
    assert result.config["draws"] == config.draws


def test_no_test_object_is_trained_on(done, store):
    """From the files alone: splits, draws, predictions, normalisations and the provenance of all networks."""
    config, out = done
    result, cutouts = BenchmarkResult(out), open_store(store)
    task = Task.classification(cutouts, read_labels(store))
    draws = pd.read_parquet(out / "draws.parquet")

    def trained_on(folder, *uses):
        objects = provenance.read(folder).of_use(*uses)
        return set(cutouts.ids[provenance.find_leaked(cutouts, np.arange(len(cutouts)), objects)])

    cells = result.results.drop_duplicates(["arm", "draw"])
    for path in (out / "splits").iterdir():
        split = read_split(path)
        test = set(split.ids("test"))
        assert test
        pretrained = next((out / "pretrain").glob(f"dino-vit-{split.name}-s*"))
        pool = set(split.ids("train", "unlabelled"))
        assert trained_on(pretrained, *provenance.USES) == pool
        numbers = set(draws["draw"])
        if config.design.kind == "folds":
            repeat, fold = split.name[1:].split("f")
            numbers = {2 * int(repeat) + int(fold)}
        for row in cells[cells["draw"].isin(numbers)].to_dict("records"):
            key = row["arm"], row["labels"], row["draw"]
            predictions, folder = result.predictions(*key), result.cell(*key)
            assert set(predictions["id"]) == test
            assert list(predictions["group"]) == list(split.groups_of(predictions["id"]))
            learned = draws[(draws["draw"] == row["draw"]) & (draws["labels"] == row["labels"])]["id"].to_numpy()
            if (folder / "network.json").exists():
                assert trained_on(folder, "normalise") == pool
                assert trained_on(folder, "fit", "select") - {"o000", "o002"} == set(learned) - {"o000", "o002"}
                assert load_network(folder).normalisation == load_network(pretrained).normalisation
            if row["protocol"] in config.probes:  # which learn from all labels of the draw
                features, rows = np.load(pretrained / "features.npy"), cutouts.rows_of(learned)
                tested = cutouts.rows_of(predictions["id"].to_numpy())
                expected = PROBES[row["protocol"]](features[rows], task.truth[rows], features[tested], task)
                assert np.allclose(predictions["p_lens"], expected[:, 1], atol=1e-5)
        assert set(draws[draws["draw"].isin(numbers)]["id"]) <= set(split.ids("train"))
        groups = {split.groups[i] for i in test}
        assert not groups & {split.groups[i] for i in split.roles if i not in test}
        assert (split.roles.get("o000") == "test") == (split.roles.get("o002") == "test")  # the duplicate
    tested = {i for path in (out / "splits").iterdir() for i in read_split(path).ids("test")}
    assert set(result.summary["test_objects"]) == {len(tested)}


def test_a_finished_benchmark_is_read_back_and_a_lost_cell_run_again(done, store):
    config, out = done
    table = without_time(out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert len(benchmark(config, store, out, quiet=True).results) == len(table)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    shutil.rmtree(BenchmarkResult(out).cell(*table.loc[0, ["arm", "labels", "draw"]]))
    (out / "summary.csv").unlink()
    benchmark(config, store, out, quiet=True)
    pd.testing.assert_frame_equal(without_time(out), table)


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(tmp_path, store):
    config = small_config(without_tta=True, probes=["linear", "blocks"], self_training=["vit"])
    for workers in (1, 2):
        benchmark(config, store, tmp_path / str(workers), quiet=True, workers=workers)
    pd.testing.assert_frame_equal(*(without_time(tmp_path / name) for name in ("1", "2")), check_exact=True)
    arrays = [sorted(path.read_bytes() for path in (tmp_path / name).rglob("*.safetensors")) for name in ("1", "2")]
    assert arrays[0] == arrays[1] != []


def test_numbers_are_benchmarked_like_classes(store, tmp_path):
    targets, columns = ["width", "spin2:e1/e2"], ["width", "e1", "e2"]
    baselines = ["pca_linear", "pca_boosting", "radial_colour", "modes"]
    result = benchmark(small_config(targets=targets, baselines=baselines, draws=1), store, tmp_path / "run", quiet=True)
    table, cutouts = result.results, open_store(store)
    assert result.columns == tuple(columns)
    assert set(table["arm"]) >= {"dino-vit-finetune", "dino-vit-linear", "dino-vit-knn", "vit-supervised"}
    assert "auc" not in table
    metrics = {"r2"} | {f"{metric}_{name}" for metric in ("mae", "r2") for name in columns}
    assert set(result.summary["metric"]) == set(result.comparisons["metric"]) == metrics <= set(table)
    assert table.set_index(["arm", "labels", "draw"])["r2_width"]["radial-colour", 40, 0] > 0.5
    predictions = result.predictions("pca-linear", 40, 0)
    assert list(predictions) == ["id", "group", *[f"true_{c}" for c in columns], *[f"predicted_{c}" for c in columns]]
    rows = cutouts.rows_of(predictions["id"].to_numpy())
    assert np.allclose(predictions[[f"true_{name}" for name in columns]], cutouts.numbers(columns)[rows])
    assert result.config["targets"] == targets


def test_self_training_is_compared_with_its_teacher(store, tmp_path, monkeypatch):
    """Each arm has its own fit, and no image of the test is pseudo-labelled."""
    scratch, convnet = (FitConfig(train=TrainConfig(**TRAIN | {"max_steps": steps})) for steps in (4, 2))
    config = small_config(self_training=["vit"], labels=[20], draws=1, probes=[], scratch=scratch, convnet=convnet)
    pools = []
    monkeypatch.setattr(
        "zwicky.evaluation.cells.self_train", lambda *args, **more: pools.append(args[1]) or self_train(*args, **more)
    )
    result = benchmark(config, store, tmp_path / "run", quiet=True)
    split = read_split(next((tmp_path / "run" / "splits").iterdir()))
    assert [set(open_store(store).ids[rows]) for rows in pools] == [set(split.ids("train", "unlabelled"))] * 2
    arms = ["dino-vit-finetune", "dino-vit-self-training", "vit-supervised", "vit-self-training"]
    assert result.results["arm"].tolist()[:5] == [*arms, "resnet18-supervised"]
    assert result.results["steps"].tolist()[:5] == [3, 3, 4, 4, 2]
    pairs = set(zip(result.comparisons["arm"], result.comparisons["reference"], strict=True))
    tested = {(arms[1], arms[0]), (arms[1], arms[2]), (arms[1], arms[3]), (arms[3], arms[2]), (arms[0], arms[2])}
    assert tested <= pairs
    assert not {(arms[0], arms[3]), (arms[2], arms[3])} & pairs
    assert not list((tmp_path / "run").glob("**/teacher"))
    for trained, teacher in ((1, 0), (3, 2)):
        predicted = [result.predictions(arms[k], 20, 0)["p_lens"].to_numpy() for k in (trained, teacher)]
        assert not np.allclose(*predicted)


def two_networks(**changes):
    settings = {"backbones": {"A": small_vit(), "B": small_vit(16)}, "methods": two(networks=["B"])}
    return small_config(**settings | {"probes": ["linear"], "baselines": []} | changes)


def test_arms_and_the_pairs_that_are_compared():
    arms = make_arms(two_networks(without_tta=True))
    titles = {arm.name: arm.title for arm in arms if arm.tta}
    assert list(titles) == [
        *("dino-A-finetune", "dino-A-linear", "A-supervised"),
        *("dino-B-finetune", "dino-B-linear", "second-B-finetune", "second-B-linear", "B-supervised"),
    ]
    assert titles["dino-A-linear"] == "DINO pretraining, A, frozen, linear probe"
    assert titles["second-B-finetune"] == "DINO (second) pretraining, B, fine-tuned"
    pairs = set(compared_arms(arms))
    starts = [("dino", "A"), ("dino", "B"), ("second", "B")]
    assert pairs == {
        (f"{method}-{network}-{use}", f"{network}-supervised{'-no-tta' if use.endswith('tta') else ''}")
        for method, network in starts
        for use in ("finetune", "finetune-no-tta", "linear")
    }
    ends = [("dino-", "finetune"), ("dino-", "finetune-no-tta"), ("dino-", "linear")]
    ends += [("", "supervised"), ("", "supervised-no-tta")]
    trained_twice = make_arms(two_networks(without_tta=True, self_training=["A"]))
    for arm, reference in compared_arms(trained_twice):
        assert arm.endswith("no-tta") == reference.endswith("no-tta")  # else the pair would mix two effects
    assert set(compared_arms(arms, "A")) - pairs == {(f"{start}B-{end}", f"{start}A-{end}") for start, end in ends}


def test_an_arm_without_tta_trains_nothing_again(store, tmp_path):
    config = two_networks(without_tta=True, fit_labels=[20], methods={}, draws=1, compare_with="A", correspondence=8)
    result = benchmark(config, store, tmp_path / "run", quiet=True)
    assert "nothing was pretrained" in write_report(result.path).read_text()  # whose regions are compared
    table = result.results.set_index("arm")
    assert set(table.index) == {f"{net}-supervised{end}" for net in "AB" for end in ("", "-no-tta")}
    assert set(table["labels"]) == {20}
    for net in "AB":
        mean, single = table.loc[f"{net}-supervised"], table.loc[f"{net}-supervised-no-tta"]
        assert mean["nll"] != single["nll"]
        assert mean["pflops"] == single["pflops"]
        assert not len(result.curves(f"{net}-supervised-no-tta", 20, 0))
    assert ["B-supervised", "A-supervised"] in result.comparisons[["arm", "reference"]].to_numpy().tolist()


def test_only_the_best_pretrained_networks_are_fine_tuned(store, tmp_path):
    """The choice is made on the training role: with other test labels it is the same."""
    config = two_networks(finetune_best=1, labels=[20], draws=1, replicates=5, probes=["linear", "blocks"])
    benchmark(config, store, tmp_path / "run", quiet=True)
    scores = read_json(tmp_path / "run" / "chosen.json")["score"]
    assert set(scores) == {"dino-A", "dino-B", "second-B"}
    cells = {path.name for path in (tmp_path / "run" / "cells").iterdir()}
    best = max(scores, key=scores.get)
    assert {name for name in cells if "finetune" in name} == {f"{best}-finetune-n20-d0"}
    assert sum("-linear-" in name for name in cells) == 3
    # Features of test objects are left out: garbage there changes nothing.
    split = read_split(next((tmp_path / "run" / "splits").iterdir()))
    known = [i for i in open_store(store).ids if i in read_labels(store).values]
    for path in (tmp_path / "run" / "pretrain").glob("*/block_features.npy"):
        np.save(path, np.ones_like(np.load(path)))  # nor are these read
    for path in (tmp_path / "run" / "pretrain").glob("*/features.npy"):
        features = np.load(path)
        features[[i in set(split.ids("test")) for i in known]] = 1e6
        np.save(path, features)
    shutil.rmtree(tmp_path / "run" / "cells")
    (tmp_path / "run" / "chosen.json").unlink()
    (tmp_path / "run" / "summary.csv").unlink()
    benchmark(config, store, tmp_path / "run", quiet=True)
    assert read_json(tmp_path / "run" / "chosen.json")["score"] == scores


def test_networks_are_chosen_by_the_labels_for_selection(tmp_path, monkeypatch):
    """Features that tell all objects apart but those for selection lose to features that tell most of them."""
    (cutouts, labels), config = make_blobs(), two_networks(finetune_best=1, labels=[20, 40], draws=1)
    draws, task = make_label_draws(config, cutouts, labels), Task.classification(cutouts, labels)
    random, select = np.random.default_rng(0), draws[0].rows(cutouts, 40)[1]
    learnt, known = random.normal(size=(2, len(cutouts), 1)) + 5 * task.truth[:, None] * [[[1]], [[0.4]]]
    learnt[select] = random.normal(size=(len(select), 1))
    monkeypatch.setattr(CellRunner, "features", lambda _, arm, draw: {"A": learnt, "B": known}[arm.backbone])
    arms = select_for_finetuning(CellRunner(config, cutouts, task, tmp_path), make_arms(config), draws)
    assert [arm.backbone for arm in arms if arm.is_finetuned] == ["B"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": [1]}, "2 classes"),
        ({"methods": {"dino": SelfSupervision(networks=["C"])}}, "'C'"),
        ({"methods": {"dino": SelfSupervision(views=ViewsConfig(crop=8))}}, "label_views"),
        ({"methods": two(views=ViewsConfig(local_crops=1, local_size=8, brightness=2.0))}, "second.views.bright"),
        ({"methods": two(views=ViewsConfig(local_crops=1, local_size=9))}, "patches of 8"),
        ({"methods": two(method=MethodConfig("dino", {"prototype": 8}))}, "prototype"),
        ({"label_views": ViewsConfig(noise=2.0)}, "label_views.noise"),
        ({"normalisation": NormalisationConfig(softening=0.0)}, "normalisation.softening"),
        (
            {"correspondence": 8, "backbones": {"vit": BackboneConfig("polar_vit", {"centre": "brightest"})}},
            "correspondence: the patches of vit lie about the brightest",
        ),
        ({"compare_with": "C"}, "choose of vit"),
        ({"fit_labels": [30]}, "labels"),
        ({"targets": ["mass"]}, "mass"),
        ({"design": DesignConfig(fractions=(0.9, 0.9, 0.3))}, "fractions"),
        ({"backbones": {"vit": BackboneConfig("vit_tiny", {"patch_size": 5})}}, "patches of 5"),
        (
            {"backbones": {"resnet18": BackboneConfig("resnet18")}, "convnet": small_config().scratch},
            "resnet18-supervised",
        ),
        ({"finetune_best": 1, "finetune": FitConfig(select=0), "scratch": FitConfig(select=0)}, "finetune.select"),
        ({"scratch": FitConfig(select=0.5)}, "scratch.select"),
        ({"targets": ["width"], "self_training": ["vit"]}, "pseudo-labels of classes"),
        ({"self_training": ["vit"], "scratch": FitConfig(train=TrainConfig(pflops=1e-6))}, "student"),
    ],
)
def test_mistakes_are_one_line_and_do_not_block_the_directory(store, tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        benchmark(small_config(**changes), store, tmp_path / "run", quiet=True)
    assert not [*(tmp_path / "run").glob("pretrain/*/metrics.csv")], "it is known before anything is trained"
    small = small_config(labels=[20], draws=1, methods={}, probes=[], scratch=small_config().finetune)
    assert len(benchmark(small, store, tmp_path / "run", quiet=True).results) == 2


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("group", [None, "object"])
def test_holdout_draws_are_nested_and_count_selection(balanced, group):
    cutouts, labels = make_blobs(400, 50)
    labels = Labels({i: "lens" if int(i[1:]) % 8 < 2 else "nonlens" for i in labels.values})
    design = DesignConfig(group=group)
    config = small_config(design=design, labels=[20, 60, 0], draws=3, balanced=balanced)
    draws = make_label_draws(config, cutouts, labels)
    train, test = (set(draws[0].split.ids(role)) for role in ("train", "test"))
    assert (len(train) + len(test), train & test) == (400, set())
    objects = dict(zip(cutouts.ids, cutouts.table[group or "id"], strict=True))
    assert not {objects[i] for i in train} & {objects[i] for i in test}
    for draw in draws:
        assert list(draw.subsets) == [20, 60, len(train)]
        smaller: set[str] = set()
        for count, (fit, select) in draw.subsets.items():
            both = set(fit) | set(select)
            assert len(both) == len(fit) + len(select) == count
            assert abs(len(select) - round(0.2 * count)) <= 1
            assert smaller <= both <= train
            if count < len(train):
                lenses = sum(labels.values[i] == "lens" for i in both)
                assert abs(lenses - count * (0.5 if balanced else 0.25)) <= 2
            smaller = both
        assert train <= set(cutouts.ids[draw.pretrain_rows(cutouts)]) <= set(cutouts.ids) - test
    assert len({frozenset(np.concatenate(draw.subsets[60])) for draw in draws}) == 3
    assert len({frozenset(draw.subsets[len(train)][1]) for draw in draws}) == 3
    again = make_label_draws(config, cutouts, labels)
    assert all(np.array_equal(a.subsets[60][0], b.subsets[60][0]) for a, b in zip(draws, again, strict=True))


def test_the_split_of_the_data_is_kept():
    """Its test objects are tested, but those without a label; what equals a test object is not trained on."""
    cutouts, labels = make_blobs()
    ids = list(cutouts.ids)  # the first and the third are equal, the last ten have no label
    roles = dict.fromkeys(ids[2:60], "train") | dict.fromkeys([ids[0], *ids[61:85]], "test")
    given = Split("holdout", roles | dict.fromkeys(ids[85:], "unlabelled"))
    with pytest.warns(UserWarning, match="1 objects of split 'holdout' equal a test object"):
        draws = make_label_draws(small_config(labels=[20, 0]), cutouts, labels, given)
    for draw in draws:
        assert set(draw.split.ids("test")) == {ids[0], *ids[61:80]}
        assert set(draw.subsets[57][0]) | set(draw.subsets[57][1]) == set(ids[3:60])
        assert set(cutouts.ids[draw.pretrain_rows(cutouts)]) == {*ids[3:60], *ids[85:]}
    fifths, config = {i: "train" if row % 5 else "test" for row, i in enumerate(ids)}, DesignConfig(group="object")
    with pytest.warns(UserWarning, match="equal a test object"):
        (draw, _) = make_label_draws(small_config(labels=[0], design=config), cutouts, labels, Split("holdout", fifths))
    of = dict(zip(ids, cutouts.table["object"], strict=True))
    assert not {of[i] for i in draw.split.ids("train")} & {of[i] for i in draw.split.ids("test")}
    lenses = {i: "test" if labels.values.get(i) == "lens" else "train" for i in ids}
    for bad in (dict.fromkeys(ids, "train"), dict.fromkeys(ids, "test"), lenses):
        with pytest.raises(UserError, match=r"--design\.split null"):
            make_label_draws(small_config(), cutouts, labels, Split("holdout", bad))


def test_weights_in_place_of_a_pretraining(store, tmp_path):
    """They are used frozen and fine-tuned, keep their training objects, and may not change under a benchmark."""
    weights, method = tmp_path / "weights", SelfSupervision(views=ViewsConfig(local_crops=1, local_size=8))
    config = small_config(labels=[20], draws=1, baselines=[])
    benchmark(config, store, tmp_path / "first", quiet=True)
    (trained,) = (tmp_path / "first" / "pretrain").iterdir()
    shutil.copytree(trained, weights)
    used = replace(config, methods={"w": replace(method, weights=str(weights))})
    used.backbones = {"vit": replace(small_vit(), pretrained=str(weights))}
    result = benchmark(used, store, tmp_path / "run", quiet=True)
    arms = {f"{name}-vit-{protocol}" for name, protocol in (("w", "finetune"), ("w", "linear"))}
    assert arms | {"vit-supervised"} <= set(result.results["arm"])
    first = BenchmarkResult(tmp_path / "first").predictions("dino-vit-linear", 20, 0)
    assert np.allclose(first["p_lens"], result.predictions("w-vit-linear", 20, 0)["p_lens"], atol=1e-4)
    (folder,) = (tmp_path / "run" / "pretrain").iterdir()
    assert len(provenance.read(folder).records) > len(provenance.read(trained).records)
    assert load_network(folder).normalisation == load_network(trained).normalisation
    for number, methods in enumerate((used.methods, {})):  # with other test objects it is a leak, said at once
        other, out = DesignConfig(fractions=(0.7, 0.0, 0.3), seed=1), tmp_path / f"other{number}"
        with pytest.raises(UserError, match="leakage"):
            benchmark(replace(used, design=other, methods=methods), store, out, quiet=True)
        assert not [*out.glob("pretrain/*/features.npy"), *out.glob("cells/*/result.json")]
    shutil.copy(tmp_path / "run" / "pretrain" / folder.name / "network.safetensors", weights)
    with pytest.raises(UserError, match=r"backbones\.vit\.pretrained, methods\.w\.weights"):
        benchmark(used, store, tmp_path / "run", quiet=True)


def test_a_benchmark_keeps_the_split_of_its_store(store, tmp_path):
    copy, out = shutil.copytree(store, tmp_path / "store"), tmp_path / "run"
    ids = open_store(copy).ids
    write_split(copy / "splits", Split("holdout", dict(zip(ids, ["train"] * 60 + ["test"] * 20, strict=False))))
    small = small_config(labels=[20], draws=1, methods={}, probes=[])
    for split, kept in (("holdout", True), (None, False)):
        benchmark(replace(small, design=DesignConfig(split=split)), copy, out / str(kept), quiet=True)
        tested = set(BenchmarkResult(out / str(kept)).predictions("vit-supervised", 20, 0)["id"])
        assert (tested == set(ids[60:80])) == kept
    table = pd.read_csv(copy / "labels.csv")
    table.assign(label=table["label"][::-1].to_numpy()).to_csv(copy / "labels.csv", index=False)
    with pytest.raises(UserError, match="other data"):
        benchmark(replace(small, design=DesignConfig()), copy, out / "True", quiet=True)


def test_folds_learn_and_test_where_the_design_says():
    cutouts, labels = make_blobs()
    origin = np.array(["hs", "sw", "pg"])[np.arange(len(cutouts)) // 2 % 3]
    cutouts.table["origin"] = origin
    where = {"test_where": {"origin": "sw"}, "train_where": {"origin": "hs"}}
    config = small_config(labels=[0], design=DesignConfig("folds", folds=2, repeats=1, **where))
    draws = make_label_draws(config, cutouts, labels)
    for draw in draws:
        learned = np.concatenate(draw.rows(cutouts, max(draw.subsets)))
        assert {*origin[draw.test_rows(cutouts)]} == {"sw"}
        assert {*origin[learned]} == {"hs"}
        assert {*origin[draw.pretrain_rows(cutouts)]} == {"hs", "sw", "pg"}


def test_a_label_from_the_test_is_refused():
    cutouts, labels = make_blobs()
    draw = make_label_draws(small_config(), cutouts, labels)[0]
    train, test = (draw.split.ids(role) for role in ("train", "test"))
    for fit, select in ((test[:1], train[:1]), (train[:1], test[:1])):
        with pytest.raises(UserError, match="leak"):
            LabelDraw(0, "draw 0", draw.split, {2: (fit, select)}, (2,)).rows(cutouts, 2)
