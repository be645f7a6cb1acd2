"""On a GPU: fused attention, bfloat16 and the whole matrices of the equivariant layers agree with the CPU."""

import copy

import pytest
import torch

from zwicky.backbones import BACKBONES
from zwicky.backbones.attention import attend

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
TRANSFORMERS = [name for name in BACKBONES if name != "resnet18"]


@pytest.fixture(autouse=True)
def _full_float32():
    """Products in float32 proper, not in TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("with_bias", [False, True])
def test_fused_attention_is_the_product_of_the_cpu(with_bias):
    q, k, v = (torch.randn(2, 3, n, 8) for n in (5, 7, 7))
    bias = torch.randn(3, 5, 7).masked_fill(torch.rand(3, 5, 7) < 0.3, -torch.inf) if with_bias else None
    if bias is not None:
        bias[..., 0] = 0  # each query may attend to something
    result = attend(q.cuda(), k.cuda(), v.cuda(), None if bias is None else bias.cuda())
    torch.testing.assert_close(result.cpu(), attend(q, k, v, bias), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("size", [32, 64])
def test_features_and_gradients_agree_with_the_cpu(name, size, small_backbone, filled):
    net = filled(small_backbone(name, image_size=64), 0.1)
    net.set_trainable(masked=True)
    images, mask = torch.randn(4, 3, size, size), torch.rand(4, *net.grid(size)) < 0.3
    results = []
    for device in ("cpu", "cuda"):
        copied = copy.deepcopy(net).to(device)
        features = copied(images.to(device), mask.to(device))
        (features.pooled.square().sum() + features.patch_tokens.square().sum()).backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in copied.parameters()])
        values = features.pooled, features.patch_tokens, gradient, copied.attention(images.to(device))
        results.append([value.cpu() for value in values])
    for cpu, cuda in zip(*results, strict=True):
        torch.testing.assert_close(cuda, cpu, atol=1e-4 * float(cpu.abs().max()), rtol=1e-3)


@pytest.mark.parametrize("name", BACKBONES)
def test_bfloat16_is_near_float32(name, small_backbone, filled):
    net = filled(small_backbone(name), 0.1).cuda()
    images = torch.randn(8, 3, 32, 32, device="cuda")
    with torch.no_grad():
        exact = net(images)
        with torch.autocast("cuda", torch.bfloat16):
            result = net(images)
    for part in ("pooled", "patch_tokens"):
        expected, near = getattr(exact, part), getattr(result, part).float()
        assert 0 < (near - expected).norm() < 0.05 * expected.norm()
