"""An ensemble of runs that scores images: probability at a prevalence, spread, and distance to the training set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from scipy.special import expit, logit, logsumexp
from sklearn.neighbors import NearestNeighbors

from zwicky import provenance
from zwicky.data.cutouts import Images
from zwicky.data.store import open_store
from zwicky.errors import UserError
from zwicky.io import read_json
from zwicky.rng import numpy_rng
from zwicky.training.network import Network, load_network
from zwicky.training.task import columns_of

MAX_TRAINING = 2048  # training objects that distances are measured to


@dataclass(frozen=True)
class Training:
    """Features of training objects, to which distances are measured.

    The features are standardised by the mean and standard deviation of the training set. A distance is that to the
    nearest training object, in units of the distance to its nearest neighbour that 99 % of the training objects have:
    above 1, a cutout is unlike anything that the network was trained on.
    """

    mean: np.ndarray  # [D]
    std: np.ndarray  # [D]
    features: np.ndarray  # [R, D] float32, standardised
    unit: float

    @classmethod
    def of(cls, features: np.ndarray) -> Self:
        """Return the training set with these features [R, D]."""
        mean, std = features.mean(0), features.std(0) + 1e-12
        standard = ((features - mean) / std).astype(np.float32)
        nearest = _neighbours(standard).kneighbors()[0]
        return cls(mean, std, standard, max(float(np.quantile(nearest, 0.99)), 1e-12))

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Return the distance of features [N, D] to the training set, [N] float32."""
        standard = ((features - self.mean) / self.std).astype(np.float32)
        nearest = _neighbours(self.features).kneighbors(standard)[0][:, 0]
        return (nearest / self.unit).astype(np.float32)


def _neighbours(features: np.ndarray) -> NearestNeighbors:
    """Find the nearest of these features, in blocks of distances."""
    return NearestNeighbors(n_neighbors=1, algorithm="brute").fit(features)


def training_features(run: Path, network: Network, store: Path, turns: bool) -> np.ndarray:
    """Compute the features [R, D] of up to MAX_TRAINING objects of a store that a run was trained on."""
    cutouts = open_store(store)
    network.check(cutouts)
    rows = np.flatnonzero(provenance.find_leaked(cutouts, np.arange(len(cutouts)), network.history))
    if len(rows) < 2:
        raise UserError(f"{run} was not trained on {store}; give the store of its training to --training")
    rows = np.sort(numpy_rng(0).permutation(rows)[:MAX_TRAINING])
    return network.features(cutouts.take(rows).images, turns=turns)


@dataclass(frozen=True)
class Ensemble:
    """Networks of one task that score together.

    The log-odds of the positive class, z = z₊ − ln Σ exp(z of the others) of the calibrated logits, are moved from the
    share π₀ of the class among a network's labels to the prevalence π of the survey, z + logit π − logit π₀, and
    averaged. The order of the cutouts does not depend on π.
    """

    networks: tuple[Network, ...]
    shares: tuple[float, ...]  # π₀ of each network, NaN if it is not known
    prevalence: float | None
    turns: bool
    training: Training | None = None

    @classmethod
    def load(cls, runs: Sequence[Path], prevalence: float | None, turns: bool) -> Self:
        """Load the networks of some runs.

        UserError if they differ in bands, classes or targets, or the prevalence is none.
        """
        networks = tuple(load_network(run) for run in runs)
        for run, network in zip(runs, networks, strict=True):
            for name in ("bands", "classes", "targets", "pixel_scale"):
                if getattr(network, name) != getattr(networks[0], name):
                    raise UserError(f"{run} and {runs[0]} differ in {name}; an ensemble has networks of one task")
        if len(networks) > 1 and networks[0].head is None:
            raise UserError("several runs without a head cannot be averaged; fine-tune them, or give one")
        if prevalence is not None and not (0 < prevalence < 1 and networks[0].classes):
            raise UserError(f"the prevalence is {prevalence}; give one between 0 and 1, to networks of classes")
        shares = tuple(_positive_share(run, network.classes) for run, network in zip(runs, networks, strict=True))
        return cls(networks, shares, prevalence, turns)

    @property
    def columns(self) -> list[str]:
        """The names of what is predicted: `score` for classes, the columns of a regression, nothing without a head."""
        first = self.networks[0]
        return ["score"] if first.classes else list(columns_of(first.targets)) if first.head is not None else []

    def __call__(self, images: Images) -> tuple[pd.DataFrame, np.ndarray]:
        """Score images [N, bands, H, W].

        Returns:
            (table, features): for classes `score`, the probability of the positive class, and `spread`, the standard
            deviation of the log-odds over the networks (NaN for one); for a regression each column and
            `spread_COLUMN`; `distance` (NaN without a training set). Features [N, D] of the first network.
        """
        columns, are_classes, features, values = self.columns, bool(self.networks[0].classes), [], []
        for network, share in zip(self.networks, self.shares, strict=True):
            if not columns:
                features.append(network.features(images, turns=self.turns))
                continue
            found, outputs = network.features_and_outputs(images, turns=self.turns)
            features.append(found)
            values.append(self._log_odds(outputs, network, share) if are_classes else outputs.astype(np.float64))
        table = {}
        if columns:
            mean = np.mean(values, axis=0)
            spread = np.std(values, axis=0, ddof=1) if len(values) > 1 else np.full_like(mean, np.nan)
            table = dict(zip(columns, (expit(mean) if are_classes else mean).T, strict=True))
            names = ["spread"] if are_classes else [f"spread_{name}" for name in columns]
            table |= dict(zip(names, spread.T.astype(np.float32), strict=True))
        distance = self.training.distance(features[0]) if self.training else np.full(len(images), np.nan, np.float32)
        return pd.DataFrame(table | {"distance": distance}), features[0]

    def _log_odds(self, logits: np.ndarray, network: Network, share: float) -> np.ndarray:
        """[N, 1] log-odds of the positive class at the prevalence."""
        z = logits.astype(np.float64) / network.temperature
        odds = z[:, -1:] - logsumexp(z[:, :-1], axis=1, keepdims=True)
        if self.prevalence is None:
            return odds
        known = share if np.isfinite(share) else 1 / len(network.classes)
        return odds + logit(self.prevalence) - logit(known)


def _positive_share(run: Path, classes: tuple[str, ...]) -> float:
    """The share of the positive class among the labels of a run, NaN if it does not record it."""
    counts = read_json(run / "run.json").get("class_counts") if classes and (run / "run.json").exists() else None
    return counts[classes[-1]] / sum(counts.values()) if counts else np.nan
