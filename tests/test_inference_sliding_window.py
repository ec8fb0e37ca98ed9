"""Windows over images of any size: what is read, how predictions are blended, and cells without data."""

import numpy as np
import pytest
import torch

from vicreg.data.rasters import NO_DATA, ImageReader
from vicreg.inference.sliding_window import (
    cell_window_starts,
    classify_cells,
    core_edges,
    label_blocks,
    label_image,
    read_windows,
    window_starts,
)


class CountingReader(ImageReader):
    """An image that remembers the shapes of the windows read from it."""

    def read(self, top, left, height, width, out_shape=None):
        self.shapes = [*getattr(self, "shapes", []), (height, width)]
        return super().read(top, left, height, width, out_shape)


def brightness(images):
    """Three classes by the brightness of each pixel."""
    level = images.float().mean(1)
    return torch.stack([(level < 85).float(), ((level >= 85) & (level < 170)).float(), (level >= 170).float()], 1)


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)


def assemble(blocks, shape):
    """Labels of all blocks, and how often each pixel was labeled."""
    labels, count = np.full(shape, 99, np.uint8), np.zeros(shape, int)
    for top, left, block in blocks:
        labels[top : top + block.shape[0], left : left + block.shape[1]] = block
        count[top : top + block.shape[0], left : left + block.shape[1]] += 1
    return labels, count


def test_window_starts_end_flush_with_the_image():
    assert window_starts(100, 32, 16) == [0, 16, 32, 48, 64, 68]
    assert window_starts(32, 32, 16) == window_starts(7, 32, 16) == [0]
    for stride in (0, 33):
        with pytest.raises(ValueError, match=f"stride of {stride} pixels with windows of 32"):
            window_starts(100, 32, stride)


def test_cell_windows_are_centered_and_moved_inside():
    assert cell_window_starts(64, 32, 8) == [0, 0, 4, 12, 20, 28, 32, 32]
    assert cell_window_starts(70, 32, 32) == [0, 32, 38]
    with pytest.raises(ValueError, match="20 pixels are less than one window of 32"):
        cell_window_starts(20, 32, 8)


def test_core_edges_are_in_the_middle_of_each_overlap():
    assert core_edges([0, 24, 48, 68], 32, 100) == [0, 28, 52, 74, 100]
    assert core_edges([0], 32, 20) == [0, 20]


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_read_windows_gives_each_window_padded_and_reads_a_batch_once(batch_size):
    image, valid = noise(20, 50), np.ones((20, 50), bool)
    valid[3, 30] = False
    reader, lefts = CountingReader(image, valid), [0, 12, 18]
    batches = list(read_windows(reader, [0], lefts, 32, batch_size, "constant"))
    assert len(reader.shapes) == len(batches) == -(-3 // batch_size)
    images, masks = (np.concatenate([getattr(batch, name) for batch in batches]) for name in ("images", "valid"))
    assert [left for batch in batches for left in batch.lefts] == lefts
    for left, window, mask in zip(lefts, images, masks, strict=True):
        assert np.array_equal(window[:, :20], image[:, :, left : left + 32]) and not window[:, 20:].any()
        assert np.array_equal(mask[:20], valid[:, left : left + 32]) and not mask[20:].any()


def test_read_windows_repeats_the_edge_by_default():
    image = noise(20, 32)
    (batch,) = read_windows(ImageReader(image), [0], [0], 32)
    assert np.array_equal(batch.images[0, :, 31], image[:, 19])


@pytest.mark.parametrize("shape", [(50, 70), (20, 100), (32, 32), (90, 17)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
def test_label_blocks_label_every_pixel_once_without_a_seam(shape, overlap):
    image = noise(*shape)
    expected = brightness(torch.from_numpy(image)[None]).argmax(1)[0].numpy()
    labels, count = assemble(label_blocks(ImageReader(image), brightness, 32, overlap, panel=40), shape)
    assert (count == 1).all() and np.array_equal(labels, expected)
    assert np.array_equal(label_image(image, brightness, 32, overlap), expected)


def test_label_blocks_weight_windows_by_the_distance_to_their_border():
    """Two windows of 4 with an overlap of 2: weights 2 and 1 for the first, 1 and 2 for the second (times a half)."""

    def predict(images):
        first = images[:, 0].float() / 100  # probability of class 1 is what the pixel says
        return torch.stack([1 - first, first], 1)

    image = np.zeros((3, 4, 6), np.uint8)

    def by_window(images):
        for image in images:
            image[:] = torch.from_numpy(next(windows))
        return predict(images)

    # third column: 0.6 * 2 + 0.3 * 1 is a half of 3
    windows = iter([np.full((4, 4), 61), np.full((4, 4), 30)])
    assert label_image(image, by_window, 4, 0.5)[0].tolist() == [1, 1, 1, 0, 0, 0]
    windows = iter([np.full((4, 4), 59), np.full((4, 4), 30)])
    assert label_image(image, by_window, 4, 0.5)[0].tolist() == [1, 1, 0, 0, 0, 0]


def test_label_blocks_in_panels_give_what_one_panel_gives():
    image = noise(70, 150)
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 4, 9, padding=4)

    def predict(images):
        with torch.inference_mode():
            return network(images.float() / 64).softmax(1)

    labels = [assemble(label_blocks(ImageReader(image), predict, 32, panel=p), (70, 150))[0] for p in (37, 4096)]
    assert len(np.unique(labels[0])) > 2 and np.array_equal(*labels)


def test_label_blocks_read_no_more_than_a_batch_of_windows():
    reader, rows = CountingReader(np.zeros((3, 4000, 300), np.uint8)), set()
    for _, _, labels in label_blocks(reader, brightness, 32, overlap=0.0, batch_size=2, panel=128):
        rows.add(labels.shape[0])
        assert labels.shape[1] <= 128
    assert max(height * width for height, width in reader.shapes) == 2 * 32 * 32 and rows == {32}


def test_label_blocks_give_invalid_pixels_no_label():
    valid = np.random.default_rng(1).random((50, 70)) < 0.5
    labels, _ = assemble(label_blocks(ImageReader(noise(50, 70), valid), brightness, 32), (50, 70))
    assert np.array_equal(labels == NO_DATA, ~valid)


def test_classify_cells_skip_windows_without_data():
    image = np.kron(np.array([[10, 20, 30]], np.uint8), np.ones((8, 8), np.uint8))[None].repeat(3, 0)
    valid = np.ones((8, 24), bool)
    valid[:, 8:12], valid[0, 12] = False, False  # 33 of 64 pixels of the second window
    seen = []

    def classify(windows):
        seen.append(windows[:, 0, 0, 0].tolist())
        return windows[:, 0, 0, 0] // 10

    blocks = list(classify_cells(ImageReader(image, valid), classify, 8, 8, batch_size=2))
    assert assemble(blocks, (1, 3))[0].tolist() == [[1, NO_DATA, 3]] and seen == [[10], [30]]
    valid[0, 12] = True  # half of the window is enough
    assert assemble(classify_cells(ImageReader(image, valid), classify, 8, 8), (1, 3))[0].tolist() == [[1, 2, 3]]
