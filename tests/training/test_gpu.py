"""Training on a GPU equals that on the CPU."""

import numpy as np
import pytest
import torch

from zwicky.augment.config import ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.training import checkpoint
from zwicky.training.loader import BatchLoader, TrainingSet
from zwicky.training.network import Network

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
METHODS = ["dino", "ibot", "simmim", "supervised"]


@pytest.fixture
def still(trial, monkeypatch):
    """A small fit without random numbers of the device's own generator, on the GPU or the CPU."""

    def run(folder, name, device="cuda", **options):
        with monkeypatch.context() as context:
            context.setattr(torch.cuda, "is_available", lambda: device == "cuda")
            return trial(folder, name, noise=0.0, **{"max_steps": 5, "lr": 1e-3, "evaluations": 5} | options)

    return run


@pytest.mark.parametrize("name", METHODS)
def test_float32_steps_equal_those_of_the_cpu(still, name):
    gpu, on_gpu = still("gpu", name)
    _, on_cpu = still("cpu", name, "cpu")
    assert next(gpu.parameters()).device.type == "cuda"
    losses = [[row["loss"] for row in result.rows] for result in (on_gpu, on_cpu)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    assert on_gpu.flops == pytest.approx(on_cpu.flops, rel=0.05)


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_stays_close_to_float32(still, name):
    _, exact = still("float32", name)
    method, rounded = still("bf16", name, precision="bf16")
    assert rounded.rows[-1]["loss"] == pytest.approx(exact.rows[-1]["loss"], rel=0.1)
    assert {parameter.dtype for parameter in method.parameters()} == {torch.float32}


def test_a_resumed_fit_equals_an_uninterrupted_one(still, tmp_path):
    calls = []

    def interrupt(_method):
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt

    options = {"checkpoint_seconds": 0.0}
    whole, _ = still("whole", "dino", **options)
    with pytest.raises(KeyboardInterrupt):
        still("parts", "dino", after_step=interrupt, **options)
    assert checkpoint.load(tmp_path / "parts" / "checkpoint" / "last.pt")["progress"]["steps"] == 2
    resumed, _ = still("parts", "dino", **options)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.uint16])
@pytest.mark.parametrize("free", [10**9, 0])
def test_pixels_are_resident_where_they_fit(make_blobs, monkeypatch, dtype, free):
    images = np.clip(make_blobs(24)[0].images * 5, 0, 255).astype(dtype)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free))
    loader = BatchLoader(TrainingSet(images, np.array([20, 3, 7, 11])), None, 4, 0, torch.device("cuda"))
    assert (loader._resident is None) == (free == 0)
    pixels = loader.pixels(loader.rows(0))
    assert pixels.device.type == "cuda"
    np.testing.assert_array_equal(pixels.cpu().numpy(), images[loader.rows(0).numpy()])


def test_a_network_predicts_as_on_the_cpu(still, make_blobs):
    cutouts, _ = make_blobs(20)
    method, _ = still("run", "supervised")
    normalisation = Normalisation.fit(cutouts.images, cutouts.bands)
    views = ViewsConfig(crop=16, image_size=16)
    network = Network(method.backbone, normalisation, views, cutouts.bands, head=method.head, classes=("a", "b"))
    gpu = network.predict(cutouts.images)
    method.cpu()
    np.testing.assert_allclose(network.predict(cutouts.images), gpu, atol=2e-2)  # bfloat16 on the GPU
