"""Export a trained network: in timm's format if the architecture is timm's, or as ONNX.

Each file is read back and run before it is put in place; one that does not reproduce the network is not written.
"""

import contextlib
import io
import json
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from zwicky import __version__
from zwicky.backbones.heads import LinearHead
from zwicky.errors import UserError
from zwicky.io import NETWORK, read_json, write_json
from zwicky.rng import torch_rng
from zwicky.training.checkpoint import save_weights
from zwicky.training.network import Network, load_network, save_network

TOLERANCE = 1e-4  # largest difference from the outputs of the network, relative for outputs above 1


class ExportedNetwork(nn.Module):
    """Map normalised crops [B, bands, H, W] to pooled features [B, D] and, with a head, logits or predictions."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.backbone, self.head = network.backbone, network.head
        self.is_regression, self.scaler = bool(network.targets), network.scaler

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        """Return the pooled features and, with a head, its outputs in the units of the targets."""
        features = self.backbone(crops, patch_tokens=self.head is not None and self.head.uses_patch_tokens)
        if self.head is None:
            return (features.pooled,)
        outputs = self.head(features)
        return features.pooled, self.scaler.inverse(outputs) if self.is_regression else outputs


def export(run: Path | str, out: Path | str, form: Literal["safetensors", "onnx"] = "safetensors") -> list[Path]:
    """Write the network of a run into a folder, for other programs (`zwicky export`), and return the files.

    safetensors writes `model.safetensors` and `config.json`, which timm reads without zwicky, head included; or, if the
    architecture is not timm's, `network.safetensors` and `network.json`, which `load_network` reads. onnx writes
    `model.onnx`, for batches of any size. The metadata `zwicky` of both hold the contents of `network.json`: how crops
    are made from raw images, and what the outputs mean. UserError if a file does not reproduce the network.
    """
    run, out = Path(run), Path(out)
    if form not in ("safetensors", "onnx"):
        raise UserError(f"export: there is no format {form!r}; choose safetensors or onnx")
    network = load_network(run)
    exported = ExportedNetwork(network).cpu().eval()
    description = read_json(run / NETWORK) | {"zwicky_version": __version__}
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as temporary:
            folder = Path(temporary)
            if form == "onnx":
                _write_onnx(network, exported, description, folder / "model.onnx")
            elif network.backbone.timm_config() is None:
                save_network(folder, network)
            else:
                _write_timm(network, exported, description, folder)
            files = [out / path.name for path in sorted(folder.iterdir())]
            for path in files:  # only once all of them are right
                os.replace(folder / path.name, path)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}; choose a folder you may write to") from error
    return files


def _write_timm(network: Network, exported: ExportedNetwork, description: dict[str, Any], folder: Path) -> None:
    config = network.backbone.timm_config()
    assert config is not None
    is_resnet = config["architecture"] == "resnet18"
    state = dict(network.backbone.net.state_dict())
    if isinstance(network.head, LinearHead):
        state |= {f"{config['classifier']}.{name}": value for name, value in network.head.as_linear().items()}
    save_weights(folder / "model.safetensors", state, {"format": "pt"} | network.history.metadata(with_records=True))
    bands, size = len(network.bands), network.backbone.image_size
    pretrained = {
        "num_classes": network.n_outputs,
        "input_size": [bands, size, size],
        "fixed_input_size": not is_resnet,
        "mean": [0.0] * bands,
        "std": [1.0] * bands,
        "crop_pct": 1.0,
        "classifier": config["classifier"],
        "first_conv": "conv1" if is_resnet else "patch_embed.proj",
    }
    if network.classes:
        pretrained["label_names"] = network.classes
    model = {
        "architecture": config["architecture"],
        "num_classes": network.n_outputs,
        "num_features": network.backbone.dim,
        "model_args": {**config["model_args"], "num_classes": network.n_outputs},
        "pretrained_cfg": pretrained,
        "zwicky": description,
    }
    write_json(folder / "config.json", model)
    name = f"local-dir:{folder}"
    features = timm.create_model(name, pretrained=True, num_classes=0).eval()
    whole = timm.create_model(name, pretrained=True).eval()
    for count in (1, 3):
        crops = _random_crops(network, count)
        with torch.inference_mode():
            pooled, *outputs = exported(crops)
            _check_equal(pooled, features(crops))
            for output in outputs:
                predicted = whole(crops)
                _check_equal(output, network.scaler.inverse(predicted) if network.targets else predicted)


def _write_onnx(network: Network, exported: ExportedNetwork, description: dict[str, Any], path: Path) -> None:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # torch's exporter is written with it
    except ImportError as error:
        raise UserError(f"export: {error.name} is not installed; pip install 'zwicky[onnx]'") from error
    for logger in ("onnxscript", "onnx_ir"):  # which list every operation they leave unchanged
        logging.getLogger(logger).setLevel(logging.ERROR)
    # Run before exporting: position tables that networks cache on first use would hold no numbers.
    samples = [_random_crops(network, count) for count in (1, 2, 5)]
    with torch.no_grad():
        expected = [exported(crops) for crops in samples]
    # Without the exporter's progress and its own deprecations.
    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
        program = torch.onnx.export(
            exported,
            (samples[1],),
            input_names=["crops"],
            output_names=["pooled", "predictions" if network.targets else "logits"][: len(expected[0])],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, {"zwicky": json.dumps(description)})
    onnx.save(model, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for crops, outputs in zip(samples, expected, strict=True):
        for output, onnx_output in zip(outputs, session.run(None, {"crops": crops.numpy()}), strict=True):
            _check_equal(output, torch.from_numpy(onnx_output))


def _random_crops(network: Network, count: int) -> Tensor:
    """Crops to test a file on, with the unit variance of normalised ones."""
    side = network.backbone.image_size
    return torch.randn(count, len(network.bands), side, side, generator=torch_rng(count))


def _check_equal(output: Tensor, exported: Tensor) -> None:
    same_shape = output.shape == exported.shape
    difference = float(((output - exported).abs() / output.abs().clamp(min=1)).max()) if same_shape else float("inf")
    if not difference <= TOLERANCE:
        raise UserError(
            f"export: the file does not reproduce the network (difference {difference:.1e}), so none was written; "
            "this is a bug in zwicky, please report it with the run's network.json"
        )
