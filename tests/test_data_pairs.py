"""Temporal pairs: another image of the location within a number of months, else the nearest in time."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from vicreg.data.pairs import TemporalPairs, build_pairs, month_number
from vicreg.data.sn7 import SN7Patches

SEEDS = np.random.default_rng(0).integers(2**63 - 1, size=600).tolist()


def positives_of(pairs, index):
    return Counter(pairs.positive_index(index, sample_seed) for sample_seed in SEEDS)


def test_month_number_counts_across_years():
    assert month_number(2018, 1) - month_number(2017, 12) == 1
    assert month_number(2019, 3) - month_number(2018, 3) == 12


def test_temporal_pairs_without_limit_choose_uniformly():
    pairs = TemporalPairs(["a", "b", "a", "a", "b", "c"])
    assert positives_of(pairs, 0).keys() == {2, 3} and positives_of(pairs, 3).keys() == {0, 2}
    assert min(positives_of(pairs, 2).values()) > 240  # 300 each expected, standard deviation 12
    assert positives_of(pairs, 1).keys() == {4} and positives_of(pairs, 5).keys() == {5}


def test_temporal_pairs_stay_within_the_limit_on_both_sides():
    months = [7, 0, 3, 4, 11]  # not in the order of time
    pairs = TemporalPairs(["a"] * 5, months, 4)
    assert [set(positives_of(pairs, index)) for index in range(5)] == [{2, 3, 4}, {2, 3}, {0, 1, 3}, {0, 1, 2}, {0}]
    assert min(positives_of(pairs, 2).values()) > 140  # 200 each expected, standard deviation 12


def test_temporal_pairs_fall_back_to_the_nearest_in_time():
    pairs = TemporalPairs([1] * 4, [0, 10, 30, 50], 2)
    assert [set(positives_of(pairs, index)) for index in range(4)] == [
        {1},
        {0},
        {1, 3},
        {2},
    ]  # 1 and 3 are as near to 2


def test_temporal_pairs_of_zero_months_are_of_the_same_month():
    pairs = TemporalPairs([0] * 4, [5, 5, 5, 9], 0)
    assert [set(positives_of(pairs, index)) for index in range(4)] == [{1, 2}, {0, 2}, {0, 1}, {0, 1, 2}]


def test_temporal_pairs_with_a_large_limit_equal_those_without():
    random = np.random.default_rng(1)
    location_ids, months = random.integers(0, 12, 80), random.integers(0, 5, 80)
    limited, free = TemporalPairs(location_ids, months, 10**9), TemporalPairs(location_ids)
    assert all(set(positives_of(limited, index)) == set(positives_of(free, index)) for index in range(80))


@pytest.mark.parametrize("max_months", [0, 1, 3, 40])
def test_temporal_pairs_equal_an_exhaustive_search(max_months):
    random = np.random.default_rng(max_months)
    location_ids, months = random.integers(0, 15, 90), random.integers(24000, 24036, 90)
    pairs = TemporalPairs(location_ids, months, max_months)
    for index in range(90):
        others = np.flatnonzero(location_ids == location_ids[index])
        others = others[others != index]
        if not len(others):
            assert positives_of(pairs, index).keys() == {index}
            continue
        apart = abs(months[others] - months[index])
        assert set(positives_of(pairs, index)) == set(others[apart <= max(max_months, apart.min())])


def test_pairs_refuse_invalid_options():
    with pytest.raises(ValueError, match="--positives temporal"):
        build_pairs("same", [0, 0], [1, 2], 3)
    with pytest.raises(ValueError, match="--max-months-apart -1"):
        TemporalPairs([0, 0], [1, 2], -1)
    with pytest.raises(ValueError, match="month of every image"):
        TemporalPairs([0, 0], None, 1)
    assert build_pairs("same", [0, 0]) is None


def test_sn7_temporal_pairs_stay_within_the_limit(sn7_prepared):
    dataset = SN7Patches(sn7_prepared / "train.csv", "temporal", max_months_apart=1)
    table = dataset.table
    for index in range(0, len(dataset), 7):
        row, found = (
            table.iloc[index],
            table.iloc[sorted({dataset.positive_index(index, sample_seed) for sample_seed in SEEDS[:50]})],
        )
        assert set(found.aoi) == {row.aoi} and set(found.patch) == {row.patch}
        assert set(found.month) == set(table.month[table.aoi == row.aoi]) & {row.month - 1, row.month + 1}


def test_sn7_temporal_pairs_count_months_across_years(sn7_prepared, tmp_path):
    table = pd.read_csv(sn7_prepared / "all.csv")
    table = table[table.aoi == table.aoi[0]]
    table["year"] = 2017 + table.month.to_numpy()  # one mosaic a year
    table["month"] = 6
    table.to_csv(tmp_path / "years.csv", index=False)
    for name in ("patches.npy", "meta.json"):
        (tmp_path / name).symlink_to(sn7_prepared / name)
    dataset = SN7Patches(tmp_path / "years.csv", "temporal", max_months_apart=12)
    first = dataset.table.index[dataset.table.year == 2018][0]
    found = {dataset.positive_index(first, sample_seed) for sample_seed in SEEDS}
    assert set(dataset.table.year.iloc[sorted(found)]) == {2019}
