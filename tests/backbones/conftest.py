"""Networks with no parameter left at its initial zero or one."""

import pytest
import torch


@pytest.fixture
def filled():
    """A function that draws every parameter of a module anew, the same each time, and returns it in eval mode."""

    def fill(module, scale=0.2, dtype=torch.float32):
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.data = (scale * torch.randn(parameter.shape, generator=generator)).to(dtype)
        return module.eval()

    return fill
