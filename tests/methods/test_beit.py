"""BEiT: tokens made from the cutouts, and a network that predicts the masked ones."""

import numpy as np
import pytest
import torch
from scipy import stats

from zwicky import methods
from zwicky.backbones.patches import patchify
from zwicky.errors import UserError
from zwicky.methods.beit import Tokenizer

SMALL = {"tokens": 12, "components": 5}


@pytest.fixture
def ready(tiny_vit, make_views):
    """A BEiT with its tokenizer made, and views for it."""

    def make(batch=6, seed=0, **options):
        method = methods.create("beit", tiny_vit(), **(SMALL | options))
        method.prepare(make_views(batch=16, seed=9))
        return method, make_views(batch=batch, local=0, seed=seed, masking=method.needs.masking)

    return make


def expected_metrics(logits, tokens, mask, valid):
    """Loss, accuracy, largest share and entropy of the tokens of masked patches at least half valid, in doubles."""
    counted = mask & (valid.double().unflatten(3, (4, 8)).unflatten(2, (4, 8)).mean((1, 3, 5)) >= 0.5)
    p, truth = logits.double().softmax(-1)[counted], tokens[counted]
    shares = np.bincount(truth) / len(truth)
    right = p[torch.arange(len(p)), truth]
    return float(-right.log().mean()), float((right == p.amax(1)).double().mean()), max(shares), stats.entropy(shares)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("ratio", [0.2, 0.4])
@pytest.mark.parametrize("invalid", [False, True])
def test_loss_and_metrics_are_those_written_out(batch, ratio, invalid, ready):
    method, views = ready(batch=batch, mask_ratio=ratio)
    if invalid:
        columns = torch.arange(32) >= 4  # half of the first cells: they still count
        columns[8:13] = False  # more than half of the second: they do not
        views.valid[0] = columns.expand_as(views.crops[0])
    with torch.no_grad():
        tokens = method.tokenizer(patchify(views.crops[0], method.grid))
        logits = method.head(method.encoder(views.crops[0], mask=views.masks[0]).patch_tokens)
        expected = expected_metrics(logits, tokens, views.masks[0], views.valid[0])
        metrics = method(views)
    values = [float(metrics[n]) for n in ("loss", "masked_accuracy", "majority_share", "token_entropy")]
    assert values == pytest.approx(list(expected), abs=1e-6)


def test_tokens_are_the_nearest_centroids(ready):
    method, views = ready()
    tokenizer, x = method.tokenizer, patchify(views.crops[0], method.grid).flatten(0, 2)
    z = ((x.double() - tokenizer.mean.double()) @ tokenizer.whiten.double())[:, None]
    nearest = (z - tokenizer.centroids.double()).square().sum(-1).argmin(1)
    assert torch.equal(tokenizer(x), nearest)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer(x), nearest)


def test_components_are_centred_and_whitened():
    x = 5 + torch.randn(4000, 8, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 3, 8)
    tokenizer = Tokenizer(8, 16, 3)
    tokenizer.fit(x)
    z = (x - tokenizer.mean) @ tokenizer.whiten
    assert torch.allclose(torch.cov(z.T), torch.eye(3), atol=1e-3)
    assert torch.allclose(z.mean(0), torch.zeros(3), atol=1e-4)
    assert tokenizer.centroids[tokenizer(x)].mean(0).abs().max() < 0.2


def test_the_tokenizer_is_a_function_of_the_valid_patches(tiny_vit, make_views):
    fitted, views = [], make_views(batch=16, seed=9)
    for broken in (False, True):
        if broken:
            views.valid[0] = torch.cat([views.valid[0], torch.zeros_like(views.valid[0])])
            views.crops[0] = torch.cat([views.crops[0], torch.zeros_like(views.crops[0])])
        method = methods.create("beit", tiny_vit(), **SMALL)
        method.prepare(views)
        fitted.append(method.tokenizer.centroids)
    assert torch.equal(*fitted)


def test_sky_does_not_take_the_tokens():
    """Nine cells in ten are noise alone; most tokens go to the shapes in the tenth."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    centre, width = 8 * torch.rand(2, 400, 1, 1, generator=generator), 1 + torch.rand(400, 1, 1, generator=generator)
    blobs = 10 * torch.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 2 / width**2).flatten(1)
    sky = torch.zeros(3600, 64)
    images = torch.cat([blobs, sky]) + 0.3 * torch.randn(4000, 64, generator=generator)
    tokenizer = Tokenizer(64, 32, 8)
    tokenizer.fit(images)
    tokens = tokenizer(images)
    assert len(tokens[400:].unique()) <= 8
    assert len(tokens[:400].unique()) >= 24


def test_refusals_are_one_line(tiny_vit, make_views):
    method = methods.create("beit", tiny_vit())
    with pytest.raises(UserError, match="lower tokens"):
        method.prepare(make_views(batch=2))
    alike = make_views(batch=64)
    alike.crops[0].zero_()
    with pytest.raises(UserError, match="too alike"):
        method.prepare(alike)
    with pytest.raises(AssertionError, match="prepare"):
        method(None)
