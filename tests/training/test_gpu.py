"""Training on a GPU equals that on the CPU."""

import numpy as np
import pytest
import torch

from zwicky import backbones, methods
from zwicky.augment.augment import Augment
from zwicky.augment.config import ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.training import checkpoint, loop
from zwicky.training.config import TrainConfig
from zwicky.training.loader import BatchLoader, TrainingSet
from zwicky.training.network import Network

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
METHODS = {
    "dino": {"prototypes": 16, "hidden": 16, "bottleneck": 8},
    "ibot": {"prototypes": 16, "hidden": 16, "bottleneck": 8},
    "simmim": {},
    "supervised": {"classes": 2},
}
STILL = ViewsConfig(local_crops=2, local_size=8, noise=0.0)  # noise comes from the device's own generator


@pytest.fixture
def trial(make_blobs, tmp_path, monkeypatch):
    """trial(method name, device, folder, …) → (method, FitResult) of a small fit."""
    cutouts, _ = make_blobs(48)
    normalisation = Normalisation.fit(cutouts.images, cutouts.bands)

    def run(name, device="cuda", folder="run", backbone="vit_tiny", after_step=None, **train):
        torch.manual_seed(0)
        options = {"patch_size": 4, "width": 32, "depth": 2, "heads": 2} if backbone == "vit_tiny" else {}
        network = backbones.create(backbone, bands=2, image_size=16, **options)
        method = methods.create(name, network, **METHODS[name])
        if after_step is not None:
            method.after_step = lambda progress: (after_step(), type(method).after_step(method, progress))
        augment = Augment.for_method(method.needs, STILL, normalisation, cutouts.size, cutouts.bands)
        targets = torch.arange(48) % 2 if method.needs.targets else None
        data = TrainingSet(cutouts.images, np.arange(48), targets)
        config = TrainConfig(
            **{"max_steps": 5, "batch_size": 16, "lr": 1e-3, "precision": "float32", "checkpoint_seconds": 0.0} | train
        )
        with monkeypatch.context() as context:
            context.setattr(torch.cuda, "is_available", lambda: device == "cuda")
            out = tmp_path / folder
            return method, loop.fit(method, data, augment, config, seed=1, folder=out, title="trial", quiet=True)

    return run


@pytest.mark.parametrize("name", METHODS)
def test_float32_steps_equal_those_of_the_cpu(trial, name):
    gpu, on_gpu = trial(name, "cuda", "gpu")
    _, on_cpu = trial(name, "cpu", "cpu")
    assert next(gpu.parameters()).device.type == "cuda"
    losses = [[row["loss"] for row in result.rows] for result in (on_gpu, on_cpu)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    assert on_gpu.flops == pytest.approx(on_cpu.flops, rel=0.05)


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_stays_close_to_float32(trial, name):
    _, exact = trial(name, folder="float32")
    method, rounded = trial(name, folder="bf16", precision="bf16")
    assert rounded.rows[-1]["loss"] == pytest.approx(exact.rows[-1]["loss"], rel=0.1)
    assert {parameter.dtype for parameter in method.parameters()} == {torch.float32}


def test_a_resumed_fit_equals_an_uninterrupted_one(trial, tmp_path):
    calls = []

    def interrupt():
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt

    whole, _ = trial("dino", folder="whole")
    with pytest.raises(KeyboardInterrupt):
        trial("dino", folder="parts", after_step=interrupt)
    assert checkpoint.load(tmp_path / "parts" / "checkpoint" / "last.pt")["progress"]["steps"] == 2
    resumed, _ = trial("dino", folder="parts")
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.uint16])
def test_resident_pixels_are_those_of_the_store(make_blobs, dtype):
    cutouts, _ = make_blobs(24)
    images = np.clip(cutouts.images * 5, 0, 255).astype(dtype)
    normalisation = Normalisation.fit(images, cutouts.bands)
    augment = Augment(STILL, normalisation, cutouts.size, cutouts.bands, 1)
    rows = np.array([20, 3, 7, 11])
    loader = BatchLoader(TrainingSet(images, rows), augment, 4, 0, torch.device("cuda"))
    order = loader.rows(0)
    pixels = loader.pixels(order)
    assert pixels.device.type == "cuda"
    np.testing.assert_array_equal(pixels.cpu().numpy(), images[order.numpy()])


def test_a_network_predicts_as_on_the_cpu(trial, make_blobs):
    cutouts, _ = make_blobs(20)
    method, _ = trial("supervised")
    normalisation = Normalisation.fit(cutouts.images, cutouts.bands)
    views = ViewsConfig(crop=16, image_size=16)
    network = Network(method.backbone, normalisation, views, cutouts.bands, head=method.head, classes=("a", "b"))
    gpu = network.predict(cutouts.images)
    method.cpu()
    np.testing.assert_allclose(network.predict(cutouts.images), gpu, atol=2e-2)  # bfloat16 on the GPU
