"""Pairs and images: from the user's files to batches."""

import ast
import gzip
import hashlib
import json
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data import DataConfig, batches, eval_batches, load_tokenizer, open_split, prepare
from llm_jax.data import pairs as pairs_module
from llm_jax.data.augment import Augmentation
from llm_jax.data.objectives import Classification, MaskedLM, MaskedPatches, Pairs

OBJECTIVE = Pairs(target_length=6)  # which some of the targets are longer than


def english_and_german(count=400):
    numbers = [f"number {n // 20} and {n % 20} of {n}" for n in range(count)]
    return [(text, text.replace("number", "Zahl").replace("and", "und")) for text in numbers]


@pytest.fixture(scope="module", params=["tsv", "jsonl"])
def bitext(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / f"bitext.{request.param}"
    if request.param == "tsv":
        lines = ["\t".join(pair) for pair in english_and_german()]
    else:
        lines = [json.dumps({"source": a, "target": b}) for a, b in english_and_german()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = DataConfig(source="pairs", path=str(path), sequence_length=24)
    directory = path.parent / "data"
    manifest = prepare(config, vocab_size=330, directory=directory, objective=OBJECTIVE)
    return directory, manifest


def test_pairs_come_back_as_they_were(bitext):
    directory, manifest = bitext
    tokenizer = load_tokenizer(directory)
    found = {}
    for split in ("train", "validation"):
        rows = open_split(directory, split, OBJECTIVE)
        assert len(rows) == manifest.documents[split] > 0
        batch = rows.take(np.arange(len(rows)))
        assert batch["weights"].sum() == rows.tokens == manifest.tokens[split]
        found[split] = {
            tokenizer.decode(source[mask > 0]): target[weight > 0]
            for source, mask, target, weight in zip(
                batch["source"], batch["source_mask"], batch["targets"], batch["weights"]
            )
        }
    assert not found["train"].keys() & found["validation"].keys()
    assert found["train"].keys() | found["validation"].keys() == dict(english_and_german()).keys()
    for source, target in english_and_german():
        tokens = (found["train"] | found["validation"])[source]
        assert tokens[-1] == tokenizer.eos_id
        want = [*tokenizer.encode(target)[: OBJECTIVE.target_length - 1], tokenizer.eos_id]
        assert tokens.tolist() == want
    longest = max(len(tokenizer.encode(target)) for _, target in english_and_german())
    assert longest >= OBJECTIVE.target_length


def test_a_pair_that_is_none_has_no_weight_and_something_to_see(bitext):
    rows = open_split(bitext[0], "train", OBJECTIVE)
    batch = rows.take([0, -1])
    assert batch["weights"][0].any()
    assert not batch["weights"][1].any()
    assert batch["source_mask"][1].tolist() == [1] + [0] * 23
    assert not batch["source"][1, 1:].any()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "one\ttwo\nthree\n", "a.tsv line 2 is no pair: give a source, a tab"),
        ("a.jsonl", '{"source": "a"}\n', 'line 1 is no pair: give an object.*"target"'),
        ("a.jsonl", "[1, 2\n", "line 1 is no pair"),
        ("a.jsonl", '{"source": "a", "target": 7}\n', "line 1 is no pair"),
        ("a.tsv", "one\ttwo\tthree\n", "line 1 is no pair"),
        ("a.tsv", "one\t \n", "line 1 is no pair"),
        ("a.tsv", "one\ttwo\n", "has no pair for"),
    ],
)
def test_files_without_pairs_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        pairs_module.open_pairs(DataConfig(source="pairs", path=str(tmp_path / name)))


def test_a_function_loses_its_name_wherever_it_stands(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "class A:\n    def count_up(self, n):\n        return self.count_up(n - 1) or count_ups\n"
        "    def __len__(self): return 0\n\n@cached\nasync def load(): pass\n"
    )
    assert list(pairs_module._functions(path)) == [
        ("async def _(): pass\n", "load"),
        ("def _(self, n):\n    return self._(n - 1) or count_ups\n", "count_up"),
    ]


def test_other_targets_are_other_content(tmp_path):
    digests = set()
    for word in ("und", "and", "und"):
        lines = [f"{source}\t{source} {word}" for source, _ in english_and_german()]
        (tmp_path / "pairs.tsv").write_text("\n".join(lines))
        config = DataConfig(source="pairs", path=str(tmp_path / "pairs.tsv"))
        digests.add(pairs_module.open_pairs(config).content_sha256)
    assert len(digests) == 2


@pytest.mark.slow
def test_functions_of_the_library_are_held_out_by_module():
    source = pairs_module.open_pairs(DataConfig(source="functions"))
    train, held_out = ({d.name for d in source.documents(s)} for s in ("train", "validation"))
    assert not train & held_out
    assert len(held_out) < len(train) / 8
    library = Path(sysconfig.get_paths()["stdlib"])
    document = next(source.documents("train"))
    names = {
        node.name
        for node in ast.walk(ast.parse((library / document.name).read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert document.target in names


def numbered(count=200, side=6):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (count, side, side), dtype=np.uint8)
    return images, np.arange(count) % 7


def write(path, images, labels):
    if path.suffix == ".npz":
        np.savez(path, images=images, labels=labels)
        return
    lines = [",".join(map(str, [*image.ravel(), label])) for image, label in zip(images, labels)]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


@pytest.fixture(scope="module", params=["images.npz", "images.csv.gz"])
def pictures(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / request.param
    write(path, *numbered())
    config = DataConfig(source="images", path=str(path))
    directory = path.parent / "data"
    prepare(config, vocab_size=0, directory=directory, objective=Classification())
    prepare(config, vocab_size=0, directory=directory, objective=MaskedPatches())  # used again
    return directory


def test_images_come_back_normalized_in_two_splits(pictures):
    images, labels = numbered()
    by_bytes = {image.tobytes(): label for image, label in zip(images, labels)}
    splits = ("train", "validation")
    rows = {split: open_split(pictures, split, Classification()) for split in splits}
    assert (len(rows["train"]), len(rows["validation"])) == (160, 40)
    train = rows["train"].take(np.arange(160))["pixels"]
    assert train.dtype == np.float32
    np.testing.assert_allclose([train.mean(), train.std()], [0, 1], atol=1e-5)
    scale, seen = rows["train"].manifest.images, 0
    for split in rows.values():
        batch = split.take(np.arange(len(split)))
        pixels = np.rint(batch["pixels"] * scale["deviation"] + scale["mean"]).astype(np.uint8)
        for image, label in zip(pixels, batch["labels"]):
            assert by_bytes[image.tobytes()] == label
            seen += 1
    assert seen == 200


def test_the_split_follows_from_the_images_not_from_their_order(tmp_path):
    images, labels = numbered()
    held_out = []
    for order in (np.arange(200), np.random.default_rng(1).permutation(200)):
        path = tmp_path / f"{len(held_out)}.npz"
        write(path, images[order], labels[order])
        directory = tmp_path / f"data{len(held_out)}"
        config = DataConfig(source="images", path=str(path))
        prepare(config, vocab_size=0, directory=directory, objective=Classification())
        rows = open_split(directory, "validation", Classification())
        held_out.append({image.tobytes() for image in rows.take(np.arange(40))["pixels"]})
    assert held_out[0] == held_out[1]


def test_equal_images_are_in_one_split(tmp_path):
    images, labels = numbered(30)
    config = DataConfig(source="images", path=str(tmp_path / "images.npz"))

    def splits(images, labels):
        write(tmp_path / "images.npz", images, labels)
        directory = tmp_path / f"data{images[:, 0, 0].sum()}"
        prepare(config, vocab_size=0, directory=directory, objective=Classification())
        rows = [open_split(directory, name, Classification()) for name in ("train", "validation")]
        return [{i.tobytes() for i in r.take(np.arange(len(r)))["pixels"]} for r in rows]

    train, held_out = splits(np.repeat(images, 8, axis=0), np.repeat(labels, 8))
    assert not train & held_out
    assert (len(train), len(held_out)) == (24, 6)
    train, held_out = splits(np.repeat(images, 7, axis=0)[:-5], np.repeat(labels, 7)[:-5])
    assert not train & held_out
    assert len(train | held_out) == 30
    with pytest.raises(ConfigError, match="one image is 200 of 200"):
        splits(np.repeat(images[:1], 200, axis=0), np.zeros(200, int))


def test_colours_come_first_and_one_shade_is_no_division_by_zero(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 6, 3), dtype=np.uint8)
    # Shades by where they are split: the train split has one alone.
    flat = [np.full((4, 6, 3), shade, np.uint8) for shade in range(256)]
    flat.sort(key=lambda image: hashlib.sha256(image.tobytes()).digest())
    for name, given in (("colours", images), ("one shade", np.array(flat[:4] + flat[-1:] * 16))):
        path = tmp_path / f"{name}.npz"
        np.savez(path, images=given, labels=np.arange(20))
        directory = tmp_path / f"data of {name}"
        config = DataConfig(source="images", path=str(path))
        manifest = prepare(config, vocab_size=0, directory=directory, objective=Classification())
        assert tuple(manifest.images["shape"]) == (3, 4, 6)
        assert manifest.images["classes"] == 20
        batch = open_split(directory, "train", Classification()).take(np.arange(16))
        pixels = batch["pixels"] * (manifest.images["deviation"] or 1) + manifest.images["mean"]
        want = given[batch["labels"]].transpose(0, 3, 1, 2)
        np.testing.assert_allclose(pixels, want, atol=1e-3)


def test_train_images_alone_are_augmented(pictures):
    objective = Classification(augmentation=Augmentation(flip=True))
    plain = Classification()
    randoms = [np.random.default_rng(i) for i in range(40)]
    for split, changes in {"train": True, "validation": False}.items():
        changed, whole = (
            open_split(pictures, split, o).take(np.arange(40), randoms) for o in (objective, plain)
        )
        same = (changed["pixels"] == whole["pixels"]).all(axis=(1, 2, 3))
        assert same.all() != changes
        flipped = (changed["pixels"] == whole["pixels"][..., ::-1]).all(axis=(1, 2, 3))
        assert (same | flipped).all()


def test_an_image_that_is_none_has_no_weight(pictures):
    rows = open_split(pictures, "validation", MaskedPatches(patch_size=2))
    batch = list(eval_batches(rows, batch_size=32))[1]
    assert batch["weights"].tolist() == [1] * 8 + [0] * 24
    assert batch["masked"].shape == (32, 9)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((9, 4, 4), np.float32), np.zeros(9, int), "float32 .*not uint8"),
        (np.zeros((9, 4, 4), np.uint8), np.zeros(8, int), "labels are int64 .* for 9 images"),
        (np.zeros((4, 4, 4), np.uint8), np.zeros(4, int), "has 4 images: give 5"),
        (np.zeros((9, 4, 4), np.uint8), np.full(9, -1), "has the label -1"),
    ],
)
def test_files_without_images_are_refused(tmp_path, images, labels, message):
    path = tmp_path / "bad.npz"
    np.savez(path, images=images, labels=labels)
    with pytest.raises(ConfigError, match=message):
        prepare(
            DataConfig(source="images", path=str(path)), vocab_size=0, directory=tmp_path / "data"
        )


def test_pickled_images_and_tables_that_are_no_squares_are_refused(tmp_path):
    np.savez(tmp_path / "bad.npz", images=np.array([{}] * 9, object), labels=np.zeros(9, int))
    (tmp_path / "bad.csv").write_text("1,2,3\n4,5,6\n")
    (tmp_path / "high.csv").write_text("1,256,3,4,0\n" * 6)
    for name in ("bad.npz", "bad.csv", "high.csv", "none.csv"):
        with pytest.raises(ConfigError, match=name):
            prepare(
                DataConfig(source="images", path=str(tmp_path / name)),
                vocab_size=0,
                directory=tmp_path / "data",
            )


def test_a_batch_of_masks_is_a_function_of_seed_and_step(prepared_for_masks):
    rows = open_split(prepared_for_masks, "train", MaskedLM())

    def some(start, count, process=0, processes=1, seed=3):
        iterator = batches(
            rows, seed=seed, batch_size=4, start_step=start, threads=0,
            process_index=process, process_count=processes,
        )  # fmt: skip
        return [next(iterator) for _ in range(count)]

    whole, later = some(0, 8), some(5, 3)
    for step in range(3):
        for name, value in whole[5 + step].items():
            np.testing.assert_array_equal(value, later[step][name])
    halves = [some(0, 8, process, 2) for process in range(2)]
    for step in range(8):
        for name, value in whole[step].items():
            joined = np.concatenate([half[step][name] for half in halves])
            np.testing.assert_array_equal(value, joined)
    assert (some(0, 1, seed=4)[0]["tokens"] != whole[0]["tokens"]).any()
    # The same row is masked anew when it comes again.
    epoch = len(rows) // 4
    many = some(0, 3 * epoch + 3)
    by_text = {}
    for batch in many:
        for tokens, picked, targets, weights in zip(
            *(batch[name] for name in ("tokens", "picked", "targets", "weights"))
        ):
            text, real = tokens.copy(), weights > 0
            text[picked[real]] = targets[real]
            by_text.setdefault(text.tobytes(), []).append(picked[real].tobytes())
    assert len(by_text) == len(rows)
    assert any(len(set(masks)) > 1 for masks in by_text.values())
    first, second = (list(eval_batches(rows, batch_size=4)) for _ in range(2))
    np.testing.assert_array_equal(first[0]["tokens"], second[0]["tokens"])


@pytest.fixture(scope="module")
def prepared_for_masks(config, tmp_path_factory):
    directory = tmp_path_factory.mktemp("masks") / "data"
    prepare(config, vocab_size=400, directory=directory, objective=MaskedLM())
    return directory
