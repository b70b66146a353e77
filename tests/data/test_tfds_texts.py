import subprocess
import sys

import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants

from llm_jax.configuration import ConfigError
from llm_jax.data import DataConfig, load_manifest, prepare
from llm_jax.data.sources import SPLITS
from llm_jax.data.tfds_texts import open_tfds

TEXTS = [f"review {n}: it was {n % 5} of 5\nand {n * n} words" for n in range(90)] + [" "]


class Reviews(tfds.core.GeneratorBasedBuilder):
    """A dataset of the tests."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = {}

    def _info(self):
        features = {"body": tfds.features.Text(), "title": tfds.features.Text()}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self):
        for key, text in enumerate(TEXTS):
            yield key, {"body": text, "title": f"title {key}"}


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Where TFDS looks for datasets, with one in it."""
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / "tfds"))
    tfds.disable_progress_bar()
    Reviews(data_dir=tmp_path / "tfds", file_format="array_record").download_and_prepare()
    return tmp_path / "tfds"


def test_texts_of_a_dataset_by_name(kept, tmp_path):
    source = open_tfds(DataConfig("tfds", "reviews", text="body"))
    found = {split: [one.text for one in source.documents(split)] for split in SPLITS}
    assert sorted(found["train"] + found["validation"]) == sorted(TEXTS[:-1])
    assert found["train"] == [text for text in TEXTS if text in found["train"]]
    titles = open_tfds(DataConfig("tfds", "reviews:1.0.0", text="title"))
    assert next(titles.documents("train")).text.startswith("title ")
    assert titles.content_sha256 != source.content_sha256
    config = DataConfig("tfds", "reviews", text="body", sequence_length=32)
    prepare(config, vocab_size=320, directory=tmp_path / "data")
    assert sum(load_manifest(tmp_path / "data").documents.values()) == 90


def test_what_is_not_there_is_told_with_the_command(kept):
    with pytest.raises(ConfigError, match="run `tfds build imdb_reviews --file_format=array_rec"):
        open_tfds(DataConfig("tfds", "imdb_reviews"))
    with pytest.raises(ConfigError, match=r"'reviews:9.9.9', which is no TFDS dataset in"):
        open_tfds(DataConfig("tfds", "reviews:9.9.9", text="body"))
    with pytest.raises(ConfigError, match="has the texts body, title: .*did you mean 'body'"):
        open_tfds(DataConfig("tfds", "reviews", text="boddy"))


def test_files_without_random_access_are_refused(kept):
    info = kept / "reviews" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(ConfigError, match="kept in tfrecord files"):
        open_tfds(DataConfig("tfds", "reviews", text="body"))


def test_tensorflow_is_not_needed(kept):
    script = (
        "import sys; from tensorflow_datasets.core import constants;"
        f"constants.DATA_DIR = {str(kept)!r};"
        "from llm_jax.data import DataConfig; from llm_jax.data.tfds_texts import open_tfds;"
        "open_tfds(DataConfig('tfds', 'reviews', text='body'));"
        "sys.exit('tensorflow' if 'tensorflow' in sys.modules else None)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
