"""Figures of frozen features are what they are by hand and elsewhere; kept features are used only where they fit."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from vicreg.augmentations.batch import step_generator
from vicreg.common import plots
from vicreg.data.base import BaseDataset
from vicreg.engine import checkpoint
from vicreg.eval import benchmark, clustering, feature_cache, lr_sweep, metrics, splits
from vicreg.eval.knn import nearest_neighbors
from vicreg.eval.metrics import effective_rank
from vicreg.eval.tables import as_markdown, as_text, cells
from vicreg.models.backbones import create_backbone, load_backbone


class Toy(BaseDataset):
    """Eight noisy 8-pixel images of two colors, four places of two months."""

    def __init__(self, seed=0):
        self.labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
        self.location_ids = np.array([0, 0, 1, 1, 2, 2, 3, 3])
        self.classes, self.mean, self.std, self.patch_size = ["dark", "bright"], [0.5] * 3, [0.2] * 3, 8
        noise = torch.randint(0, 60, (8, 3, 8, 8), generator=step_generator(seed))
        self.pixels = (noise + 150 * self.labels[:, None, None, None]).to(torch.uint8)

    def __len__(self):
        return 8

    def images(self, indices):
        return self.pixels[list(indices)]


@pytest.fixture
def problem():
    """Features (300, 6) of three classes that overlap, and their labels."""
    labels = torch.arange(300) % 3
    return torch.randn(300, 6, generator=step_generator(0)) + torch.eye(6)[labels], labels


def toy_protocol(train_labels, test_labels, location_ids=None):
    parts = [
        splits.EvalSubset(None, np.arange(len(labels)), np.asarray(labels), np.arange(len(labels)))
        for labels in (train_labels, test_labels)
    ]
    if location_ids is not None:
        parts[1] = parts[1]._replace(location_ids=np.asarray(location_ids))
    return splits.EvalSplit(*parts, [str(label) for label in range(max(train_labels) + 1)], "toy")


def test_every_k_gives_what_scikit_learn_gives_on_cosine_distance(problem):
    features, labels = problem
    found, right = benchmark.of_neighbors(
        toy_protocol(labels[:200].tolist(), labels[200:].tolist()), features[:200], features[200:], [1, 7, 200]
    )
    for k in (1, 7, 200):
        reference = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp(-distance / 0.07)
        ).fit(features[:200], labels[:200])
        expected = reference.predict(features[200:]) == labels[200:].numpy()
        np.testing.assert_array_equal(right[f"knn{k}_top1"], expected)
        assert found[f"knn{k}_top1"] == pytest.approx(expected.mean())
        assert found[f"knn{k}_top5"] == 1  # of three classes


def test_the_nearest_come_first_with_their_cosines():
    train, query = torch.tensor([[0.0, 2.0], [3.0, 0.0], [1.0, 1.0]]), torch.tensor([[5.0, 0.0]])
    cosine, found = nearest_neighbors(train, query, 9)
    assert found.tolist() == [[1, 2, 0]]
    torch.testing.assert_close(cosine, torch.tensor([[1.0, 0.5**0.5, 0.0]]))


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
    found, right = benchmark.of_clusters(toy_protocol(labels.tolist(), labels.tolist()), torch.tensor(features))
    assert found == {"kmeans_accuracy": 1.0, "kmeans_nmi": pytest.approx(1), "kmeans_ari": pytest.approx(1)}
    assert right["kmeans_accuracy"].all()
    with pytest.raises(ValueError, match="9 samples cannot make 10"):
        clustering.kmeans(features, 10)


def test_rank_looks_at_the_whole_matrix():
    features = torch.zeros(3000, 2)
    features[:2500, 0], features[2500:, 1] = 1, 5**0.5  # two equal singular values, the second in the last rows
    assert effective_rank(features) == pytest.approx(1, abs=1e-3)  # of the first 2,048
    found = benchmark.of_geometry(toy_protocol([0, 0], [0, 0], [0, 0]), features, torch.eye(2))
    assert found["effective_rank"] == pytest.approx(2, rel=1e-4)


def test_alignment_and_uniformity_by_hand():
    unit = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, -1.0]])
    assert metrics.alignment(unit, np.array([[0, 1], [0, 2]])) == pytest.approx((2 + 4) / 2)
    # six pairs: four at right angles (squared distance 2), two opposite (4)
    expected = np.log((4 * np.exp(-4) + 2 * np.exp(-8)) / 6)
    assert metrics.uniformity(unit, chunk=3) == pytest.approx(expected, rel=1e-5)
    assert metrics.uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-6)


def test_positives_are_of_one_place_and_loners_have_none():
    location_ids = np.array([0, 1, 0, 2, 0, 1])
    pairs = metrics.positive_pairs(location_ids)
    assert pairs[:, 0].tolist() == [0, 1, 2, 4, 5] and (location_ids[pairs[:, 0]] == location_ids[pairs[:, 1]]).all()
    assert len(metrics.positive_pairs(np.arange(4))) == 0


def test_thirteen_rates_in_one_pass_are_thirteen_separate_runs(problem):
    features, labels = problem[0].double(), problem[1]  # large rates amplify the rounding of single precision
    assert len(lr_sweep.RATES) == 13 and lr_sweep.RATES[0] == 0.001 and lr_sweep.RATES[-1] == 1000
    weight, bias = lr_sweep.lr_sweep(features, labels, 3, epochs=4, batch_size=64)
    for head, rate in enumerate(lr_sweep.RATES):
        alone, its_bias = lr_sweep.lr_sweep(features, labels, 3, (rate,), epochs=4, batch_size=64)
        torch.testing.assert_close(weight[head], alone[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(bias[head], its_bias[0], rtol=1e-9, atol=1e-9)


def test_a_head_is_trained_as_torch_trains_a_linear_layer(problem):
    features, labels = problem
    weight, bias = lr_sweep.lr_sweep(
        features, labels, 3, (0.01, 0.3), epochs=3, batch_size=128, weight_decay=1e-2, seed=5
    )
    random = torch.Generator().manual_seed(5)
    layer = torch.nn.Linear(6, 3)
    with torch.no_grad():
        layer.weight.copy_(0.01 * torch.randn(3, 6, generator=random))
        layer.bias.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.3, momentum=0.9, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    for _ in range(3):
        for batch in torch.randperm(300, generator=random)[:256].split(128):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(features[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()
    torch.testing.assert_close(weight[1], layer.weight.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(bias[1], layer.bias.detach(), rtol=1e-5, atol=1e-6)


def test_a_rate_that_diverges_does_not_touch_the_others(problem):
    features, labels = problem
    weight, bias = lr_sweep.lr_sweep(features, labels, 3, (0.1, 1e38), epochs=2)
    alone, _ = lr_sweep.lr_sweep(features, labels, 3, (0.1,), epochs=2)
    assert not weight[1].isfinite().all()
    torch.testing.assert_close(weight[0], alone[0], rtol=1e-5, atol=1e-6)
    ranked = lr_sweep.rank_classes(weight, bias, features)
    assert ranked.shape == (2, 300, 3) and (ranked[1] == torch.tensor([0, 1, 2])).all()


def test_the_rate_is_chosen_on_held_out_samples_even_where_another_judges_better(monkeypatch):
    train_labels, test_labels = [0, 0, 1, 1] * 5, [0, 1]
    train = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]] * 5)
    test = -train[[0, 2]]  # judged samples contradict the training samples
    heads = torch.tensor([[[1.0], [-1.0]], [[-1.0], [1.0]]]), torch.zeros(2, 2)
    monkeypatch.setattr(lr_sweep, "lr_sweep", lambda *given, **more: heads)
    found, _ = benchmark.of_linear_heads(toy_protocol(train_labels, test_labels), train, test, (0.1, 0.2))
    assert found["lr_head"] == 0.1 and found["top1"] == 0
    assert found["rates"] == {"0.1": {"held_out_top1": 1.0, "top1": 0.0}, "0.2": {"held_out_top1": 0.0, "top1": 1.0}}


def test_all_labels_as_a_share_give_the_linear_head_and_draws_give_mean_and_spread():
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (120,), generator=random)
    train = torch.randn(120, 4, generator=random) + torch.eye(4)[labels]
    protocol = toy_protocol(labels[:80].tolist(), labels[80:].tolist())
    given = (protocol, train[:80], train[80:])
    whole, _ = benchmark.of_linear_heads(*given, (0.1, 1), 5, 16)
    found, right = benchmark.of_few_labels(*given, [30, 100], 3, (0.1, 1), 5, 16)
    assert found["label100_top1_seeds"][0] == whole["top1"] and right["label100_top1"].shape == (40,)
    for percent in (30, 100):
        draws = found[f"label{percent}_top1_seeds"]
        assert found[f"label{percent}_top1"] == pytest.approx(np.mean(draws))
        assert found[f"label{percent}_top1_std"] == pytest.approx(np.std(draws, ddof=1))
        assert right[f"label{percent}_top1"].mean() == pytest.approx(np.mean(draws))
    assert len(set(found["label30_top1_seeds"])) > 1


def test_no_place_to_hold_out_is_refused():
    with pytest.raises(ValueError, match="no class has two"):
        benchmark.of_linear_heads(toy_protocol([0, 1], [0, 1]), torch.eye(2), torch.eye(2))


def test_an_interval_is_the_binomials():
    right = np.arange(400) < 100
    low, high = metrics.bootstrap_ci(right, resamples=4000)
    spread = 1.96 * (0.25 * 0.75 / 400) ** 0.5
    assert low == pytest.approx(0.25 - spread, abs=0.004) and high == pytest.approx(0.25 + spread, abs=0.004)
    assert metrics.bootstrap_ci(np.ones(5)).tolist() == [1, 1]
    np.testing.assert_array_equal(metrics.bootstrap_ci(right), metrics.bootstrap_ci(right))
    both = metrics.bootstrap_ci(np.stack([right, ~right], 1))
    np.testing.assert_allclose(both[:, 0], 1 - both[::-1, 1])  # the same draws
    with pytest.raises(ValueError, match="no samples"):
        metrics.bootstrap_ci([])


def test_whole_places_make_wider_intervals_where_their_samples_are_alike():
    right, location_ids = np.repeat(np.arange(40) % 4 == 0, 25), np.repeat(np.arange(40), 25)
    naive, whole = metrics.bootstrap_ci(right), metrics.bootstrap_ci(right, location_ids)
    assert np.ptp(whole) / np.ptp(naive) == pytest.approx(5, rel=0.15)  # the root of 25 copies
    np.testing.assert_allclose(whole, metrics.bootstrap_ci(right[::25]))  # what the places alone say
    uneven = metrics.bootstrap_ci(np.array([1, 1, 1, 0]), np.array([0, 0, 0, 1]))
    assert uneven.tolist() == [0, 1]  # two draws of two places: 0, 3/4 or 1


def test_the_output_says_what_was_resampled():
    right = {"top1": np.array([True, True, False, False])}
    found = benchmark.with_intervals(toy_protocol([0, 1], [0, 1, 0, 1], [0, 0, 1, 1]), {"top1": 0.5}, right)
    assert "2 whole places" in found["intervals_of"] and found["intervals"]["top1"] == [0, 1]
    found = benchmark.with_intervals(toy_protocol([0, 1], [0, 1, 0, 1]), {"top1": 0.5}, right)
    assert "4 samples, one by one" in found["intervals_of"]


def test_features_are_extracted_once_and_again_only_where_something_changed(tmp_path, capsys, monkeypatch):
    (source,) = feature_cache.resolve_backbones(["random"], "test_resnet")
    cache = feature_cache.FeatureCache(tmp_path, 8, torch.device("cpu"))
    first = cache.get(source, Toy(), feature_cache.dataset_digest(Toy()))
    assert "extracted and kept as float32" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(feature_cache, "load_backbone", lambda *given: pytest.fail("the features were there"))
        again = feature_cache.FeatureCache(tmp_path, 8, torch.device("cpu")).get(
            source, Toy(), feature_cache.dataset_digest(Toy())
        )
    assert torch.equal(first, again) and "of an earlier start" in capsys.readouterr().out
    other = Toy()
    other.pixels[7, 0, 0, 0] += 1
    assert feature_cache.dataset_digest(other) != feature_cache.dataset_digest(Toy())
    assert len({source.digest, feature_cache.resolve_backbones(["random"], "test_resnet", seed=1)[0].digest}) == 2
    (file,) = tmp_path.glob("*.npy")
    file.write_bytes(file.read_bytes()[:200])  # cut short by something else than us
    assert torch.equal(cache.get(source, Toy(), feature_cache.dataset_digest(Toy())), first)
    assert "cannot be read" in capsys.readouterr().out
    assert {path.suffix for path in tmp_path.iterdir()} == {".npy", ".json"}


def test_half_precision_gives_the_same_features_at_both_starts(tmp_path):
    (source,) = feature_cache.resolve_backbones(["pixels"])
    cache = feature_cache.FeatureCache(tmp_path, 8, torch.device("cpu"), dtype="float16")
    first, again = (cache.get(source, Toy(), "digest") for _ in range(2))
    assert torch.equal(first, again) and first.dtype == torch.float32 and first.shape == (8, 192)
    assert np.load(next(tmp_path.glob("*.npy"))).dtype == np.float16


def test_features_that_are_not_finite_are_refused(tmp_path):
    backbone = create_backbone("test_resnet")
    next(backbone.parameters()).data.fill_(torch.nan)
    checkpoint.save_backbone(tmp_path / "diverged.pth", backbone, "test_resnet", 3, [0.5] * 3, [0.2] * 3, "test")
    (source,) = feature_cache.resolve_backbones([tmp_path / "diverged.pth"])
    with pytest.raises(ValueError, match=r"diverged.pth: 8 of 8 features are not finite"):
        feature_cache.FeatureCache(tmp_path, 8, torch.device("cpu")).get(source, Toy(), "digest")
    assert not list(tmp_path.glob("*.npy"))


def test_names_are_the_runs_folders_or_the_files_and_never_twice_the_same(tmp_path):
    backbone = create_backbone("test_resnet")
    names = ["a/run/trained_model.pth", "b/run/trained_model.pth", "b/mine.pth", "b/other/trained_model.pth"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save_backbone(tmp_path / name, backbone, "test_resnet", 3, [0.5] * 3, [0.2] * 3, "test")
    found = feature_cache.resolve_backbones([*(tmp_path / name for name in names), "random", "stats"])
    shown = [source.name for source in found]
    assert shown[2:] == ["mine", "other", "random", "stats"] and len(set(shown)) == 6
    assert shown[0].endswith("a-run-trained_model") and shown[1].endswith("b-run-trained_model")
    assert found[4].arch == "test_resnet" and found[5].arch is None  # random weights of the files' architecture
    with pytest.raises(ValueError, match="twice"):
        feature_cache.resolve_backbones(["stats", "stats"])
    with pytest.raises(ValueError, match="--arch"):
        feature_cache.resolve_backbones(["stats", "random"])
    with pytest.raises(FileNotFoundError, match="nothing.pth"):
        feature_cache.resolve_backbones(["stats", tmp_path / "nothing.pth"])


def test_pixels_are_means_of_an_eighth_of_the_side():
    backbone, info = load_backbone("pixels")
    image = torch.arange(16.0).repeat_interleave(1)[None, None, :, None].expand(1, 3, 16, 16)  # each row its number
    found = backbone(image).view(3, 8, 8)
    assert info["arch"] == "pixels" and backbone.num_features == 192
    torch.testing.assert_close(found[2], (2 * torch.arange(8.0) + 0.5)[:, None].expand(8, 8))


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


def test_of_rates_that_are_equally_good_the_middle_one_is_taken():
    assert lr_sweep.select_lr([0.2, 0.5, 0.4]) == 1
    assert lr_sweep.select_lr([1.0, 1.0, 1.0, 0.3, 0.1]) == 1 and lr_sweep.select_lr([0.1, 1.0, 1.0, 1.0, 0.1]) == 2
