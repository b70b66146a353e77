import json

import numpy as np
import pytest
from PIL import Image

from tests.experiments.conftest import result, run


@pytest.mark.slow
def test_augmentations_are_compared_and_what_is_done_is_not_done_again(tmp_path):
    random = np.random.default_rng(0)
    table = np.concatenate([random.integers(0, 17, (700, 64)), np.arange(700)[:, None] % 10], 1)
    np.savetxt(tmp_path / "digits.csv", table, fmt="%d", delimiter=",")

    def compared(*names):
        return run(
            "compare_augmentations", "--config=configs/vit_digits.py:tiny", "--seeds=1",
            f"--config.data.path={tmp_path / 'digits.csv'}", f"--workdir={tmp_path / 'work'}",
            f"--only={','.join(names)}",
        )  # fmt: skip

    alone = result(compared("none"))["accuracy"]
    both = result(compared("none", "cutmix"))
    assert both["runs"] == 2
    assert both["accuracy"]["none"] == alone["none"]
    lines = (tmp_path / "work" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["none", "cutmix"]
    assert (tmp_path / "work" / "table.md").read_text().count("\n") == 4


@pytest.mark.slow
def test_the_grid_of_operations_is_drawn(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    done = run(
        "draw_augmentations", f"--image={tmp_path / 'a.png'}", f"--other={tmp_path / 'a.png'}",
        f"--output={tmp_path / 'grid.png'}", "--side=16",
    )  # fmt: skip
    assert len(result(done)["operations"]) == 21
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width > 600
