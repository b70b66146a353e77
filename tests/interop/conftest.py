"""Tiny random checkpoints, written by `transformers` itself."""

from pathlib import Path

import pytest


@pytest.fixture
def reference(tmp_path):
    """A function: transformers model class and config -> (model in fp32, eval; its folder)."""
    torch = pytest.importorskip("torch")

    def make(kind, config, seed=0):
        torch.manual_seed(seed)
        network = kind(config).float().eval()
        with torch.no_grad():
            for parameter in network.parameters():
                # Far from initialization: norms and biases count as much as matrices.
                parameter.add_(0.1 * torch.randn_like(parameter))
        folder = tmp_path / f"{kind.__name__}{seed}"
        network.save_pretrained(folder)
        return network, folder

    return make


def pytest_collection_modifyitems(items):
    """Of each comparison with the reference the first configuration is quick, the others slow."""
    seen = set()
    for item in items:
        here = item.path.parent == Path(__file__).parent
        if here and hasattr(item, "callspec") and "reference" in item.originalname:
            name = (item.path, item.originalname)
            if name in seen:
                item.add_marker(pytest.mark.slow)
            seen.add(name)
