"""The first weights of a head: the logistic or the ridge regression on the features it stands on."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from zwicky.augment.augment import Augment
from zwicky.backbones.base import Backbone
from zwicky.data.stored_images import Images, in_batches
from zwicky.methods.supervised import Supervised
from zwicky.metrics.logistic import linear_classifier
from zwicky.metrics.ridge import linear_regressor
from zwicky.training.engine import use_bf16

VIEWS = 8  # of each image, as long as …
MOST_ROWS = 4096  # … they are no more than so many in all


def init_head_from_linear_probe(method: Supervised, x: np.ndarray, truth: np.ndarray, seed: int) -> None:
    """Set a linear head to the regression on features x [views, n, D] of n objects.

    truth: their classes [n], for a logistic regression, or their values [n, columns], for a ridge regression.
    """
    assert isinstance(method.head, nn.Linear), "a head with a direction has no such probe"
    objects = np.tile(np.arange(len(truth)), len(x))
    features = x.reshape(len(objects), -1)
    if method.targets:
        scaled = method.scaler.transform(truth)
        weight, bias = linear_regressor(features, scaled[objects], seed, objects)
    elif len(np.unique(truth)) < 2:
        return
    else:
        weight, bias = linear_classifier(features, truth[objects], method.classes, seed, objects)
    with torch.no_grad():
        method.head.weight.copy_(torch.from_numpy(weight))
        method.head.bias.copy_(torch.from_numpy(bias))


@torch.no_grad()
def features_of_views(
    backbone: Backbone, augment: Augment, images: Images, rows: np.ndarray, seed: int, precision: str
) -> np.ndarray:
    """[views, n, D] features of n images as training sees them, each of one augmented view; `rows` are their numbers.

    The probe of means over views has weights far too large for single ones: on small differences between features
    that the mean keeps, and augmentation and bfloat16 do not. A fit that begins with it first undoes what was learnt.
    """
    backbone.eval()
    where = next(backbone.parameters()).device
    views = max(1, min(VIEWS, MOST_ROWS // max(len(rows), 1)))
    x = np.empty((views, len(rows), backbone.dim), np.float32)
    order = np.arange(len(rows))  # said, since the views follow from it: a store has one of its own
    for number, (places, raw) in enumerate(in_batches(images, 256, order)):
        for view in range(views):
            numbers = torch.from_numpy(rows[places]).to(where)
            shown = augment(torch.from_numpy(raw).to(where), numbers, seed=seed, step=number * views + view)
            with torch.autocast(where.type, torch.bfloat16, enabled=use_bf16(precision, backbone)):
                summary = backbone(shown.crops[0], patch_tokens=False).pooled
            x[view, places] = summary.float().cpu().numpy()
    backbone.train()
    return x
