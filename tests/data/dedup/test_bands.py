import numpy as np
import pytest

from llm_jax.data.dedup import bands


@pytest.mark.parametrize("count", [(21, 6), (4, 3), (1, 1), (2, 40)])
@pytest.mark.parametrize("similarity", [0.3, 0.6, 0.8])
def test_curve_against_a_simulation(count, similarity):
    pairs = 4000
    random = np.random.default_rng(0)
    shape = (pairs, count[0] * count[1] + 3)
    one = random.integers(0, 2**32, shape, np.uint32)
    other = np.where(random.random(shape) < similarity, one, one + np.uint32(1))
    met = (bands.band_keys(one, *count) == bands.band_keys(other, *count)).any(axis=0)
    want = bands.s_curve(similarity, *count)
    assert abs(met.mean() - want) <= 3 * np.sqrt(want * (1 - want) / pairs) + 1e-9


def test_keys_depend_on_every_row_and_its_place():
    base = np.arange(12, dtype=np.uint32)[None]
    keys = bands.band_keys(base, 4, 3)
    assert keys.shape == (4, 1)
    for column in range(12):
        changed = base.copy()
        changed[0, column] += 100
        differs = bands.band_keys(changed, 4, 3) != keys
        assert np.flatnonzero(differs[:, 0]).tolist() == [column // 3]
    assert (bands.band_keys(base[:, ::-1], 1, 12) != bands.band_keys(base, 1, 12)).all()


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("places", [64, 128, 256])
def test_chosen_bands_find_pairs_and_no_banding_with_more_rows_does(threshold, places):
    count, rows = bands.choose_bands(threshold, places)
    assert count * rows <= places
    assert bands.s_curve(threshold, count, rows) >= bands.RECALL
    for more in range(rows + 1, places + 1):
        assert bands.s_curve(threshold, places // more, more) < bands.RECALL


@pytest.mark.parametrize("memory_bytes", [500, 4000, 1 << 30])
@pytest.mark.parametrize("block", [7, 1 << 16])
def test_runs_equal_the_definition(memory_bytes, block, tmp_path, monkeypatch):
    monkeypatch.setattr(bands, "_BLOCK", block)
    random = np.random.default_rng(0)
    keys = bands.mix(random.integers(0, 60, 200).astype(np.uint64))
    candidates = random.random(200) < 0.8
    keys.tofile(tmp_path / "keys")
    want = {}
    for document in np.flatnonzero(candidates).tolist():
        want.setdefault(keys[document], []).append(document)
    got = []
    for documents, runs in bands.equal_runs(tmp_path / "keys", candidates, memory_bytes):
        assert (np.diff(runs) >= 0).all()
        got += [documents[runs == run].tolist() for run in np.unique(runs)]
    assert sorted(got) == sorted(run for run in want.values() if len(run) > 1)
