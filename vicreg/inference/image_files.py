"""Choose the image files of a prediction, protect them from its outputs, and process them one by one."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from vicreg.common.files import check_outside
from vicreg.common.logger import log
from vicreg.data.image_io import IMAGE_SUFFIXES
from vicreg.data.image_listing import image_paths, log_skipped


def find_images(paths: Iterable[str | Path], out_dir: str | Path, recursive: bool = False) -> list[Path]:
    """List the image files of a prediction.

    Hidden files and files with other suffixes are skipped in folders (see ``image_paths``); files named directly are
    taken as they are.

    Args:
        paths: Image files, and folders of them.
        out_dir: Folder of the results.
        recursive: Whether to search folders at any depth.

    Returns:
        Files in the order of ``paths``, sorted within folders, each once.

    Raises:
        FileNotFoundError: A path does not exist.
        ValueError: A folder holds no image, or results in ``out_dir`` would be read as images on the next run.
    """
    images: list[Path] = []
    for path in map(Path, paths):
        if path.is_file():
            images.append(path)
            continue
        if not path.is_dir():
            raise FileNotFoundError(f"no image or folder at {path}")
        if recursive or Path(out_dir).resolve() == path.resolve():
            check_outside(out_dir, path, "--out")
        skipped: list[str] = []
        inside = image_paths(path, skipped=skipped, recursive=recursive)
        if not inside:
            raise ValueError(f"{path} holds no images ({' '.join(IMAGE_SUFFIXES)})")
        log_skipped(path, skipped)
        images += sorted(map(Path, inside))
    return list(dict.fromkeys(images))


def check_outputs(images: Sequence[Path], outputs: Callable[[Path], Iterable[Path]]) -> None:
    """Make sure that no result would replace an image or another image's result.

    Args:
        images: Image files.
        outputs: Function (image file) -> files that are written for it.

    Raises:
        ValueError: Names the files.
    """
    inputs = {image.resolve(): image for image in images}
    sources: dict[Path, Path] = {}
    for image in images:
        for output in outputs(image):
            target = output.resolve()
            if target in inputs:
                raise ValueError(f"{output} would replace the image {inputs[target]}; choose another --out")
            if target in sources:
                raise ValueError(
                    f"{sources[target]} and {image} would both be written to {output}; rename one, or predict them "
                    "separately"
                )
            sources[target] = image


def process_images(images: Sequence[Path], process: Callable[[Path], object], description: str = "images") -> list[str]:
    """Process images one after the other; a file that cannot be processed does not end the others.

    Args:
        images: Image files.
        process: Function of an image file; raises ValueError if it cannot be processed.
        description: Label of the progress bar.

    Returns:
        Messages about the files that could not be processed, for ``raise_failures``.
    """
    failures = []
    for image in tqdm(images, description, leave=False, disable=True if len(images) < 2 else None):
        try:
            process(image)
        except ValueError as error:
            failures.append(str(error))
            if len(images) > 1:
                log(f"skipped: {error}")
    return failures


def raise_failures(failures: Sequence[str], count: int) -> None:
    """Raise ValueError if some of ``count`` files failed; the messages say why."""
    if failures and count == 1:
        raise ValueError(failures[0])
    if failures:
        more = f", … and {len(failures) - 3} more" if len(failures) > 3 else ""
        raise ValueError(f"{len(failures)} of {count} images could not be processed: {'; '.join(failures[:3])}{more}")
