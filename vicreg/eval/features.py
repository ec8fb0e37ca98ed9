"""What frozen features are worth: extraction, weighted kNN, and figures that show a collapse."""

import torch
from tqdm import tqdm

from vicreg.augmentations.batch import apply, normalize, sample_params
from vicreg.augmentations.presets import PLAIN, without_crop
from vicreg.distributed.process_group import all_gather_cat, is_main, rank, world_size


@torch.no_grad()
def extract_features(backbone, dataset, size, mean, std, device, indices=None, batch_size=256, view=PLAIN, random=None):
    """Features of a labeled data set; the processes share the work.

    Args:
        backbone: module (n, C, size, size) -> (n, F); in eval mode while this runs.
        dataset: has ``images(list of indices)`` -> uint8 (n, C, H, W).
        size, mean, std: of the network's input, pixels and per channel. indices: which samples, default all.
        view: how they are looked at; the plain view is the center crop of 7/8 of the side. random: generator of a
            view that is drawn.

    Returns:
        float32 (n, F) on the device, in the order of the indices, on every process.
    """
    indices = list(range(len(dataset))) if indices is None else [int(index) for index in indices]
    share = -(-len(indices) // world_size())
    mine = indices[rank() * share : (rank() + 1) * share]
    random = random or torch.Generator().manual_seed(0)
    was_training = backbone.training
    backbone.eval()
    parts = [torch.empty(0, backbone.num_features, device=device)]
    bar = tqdm(range(0, len(mine), batch_size), "features", leave=False, disable=None if is_main() else True)
    for start in bar:  # shown on a terminal only
        part, left = mine[start : start + batch_size], view
        if view.crop != "center" and dataset.crops_in_loader:  # image files: from the whole image
            seeds = torch.randint(2**63 - 1, (len(part),), generator=random)
            images, left = dataset.crop_images(part, seeds.tolist(), view, size), without_crop(view)
        else:
            images = dataset.images(part)
        images = images.to(device)
        numbers = sample_params(left, len(images), *images.shape[-2:], random)
        parts.append(backbone(normalize(apply(images, numbers, size, left.blur_kernel), mean, std)).float())
    backbone.train(was_training)
    return all_gather_cat(torch.cat(parts))
