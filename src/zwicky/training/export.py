"""A trained network as files for other programs: timm's own layout where the architecture is timm's, or ONNX.

What is written is first read back and run; a file that answers otherwise is not left behind.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from zwicky import __version__
from zwicky.backbones.base import Backbone
from zwicky.backbones.beit import LAYER_SCALE, BEiT
from zwicky.backbones.resnet import ResNet18
from zwicky.backbones.swin import Swin
from zwicky.backbones.vit import ViT
from zwicky.errors import UserError
from zwicky.io import beside, clear, write_json
from zwicky.rng import torch_rng
from zwicky.training.checkpoint import save_weights
from zwicky.training.network import Network, load_network, save_network
from zwicky.training.task import columns_of

TOLERANCE = 1e-4  # largest difference between the answers of a file and ours, relative where they are above 1


class Answers(nn.Module):
    """Normalised crops [B, bands, H, W] → summary [B, D], and with a head its logits or the regressed values."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.backbone, self.head = network.backbone, network.head
        self.regresses = bool(network.targets)
        self.register_buffer("mean", torch.tensor(network.scaler.mean))
        self.register_buffer("std", torch.tensor(network.scaler.std))

    @property
    def names(self) -> list[str]:
        return ["summary"] if self.head is None else ["summary", "predictions" if self.regresses else "logits"]

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        linear = isinstance(self.head, nn.Linear)  # else it looks at the frames of an equivariant backbone
        features = self.backbone(crops, patch_tokens=self.head is not None and not linear)
        summary = features.pooled
        if self.head is None:
            return (summary,)
        outputs = self.head(summary if linear else features)
        return summary, outputs * self.std + self.mean if self.regresses else outputs


def export(run: Path, out: Path, form: Literal["safetensors", "onnx"] = "safetensors") -> list[Path]:
    """Write the network of a run into the folder `out`; returns the files.

    safetensors: `model.safetensors` and `config.json`, which timm reads without zwicky, head included; or, where the
    architecture is not timm's, `network.safetensors` and `network.json`, which `load_network` reads.
    onnx: `model.onnx`, from normalised crops to a summary and, with a head, logits or predictions, any batch.
    """
    if form not in ("safetensors", "onnx"):
        raise UserError(f"export: there is no format {form!r}; choose safetensors or onnx")
    network = load_network(run)
    answers = Answers(network).cpu().eval()
    if form == "onnx":
        with _fresh(out, ["model.onnx"]) as folder:
            _write_onnx(network, answers, folder / "model.onnx")
        return [out / "model.onnx"]
    if timm_arguments(network.backbone) is None:
        save_network(out, network)
        return [out / "network.safetensors", out / "network.json"]
    with _fresh(out, ["model.safetensors", "config.json"]) as folder:
        _write_timm(network, answers, folder)
    return [out / "model.safetensors", out / "config.json"]


def about(network: Network) -> dict[str, Any]:
    """What another program needs to know: how crops are made of raw images, and what the outputs mean."""
    return {
        "zwicky_version": __version__,
        "bands": list(network.bands),
        "pixel_scale": network.pixel_scale,
        "crop": network.views.crop,
        "image_size": network.backbone.image_size,
        "normalisation": network.normalisation.to_dict(),
        "classes": list(network.classes),
        "temperature": network.temperature,
        "targets": [asdict(target) for target in network.targets],
        "target_mean": list(network.scaler.mean),
        "target_std": list(network.scaler.std),
    }


def timm_arguments(backbone: Backbone) -> tuple[str, str, dict[str, Any]] | None:
    """(architecture, its classifier's name, arguments that make it this one); None where timm has no such network."""
    net: Any = backbone.net
    common = {"in_chans": backbone.config["bands"]}
    if isinstance(backbone, ResNet18):  # timm's always has the stem's max-pooling
        return ("resnet18", "fc", common) if backbone.stride == 32 else None
    if not isinstance(backbone, ViT | BEiT | Swin):
        return None
    common |= {"img_size": backbone.image_size, "embed_dim": net.embed_dim}
    if isinstance(backbone, Swin):
        own: dict[str, Any] = {
            "patch_size": backbone.grids.patch_size,
            "depths": [len(stage.blocks) for stage in net.layers],
            "num_heads": [stage.blocks[0].attn.num_heads for stage in net.layers],
            "window_size": backbone.grids.window,
        }
        return "swin_tiny_patch4_window7_224", "head.fc", common | own
    common |= {"patch_size": backbone.patch_size, "depth": len(net.blocks), "num_heads": net.blocks[0].attn.num_heads}
    if isinstance(backbone, BEiT):
        pool = {"global_pool": "avg" if backbone.pool == "mean" else "token"}
        return "beit_base_patch16_224", "head", common | pool | {"init_values": LAYER_SCALE}
    own = {"global_pool": "avg" if backbone.pool == "mean" else "token", "fc_norm": False, "dynamic_img_size": True}
    own |= {"init_values": None if isinstance(net.blocks[0].ls1, nn.Identity) else 1e-5}
    own |= {"reg_tokens": net.num_reg_tokens, "no_embed_class": net.no_embed_class}
    return "vit_base_patch16_224", "head", common | own


def _write_timm(network: Network, answers: Answers, folder: Path) -> None:
    found = timm_arguments(network.backbone)
    assert found is not None
    assert isinstance(network.backbone.net, nn.Module)
    architecture, classifier, arguments = found
    state = dict(network.backbone.net.state_dict())
    if network.head is not None:
        state |= {f"{classifier}.{name}": value for name, value in network.head.state_dict().items()}
    save_weights(folder / "model.safetensors", state, {"format": "pt"})
    outputs = len(network.classes or columns_of(network.targets))
    size = [arguments["in_chans"], network.backbone.image_size, network.backbone.image_size]
    write_json(
        folder / "config.json",
        {
            "architecture": architecture,
            "num_classes": outputs,
            "num_features": network.backbone.dim,
            "model_args": {**arguments, "num_classes": outputs},
            "pretrained_cfg": {
                "num_classes": outputs,
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
            "zwicky": about(network),
        },
    )
    read_back = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    features = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    for count in (1, 3):
        crops = _crops(network, count)
        with torch.inference_mode():
            summary, *outputs_there = answers(crops)
            _refuse_other(summary, features(crops))
            for theirs in outputs_there:
                mine = theirs if not network.targets else (theirs - answers.mean) / answers.std
                _refuse_other(mine, read_back(crops))


def _write_onnx(network: Network, answers: Answers, path: Path) -> None:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # torch's exporter is written with it
    except ImportError as error:
        raise UserError(f"export: {error.name} is not installed; pip install 'zwicky[onnx]'") from error
    for chatty in ("onnxscript", "onnx_ir"):  # say of each operation what they leave as it is
        logging.getLogger(chatty).setLevel(logging.ERROR)
    # Answered first: the tables of offsets, which networks make once and keep, hold no numbers if made while exporting.
    tried = [_crops(network, count) for count in (1, 2, 5)]
    with torch.no_grad():
        expected = [answers(crops) for crops in tried]
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's progress and its own deprecations
        program = torch.onnx.export(
            answers,
            (_crops(network, 2),),
            input_names=["crops"],
            output_names=answers.names,
            dynamic_shapes=({0: batch},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, {"zwicky": json.dumps(about(network))})
    onnx.save(model, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for crops, ours in zip(tried, expected, strict=True):
        for mine, theirs in zip(ours, session.run(None, {"crops": crops.numpy()}), strict=True):
            _refuse_other(mine, torch.from_numpy(theirs))


def _crops(network: Network, count: int) -> Tensor:
    """Normalised crops to try a file on; they vary by about 1, as all that is normalised."""
    side = network.backbone.image_size
    return torch.randn(count, len(network.bands), side, side, generator=torch_rng(count))


def _refuse_other(mine: Tensor, theirs: Tensor) -> None:
    wrong = mine.shape != theirs.shape or float(((mine - theirs).abs() / mine.abs().clamp(min=1)).max())
    if not wrong <= TOLERANCE:
        raise UserError(
            f"export: the file would answer otherwise than the network (by {float(wrong):.1e}), so none was written; "
            "this is a fault of zwicky's, please report it with the run's network.json"
        )


@contextlib.contextmanager
def _fresh(out: Path, names: list[str]) -> Iterator[Path]:
    """A folder to write `names` in; on success they go to `out`, each in one step, else nothing does."""
    folder = beside(out / "export")
    try:
        clear(out / "export")
        folder.mkdir(parents=True)
        yield folder
        for name in names:
            os.replace(folder / name, out / name)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}; choose a folder you may write to") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
