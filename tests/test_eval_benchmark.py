"""Metrics of frozen features: what they are by hand and elsewhere, their intervals and tables."""

import os

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from vicreg.common import plots, tsne
from vicreg.common.random_streams import torch_rng
from vicreg.data.sn7 import SN7Patches
from vicreg.eval import benchmark, clustering, feature_cache, splits
from vicreg.eval import benchmark_metrics as bm
from vicreg.eval.metrics import effective_rank, intervals
from vicreg.eval.tables import as_markdown, as_text, cells


@pytest.fixture
def problem():
    """Features (300, 6) of three classes that overlap, and their labels."""
    labels = torch.arange(300) % 3
    return torch.randn(300, 6, generator=torch_rng(0, "test")) + torch.eye(6)[labels], labels


def toy_split(train_labels, test_labels, location_ids=None):
    parts = [
        splits.EvalSubset(None, np.arange(len(labels)), np.asarray(labels), np.arange(len(labels)))
        for labels in (train_labels, test_labels)
    ]
    if location_ids is not None:
        parts[1] = parts[1]._replace(location_ids=np.asarray(location_ids))
    return splits.EvalSplit(*parts, [str(label) for label in range(max(train_labels) + 1)], "toy")


def test_every_k_gives_what_scikit_learn_gives_on_cosine_distance(problem):
    features, labels = problem
    found, right = bm.knn_metrics(
        toy_split(labels[:200].tolist(), labels[200:].tolist()), features[:200], features[200:], [1, 7, 200]
    )
    for k in (1, 7, 200):
        reference = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp(-distance / 0.07)
        ).fit(features[:200], labels[:200])
        expected = reference.predict(features[200:]) == labels[200:].numpy()
        np.testing.assert_array_equal(right[f"knn{k}_top1"], expected)
        assert found[f"knn{k}_top1"] == pytest.approx(expected.mean())
    assert found["knn1_top5"] == found["knn1_top1"] and found["knn200_top5"] == 1  # of three classes


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_images_that_all_look_alike_give_the_accuracy_of_one_class_and_no_nan(value):
    labels = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    train, test = torch.full((10, 4), value), torch.full((8, 4), value)
    split = toy_split(labels, [0] * 6 + [1] * 2)
    parts = [bm.linear_probe_metrics(split, train, test, [0.01, 0.1], epochs=20, batch_size=5)]
    parts += [bm.knn_metrics(split, train, test, [5]), bm.kmeans_metrics(split, test, 0)]
    parts.append((bm.geometry_metrics(split, train, test, 0), {}))
    metrics = {name: found for values, _ in parts for name, found in values.items()}
    assert metrics["top1"] == 0.75 and metrics["knn5_top1"] in (0.25, 0.75)
    assert not [name for name, found in metrics.items() if isinstance(found, float) and not np.isfinite(found)]


def test_clusters_are_named_so_that_most_samples_come_out_right():
    clusters = np.array([7, 7, 7, 2, 2, 2, 2, 5])
    labels = np.array([0, 0, 1, 1, 1, 1, 0, 2])
    matched = clustering.match_clusters(clusters, labels)
    assert matched.tolist() == [0, 0, 0, 1, 1, 1, 1, 2] and (matched == labels).mean() == 6 / 8
    # one class may name one cluster only: the second cluster of class 0 is taken for class 1, though it has none of it
    assert clustering.match_clusters(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 0, 0])).tolist() == [1, 1, 1, 0, 0]
    assert clustering.match_clusters(np.array([0, 0, 1]), np.array([4, 4, 4])).tolist() == [4, 4, -1]


def test_clusters_of_separate_directions_are_the_classes_whatever_the_lengths():
    angles = np.deg2rad([0, 3, -3, 90, 93, 87, 180, 183, 177])
    features = np.stack([np.cos(angles), np.sin(angles)], 1) * np.array([[1], [50], [3]] * 3)
    labels = np.array([2, 2, 2, 0, 0, 0, 1, 1, 1])
    found, right = bm.kmeans_metrics(toy_split(labels.tolist(), labels.tolist()), torch.tensor(features))
    assert found == {"kmeans_accuracy": 1.0, "kmeans_nmi": pytest.approx(1), "kmeans_ari": pytest.approx(1)}
    assert right["kmeans_accuracy"].all()
    with pytest.raises(ValueError, match="9 samples cannot make 10"):
        clustering.kmeans(features, 10)


def test_rank_looks_at_the_whole_matrix():
    features = torch.zeros(3000, 2)
    features[:2500, 0], features[2500:, 1] = 1, 5**0.5  # two equal singular values, the second in the last rows
    assert effective_rank(features) == pytest.approx(1, abs=1e-3)  # of the first 2,048
    found = bm.geometry_metrics(toy_split([0, 0], [0, 0], [0, 0]), features, torch.eye(2))
    assert found["effective_rank"] == pytest.approx(2, rel=1e-4)


def test_all_labels_as_a_share_give_the_linear_head_and_draws_give_mean_and_spread():
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (120,), generator=random)
    train = torch.randn(120, 4, generator=random) + torch.eye(4)[labels]
    split = toy_split(labels[:80].tolist(), labels[80:].tolist())
    given = (split, train[:80], train[80:])
    whole, _ = bm.linear_probe_metrics(*given, (0.1, 1), epochs=5, batch_size=16)
    found, right = bm.label_fraction_metrics(*given, [30, 100], 3, lrs=(0.1, 1), epochs=5, batch_size=16)
    assert found["label100_top1_seeds"][0] == whole["top1"] and right["label100_top1"].shape == (40,)
    for percent in (30, 100):
        draws = found[f"label{percent}_top1_seeds"]
        assert found[f"label{percent}_top1"] == pytest.approx(np.mean(draws))
        assert found[f"label{percent}_top1_std"] == pytest.approx(np.std(draws, ddof=1))
        assert right[f"label{percent}_top1"].mean() == pytest.approx(np.mean(draws))
    assert len(set(found["label30_top1_seeds"])) > 1


def test_no_place_to_hold_out_is_refused():
    with pytest.raises(ValueError, match="no class has two locations"):
        bm.linear_probe_metrics(toy_split([0, 1], [0, 1]), torch.eye(2), torch.eye(2))


def test_the_output_says_what_was_resampled():
    right = {"top1": np.array([True, True, False, False])}
    found = intervals(right, np.array([0, 0, 1, 1]))
    assert "2 whole locations" in found["intervals_of"] and found["intervals"]["top1"] == [0, 1]
    found = intervals(right, np.arange(4))
    assert "4 single samples" in found["intervals_of"]


def test_a_table_has_a_row_a_backbone_and_intervals_where_there_are_any():
    results = {
        "a": {"top1": 0.5, "knn3_top1": 0.25, "effective_rank": 3.14, "alignment": None,
              "intervals": {"top1": [0.4, 0.6]}},
        "b": {"top1": 1.0},
    }  # fmt: skip
    assert cells(results) == [
        ["backbone", "linear top-1", "kNN-3", "rank"], ["a", "0.500 [0.40 0.60]", "0.250", "3.1"],
        ["b", "1.000", "", ""],
    ]  # fmt: skip
    assert as_markdown(results).splitlines()[1:3] == ["|---|---|---|---|", "| a | 0.500 [0.40 0.60] | 0.250 | 3.1 |"]
    assert as_text(results).splitlines()[2] == "b         1.000"


def test_a_map_separates_what_is_separate(tmp_path):
    labels = np.arange(60) % 2
    features = np.random.default_rng(0).normal(size=(60, 5)) + 30 * np.eye(5)[labels]
    found = plots.save_embedding_map(tmp_path / "map.png", features, labels, ["a", "b"], "two")
    middles = np.stack([found[labels == label].mean(0) for label in (0, 1)])
    nearer = ((found[:, None] - middles) ** 2).sum(2).argmin(1)
    assert (nearer == labels).all() and (tmp_path / "map.png").stat().st_size > 5000


def test_figures_of_the_second_protocol_have_a_suffix(sn7_prepared, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(
        benchmark, "_save_figures", lambda *args: shown.append((args[2], args[4].classes, len(args[6])))
    )
    train, val = (SN7Patches(sn7_prepared / f"{part}.csv") for part in ("train", "val"))
    protocols = splits.train_val_split(train, val), splits.retrieval_split(sn7_prepared)
    cache = feature_cache.FeatureCache(tmp_path / "features", train, torch.device("cpu"), 8)
    config = benchmark.BenchmarkConfig(tmp_path, [1], [0.1], epochs=1, resamples=10)
    results = benchmark.compare(config, feature_cache.resolve_backbones(["pixels"]), protocols, cache)
    assert shown == [("", train.classes, len(val)), ("_protocol2", protocols[1].classes, len(protocols[1].test.labels))]
    assert results["pixels"]["val_samples"] == len(val) and "top1" in results["pixels"]
    assert results["pixels"]["protocol2"]["val_samples"] == shown[1][2] and "top1" not in results["pixels"]["protocol2"]


@pytest.mark.parametrize("library", ["openTSNE", "scikit-learn"])
def test_tsne_of_both_libraries_keeps_neighbors_and_repeats(library, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # more threads than 90 points need wait for each other
    if library == "openTSNE":
        pytest.importorskip("openTSNE")
    labels = np.arange(90) % 3
    features = np.random.default_rng(0).normal(size=(90, 60)) + 30 * np.eye(60)[labels]
    found = tsne.tsne(features, library=library)
    distances = ((found[:, None] - found) ** 2).sum(2) + np.diag(np.full(90, np.inf))
    assert found.shape == (90, 2) and (labels[distances.argmin(1)] == labels).all()
    np.testing.assert_allclose(tsne.tsne(features, library=library), found)


@pytest.mark.parametrize("library", ["openTSNE", "scikit-learn"])
def test_features_of_a_collapsed_network_are_one_point(library):
    """scikit-learn's t-SNE of equal points ends the process."""
    random = np.random.default_rng(0)
    for features in (np.zeros((4, 3)), np.full((10, 5), 0.37), 1 + 1e-8 * random.normal(size=(60, 60))):
        found = tsne.tsne(features.astype(np.float32), library=library)
        assert found.shape == (len(features), 2) and not found.any()


def test_large_maps_are_made_by_opentsne_and_small_ones_by_scikit_learn(monkeypatch):
    opentsne, sizes = pytest.importorskip("openTSNE"), []
    monkeypatch.setattr(tsne, "_LARGE_MAP", 20)
    monkeypatch.setattr(opentsne.TSNE, "fit", lambda self, x: sizes.append(len(x)) or x[:, :2])
    features = np.random.default_rng(0).normal(size=(21, 5))
    tsne.tsne(features[:20]), tsne.tsne(features)
    assert sizes == [21]


def test_linear_probe_metrics_select_on_held_out_samples_even_if_another_lr_is_better_on_the_test_set():
    train_labels = [0, 0, 1, 1] * 5
    train = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]] * 5)
    test = -train[:4]  # test samples contradict the training samples: the less is learned, the better
    split = toy_split(train_labels, [0, 0, 1, 1])
    result, correct = bm.linear_probe_metrics(split, train, test, (1e-9, 0.5), epochs=3, batch_size=4)
    assert result["lr_head"] == 0.5 and result["top1"] == 0 and not correct["top1"].any()
    assert result["lr_sweep"]["0.5"] == {"held_out_top1": 1.0, "top1": 0.0}
    assert result["held_out_samples"] == 2


@pytest.mark.parametrize(
    ("wrong", "flag"),
    [
        ({"knn": [5, 0]}, "--knn"), ({"knn": [-3]}, "--knn"), ({"lr": [float("nan")]}, "--lr"),
        ({"epochs": 0}, "--epochs"),
        ({"train_percent": [0]}, "--train-percent"), ({"weight_decay": float("nan")}, "--weight-decay"),
        ({"seeds": 0}, "--seeds"), ({"resamples": -1}, "--resamples"),
    ],
)  # fmt: skip
def test_benchmark_config_refuses_a_number_that_is_none(tmp_path, wrong, flag):
    with pytest.raises(ValueError, match=flag):
        benchmark.BenchmarkConfig(tmp_path, **wrong)
