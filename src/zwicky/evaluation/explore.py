"""What frozen features show without labels: a map of the cutouts, clusters, oddities and neighbours."""

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from zwicky.rng import numpy_rng

COMPONENTS = 30
CLUSTERS = 8
NEIGHBOURS = 10
MAPPED = 3000  # objects on the map
REFERENCES = 20_000  # objects among which neighbours are sought


def components(features: np.ndarray) -> np.ndarray:
    """Return principal components [N, at most COMPONENTS] of standardised features [N, D]."""
    x = StandardScaler().fit_transform(np.asarray(features, np.float64))
    return PCA(min(COMPONENTS, len(x) - 1, x.shape[1]), random_state=0).fit_transform(x)


def explore(x: np.ndarray) -> pd.DataFrame:
    """Describe objects by their components [N, K].

    Returns:
        x and y, a t-SNE of at most MAPPED objects (NaN for the others); cluster, of k-means, the largest first; and
        oddity, the mean distance to the nearest neighbours in units of its median.
    """
    count = len(x)
    table = pd.DataFrame({"x": np.full(count, np.nan), "y": np.nan})
    mapped = np.sort(numpy_rng(0).permutation(count)[:MAPPED])
    tsne = TSNE(perplexity=min(30, max(2, len(mapped) // 4)), init="pca", random_state=0)
    table.loc[mapped, ["x", "y"]] = tsne.fit_transform(x[mapped])
    cluster = KMeans(max(1, min(CLUSTERS, count // NEIGHBOURS)), n_init=4, random_state=0).fit_predict(x)
    table["cluster"] = np.argsort(np.argsort(-np.bincount(cluster), kind="stable"))[cluster]
    distance = neighbours(x, np.arange(count))[0].mean(1)
    table["oddity"] = distance / (np.median(distance) or 1.0)
    return table


def neighbours(x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return distances and row numbers of the nearest other objects of `rows`, each [len(rows), k]."""
    references = np.sort(numpy_rng(1).permutation(len(x))[:REFERENCES])
    k = min(NEIGHBOURS + 1, len(references))
    distance, index = NearestNeighbors(n_neighbors=k).fit(x[references]).kneighbors(x[rows])
    index = references[index]
    other = index != np.asarray(rows)[:, None]
    other[other.all(1), -1] = False  # an object that is no reference: its farthest neighbour is left out
    return distance[other].reshape(len(rows), k - 1), index[other].reshape(len(rows), k - 1)


def central(x: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Return the row number of the object nearest to the centre of each cluster, in order of its number."""
    clusters = [np.flatnonzero(cluster == number) for number in range(cluster.max() + 1)]
    return np.array([rows[((x[rows] - x[rows].mean(0)) ** 2).sum(1).argmin()] for rows in clusters])
