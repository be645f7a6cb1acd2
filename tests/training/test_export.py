"""Outputs of exported files, read by timm or ONNX Runtime alone, against those of the network."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from zwicky import backbones
from zwicky.augment.views import Target
from zwicky.backbones.vit import ViT
from zwicky.errors import UserError
from zwicky.training.export import export
from zwicky.training.network import load_network, save_network

DEEP = {"patch_size": 8, "width": 32, "depth": 2, "heads": 4}
STAGES = {"patch_size": 2, "width": 32, "depths": [2, 2], "heads": [2, 4], "window": 4}
CASES = {
    "vit": ("vit_tiny", DEEP),
    "vit-mean": ("vit_tiny", {**DEEP, "pool": "mean"}),
    "dinov2": ("vit_tiny", {**DEEP, "layer_scale": 1e-5, "registers": 4}),
    "beit": ("beit_base", DEEP),
    "beit-cls": ("beit_base", {**DEEP, "pool": "cls"}),
    "swin": ("swin_tiny", STAGES),
    "resnet": ("resnet18", {}),
}


OTHERS = {"d4_vit": ("d4_vit", DEEP), "d4_swin": ("d4_swin", STAGES | {"depths": [1, 2]}), "small": ("resnet18", {})}
TARGETS = (Target(("flux",)), Target(("dx", "dy"), "vector"))


@pytest.fixture(scope="module")
def make(small_network):
    """make(case, head) → a network with weights all over the place, and raw images for it."""

    def build(case, head="classes"):
        name, options = (CASES | OTHERS)[case]
        side = 48 if case == "resnet" else 32
        images = np.random.default_rng(0).normal(2, 5, (3, 2, side, side)).astype(np.float32)
        network = small_network(images, head, name, size=side, **options)
        with torch.no_grad():
            for parameter in network.backbone.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        return network, images

    return build


# Exported folders and raw pixels to outputs, without zwicky. One process for all, as timm loads slowly.
TIMM_ALONE = """
import json, sys
from pathlib import Path
sys.modules["zwicky"] = None
import numpy as np, timm, torch
for folder in Path(sys.argv[1]).iterdir():
    scale = json.loads((folder / "out" / "config.json").read_text())["zwicky"]["normalisation"]
    center, unit = (np.array(scale[name])[:, None, None] for name in ("center", "scale"))
    crops = np.arcsinh((np.load(folder / "images.npy") - center) / unit / scale["softening"]) / scale["output_std"]
    crops, name = torch.from_numpy(crops.astype(np.float32)), f"local-dir:{folder / 'out'}"
    with torch.no_grad():
        features = timm.create_model(name, pretrained=True, num_classes=0).eval()(crops)
        outputs = timm.create_model(name, pretrained=True).eval()(crops)
    np.savez(folder / "outputs.npz", features=features.numpy(), outputs=outputs.numpy())
"""


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    """zwicky computes in bfloat16 where that is fast; the files are compared in float32."""
    monkeypatch.setattr("zwicky.training.distributed.use_bf16", lambda *_: False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make):
    """A folder for each case: the run, its export, images, and the outputs of timm alone."""
    folder = tmp_path_factory.mktemp("cases")
    for case in CASES:
        network, images = make(case)
        save_network(folder / case / "run", network)
        written = export(folder / case / "run", folder / case / "out")
        assert sorted((folder / case / "out").iterdir()) == sorted(written)
        np.save(folder / case / "images.npy", images)
    subprocess.run([sys.executable, "-c", TIMM_ALONE, str(folder)], check=True)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_timm_alone_gives_the_same_outputs(folders, case):
    network, images = load_network(folders / case / "run"), np.load(folders / case / "images.npy")
    outputs = np.load(folders / case / "outputs.npz")
    assert np.allclose(outputs["features"], network.features(images, turns=False), atol=1e-5)
    assert np.allclose(outputs["outputs"], network.outputs(images, turns=False), atol=1e-5)
    config = json.loads((folders / case / "out" / "config.json").read_text())
    assert config["num_classes"] == 2
    assert config["pretrained_cfg"]["label_names"] == config["zwicky"]["classes"] == ["nonlens", "lens"]
    assert config["zwicky"]["bands"] == ["g", "r"]
    assert (config["zwicky"]["pixel_scale"], config["zwicky"]["temperature"]) == (0.2, 1.7)


def test_an_exported_network_can_be_pretrained_weights(folders):
    path = str(folders / "beit" / "out" / "model.safetensors")
    loaded = backbones.create("beit_base", bands=2, image_size=32, pretrained=path, **DEEP).net.state_dict()
    expected = load_network(folders / "beit" / "run").backbone.net.state_dict()
    assert all(torch.equal(loaded[key], value.cpu()) for key, value in expected.items())


def test_a_network_that_timm_lacks_is_exported_as_ours(tmp_path, make):
    network, images = make("small")
    save_network(tmp_path / "run", network)
    assert [path.name for path in export(tmp_path / "run", tmp_path / "out")] == ["network.json", "network.safetensors"]
    assert np.allclose(load_network(tmp_path / "out").outputs(images), network.outputs(images), atol=1e-6)


# Each takes seconds to export, so the quick tests have one and the slow ones the others.
ONNX = [(case, False) for case in CASES] + [("vit", True), ("d4_vit", True), ("d4_swin", True)]


@pytest.mark.parametrize(
    ("case", "regression"), [ONNX[0], *(pytest.param(*one, marks=pytest.mark.slow) for one in ONNX[1:])]
)
def test_onnx_gives_the_same_outputs_for_any_batch(tmp_path, make, case, regression):
    """Those of an equivariant network are as exact: features of rotated images are equal, vectors rotate."""
    onnxruntime = pytest.importorskip("onnxruntime")
    network, images = make(case, TARGETS if regression else "classes")
    save_network(tmp_path / "run", network)
    (path,) = export(tmp_path / "run", tmp_path / "out", "onnx")
    assert list(tmp_path.joinpath("out").iterdir()) == [path]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["zwicky"])

    def run(images):
        crops = network.normalisation(torch.from_numpy(np.ascontiguousarray(images)))[0]
        return session.run(None, {"crops": crops.numpy()})

    names = ["pooled", "predictions" if regression else "logits"]
    assert [output.name for output in session.get_outputs()] == names
    for count in (1, 3):
        pooled, outputs = run(images[:count])
        assert np.allclose(pooled, network.features(images[:count], turns=False), atol=1e-4)
        assert np.allclose(outputs, network.outputs(images[:count], turns=False), atol=1e-4, rtol=1e-4)
    if regression:
        assert metadata["targets"][1] == {"columns": ["dx", "dy"], "kind": "vector"}
    else:
        assert metadata["classes"] == ["nonlens", "lens"]
    if case.startswith("d4"):
        rotated, turned = run(np.rot90(images, axes=(2, 3)))
        assert outputs.std(0).min() > 1e-3
        assert np.abs(rotated - pooled).max() < 1e-5 * pooled.std()
        expected = outputs[:, [0, 2, 1]] * [1, 1, -1]  # rot90 takes (x, y) to (y, −x)
        assert np.abs(turned - expected).max() < 1e-4 * outputs.std(0).max()


def test_a_file_that_does_not_reproduce_the_network_is_not_written(tmp_path, make, monkeypatch):
    """Another number of heads has the same weights and other outputs."""
    save_network(tmp_path / "run", make("vit")[0])
    real = ViT.timm_config

    def two_heads(backbone):
        config = real(backbone)
        return {**config, "model_args": {**config["model_args"], "num_heads": 2}}

    monkeypatch.setattr(ViT, "timm_config", two_heads)
    with pytest.raises(UserError, match="does not reproduce the network"):
        export(tmp_path / "run", tmp_path / "out")
    assert list(tmp_path.joinpath("out").iterdir()) == []


def test_mistakes_are_one_line(tmp_path, make, monkeypatch):
    save_network(tmp_path / "run", make("vit", None)[0])
    (tmp_path / "taken").write_text("")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    for arguments, message in ((("taken",), "cannot write"), (("out", "onnx"), r"zwicky\[onnx\]")):
        with pytest.raises(UserError, match=message):
            export(tmp_path / "run", tmp_path / arguments[0], *arguments[1:])
