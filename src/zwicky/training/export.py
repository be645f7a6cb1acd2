"""Export a trained network: in timm's format if the architecture is timm's, or as ONNX.

Each file is read back and run before it is put in place; one that does not reproduce the network is not written.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from zwicky import __version__
from zwicky.backbones.base import LinearHead
from zwicky.errors import UserError
from zwicky.io import write_json
from zwicky.rng import torch_rng
from zwicky.training import provenance
from zwicky.training.checkpoint import save_weights
from zwicky.training.network import WEIGHTS, Network, load_network, save_network

TOLERANCE = 1e-4  # largest difference from the outputs of the network, relative for outputs above 1


class ExportedNetwork(nn.Module):
    """Map normalised crops [B, bands, H, W] to pooled features [B, D] and, with a head, logits or predictions."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.backbone, self.head = network.backbone, network.head
        self.is_regression, self.scaler = bool(network.targets), network.scaler

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs."""
        return ["pooled"] if self.head is None else ["pooled", "predictions" if self.is_regression else "logits"]

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        """Return the pooled features and, with a head, its outputs in the units of the targets."""
        features = self.backbone(crops, patch_tokens=self.head is not None and self.head.uses_patch_tokens)
        if self.head is None:
            return (features.pooled,)
        outputs = self.head(features)
        return features.pooled, self.scaler.inverse(outputs) if self.is_regression else outputs


def export(run: Path | str, out: Path | str, form: Literal["safetensors", "onnx"] = "safetensors") -> list[Path]:
    """Write the network of a run for other programs (`zwicky export`).

    Args:
        run: the run directory.
        out: the folder to write into.
        form: safetensors writes `model.safetensors` and `config.json`, which timm reads without zwicky, head
            included; or, if the architecture is not timm's, `network.safetensors` and `network.json`, which
            `load_network` reads. onnx writes `model.onnx`, for batches of any size.

    Returns:
        The files.

    Raises:
        UserError: if onnx is not installed, or a file does not reproduce the network.
    """
    run, out = Path(run), Path(out)
    if form not in ("safetensors", "onnx"):
        raise UserError(f"export: there is no format {form!r}; choose safetensors or onnx")
    network = load_network(run)
    exported = ExportedNetwork(network).cpu().eval()
    if form == "onnx":
        names = ["model.onnx"]
    else:
        names = (
            [WEIGHTS, "network.json"]
            if network.backbone.timm_config() is None
            else ["model.safetensors", "config.json"]
        )
        names += [provenance.FILE] if (run / provenance.FILE).exists() else []
    with _all_or_nothing(out, names) as folder:
        if form == "onnx":
            _write_onnx(network, exported, folder / "model.onnx")
        else:
            if provenance.FILE in names:
                shutil.copy(run / provenance.FILE, folder)
            (save_network(folder, network) if WEIGHTS in names else _write_timm(network, exported, folder))
    return [out / name for name in names]


def describe(network: Network) -> dict[str, Any]:
    """Return what another program needs: how crops are made from raw images, and what the outputs mean."""
    return {
        "zwicky_version": __version__,
        "bands": list(network.bands),
        "pixel_scale": network.pixel_scale,
        "crop": network.views.crop,
        "image_size": network.backbone.image_size,
        "normalisation": asdict(network.normalisation),
        "classes": list(network.classes),
        "temperature": network.temperature,
        "targets": [asdict(target) for target in network.targets],
        "target_mean": list(network.scaler.mean),
        "target_std": list(network.scaler.std),
    }


def _write_timm(network: Network, exported: ExportedNetwork, folder: Path) -> None:
    config = network.backbone.timm_config()
    assert config is not None
    architecture, classifier, arguments = config["architecture"], config["classifier"], config["model_args"]
    state = dict(network.backbone.net.state_dict())
    if isinstance(network.head, LinearHead):
        state |= {f"{classifier}.{name}": value for name, value in network.head.as_linear().items()}
    save_weights(folder / "model.safetensors", state, {"format": "pt"} | provenance.reference(folder))
    n_outputs = network.n_outputs
    size = [arguments["in_chans"], network.backbone.image_size, network.backbone.image_size]
    write_json(
        folder / "config.json",
        {
            "architecture": architecture,
            "num_classes": n_outputs,
            "num_features": network.backbone.dim,
            "model_args": {**arguments, "num_classes": n_outputs},
            "pretrained_cfg": {
                "num_classes": n_outputs,
                "input_size": size,
                "fixed_input_size": architecture != "resnet18",
                "mean": [0.0] * size[0],
                "std": [1.0] * size[0],
                "crop_pct": 1.0,
                "pool_size": None,
                "classifier": classifier,
                "first_conv": "conv1" if architecture == "resnet18" else "patch_embed.proj",
                **({"label_names": list(network.classes)} if network.classes else {}),
            },
            "zwicky": describe(network),
        },
    )
    read_back = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    features = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    for count in (1, 3):
        crops = _random_crops(network, count)
        with torch.inference_mode():
            pooled, *outputs = exported(crops)
            _check_equal(pooled, features(crops))
            for output in outputs:
                timms = read_back(crops)
                _check_equal(output, network.scaler.inverse(timms) if network.targets else timms)


def _write_onnx(network: Network, exported: ExportedNetwork, path: Path) -> None:
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
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's progress and its own deprecations
        program = torch.onnx.export(
            exported,
            (_random_crops(network, 2),),
            input_names=["crops"],
            output_names=exported.output_names,
            dynamic_shapes=({0: batch},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, {"zwicky": json.dumps(describe(network))})
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


@contextlib.contextmanager
def _all_or_nothing(out: Path, names: list[str]) -> Iterator[Path]:
    """Give a temporary folder; on success move the files `names` from it to `out`."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as folder:
            yield Path(folder)
            for name in names:
                os.replace(Path(folder) / name, out / name)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}; choose a folder you may write to") from error
