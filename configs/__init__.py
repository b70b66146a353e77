"""Configurations: each file offers `get_config(variant="")`, for `--config=configs/FILE.py`."""
