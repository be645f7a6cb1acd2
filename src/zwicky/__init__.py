"""zwicky: self-supervised learning for strong gravitational lenses.

The names in `__all__` are loaded when first used, so `import zwicky` is quick and loads no torch.
"""

import os
from importlib import import_module
from typing import Any

# Idle OpenMP threads that spin take a second process on the same cores from 250 to 60 images/s; they must
# sleep instead, and the choice is only read when torch first loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"

_PUBLIC = {
    name: module
    for module, names in {
        "errors": "UserError",
        "data.cutouts": "Cutouts make_cutouts",
        "data.image_format": "IngestConfig",
        "data.ingest": "ingest",
        "data.store": "open_store write_store StoreWriter",
        "data.labels": "Labels read_labels write_labels",
        "data.splits": "Split read_split write_split holdout_split fold_splits label_subsets",
        "data.audit": "audit",
        "simulate.simulation": "simulate_population simulate_store",
        "simulate.stream": "open_simulation open_data",
        "augment.config": "ViewsConfig",
        "training.config": "PretrainConfig FinetuneConfig",
        "estimators": "LensClassifier LensEncoder LensRegressor",
        "training.network": "Network load_network",
        "training.pretrain": "pretrain",
        "training.finetune": "finetune",
        "training.export": "export",
        "evaluation.evaluate": "evaluate",
        "evaluation.config": "BenchmarkConfig",
        "evaluation.results": "BenchmarkResult",
        "evaluation.benchmark": "benchmark",
        "evaluation.equivariance": "equivariance_error",
        "report.page": "write_report",
        "grading.merge": "merge_grades",
        "survey.predict": "predict",
        "survey.score": "score",
        "survey.similar": "similar",
        "survey.config": "ScoreConfig",
    }.items()
    for name in names.split()
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"zwicky.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'zwicky' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
