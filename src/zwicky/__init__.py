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
    "UserError": "errors",
    "Cutouts": "data.cutouts",
    "make_cutouts": "data.cutouts",
    "IngestConfig": "data.image_format",
    "ingest": "data.ingest",
    "open_store": "data.store",
    "write_store": "data.store",
    "StoreWriter": "data.store",
    "Labels": "data.labels",
    "Split": "data.splits",
    "read_labels": "data.labels",
    "write_labels": "data.labels",
    "read_split": "data.splits",
    "write_split": "data.splits",
    "holdout_split": "data.splits",
    "fold_splits": "data.splits",
    "label_subsets": "data.splits",
    "audit": "data.audit",
    "simulate_population": "simulate.simulation",
    "simulate_store": "simulate.simulation",
    "open_simulation": "simulate.stream",
    "open_data": "simulate.stream",
    "ViewsConfig": "augment.config",
    "PretrainConfig": "training.config",
    "FinetuneConfig": "training.config",
    "LensClassifier": "estimators",
    "LensRegressor": "estimators",
    "Network": "training.network",
    "load_network": "training.network",
    "pretrain": "training.pretrain",
    "finetune": "training.finetune",
    "export": "training.export",
    "evaluate": "evaluation.evaluate",
    "BenchmarkConfig": "evaluation.config",
    "BenchmarkResult": "evaluation.results",
    "benchmark": "evaluation.benchmark",
    "equivariance_error": "evaluation.equivariance",
    "write_report": "report.page",
    "predict": "survey.predict",
    "score": "survey.score",
    "similar": "survey.similar",
    "ScoreConfig": "survey.config",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"zwicky.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'zwicky' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
