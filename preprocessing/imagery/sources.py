"""What make_imagery_csv.py reads: folders, lists of paths and addresses, and STAC catalogs."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preprocessing.text_files import read_text
from vicreg.common.json_files import read_json
from vicreg.data.image_listing import SPLITS
from vicreg.data.raster_pack.headers import Source, list_sources

_ADDRESSES = {"https://": "/vsicurl/https://", "http://": "/vsicurl/http://", "s3://": "/vsis3/", "gs://": "/vsigs/"}


def find_sources(
    folders: Sequence[Path], list_file: Path | None, asset: str | None = None, bands: Sequence[str] | None = None
) -> list[Source]:
    """List all files to read, sorted by name.

    Args:
        folders: Folders, searched at any depth, and files.
        list_file: Text file of paths and addresses, one per line, or a STAC ItemCollection (``.json``, ``.geojson``).
        asset: Name of the STAC asset that holds the bands.
        bands: Names of bands, which may be those of STAC assets with one band each.

    Raises:
        FileNotFoundError: A folder, or the list, does not exist.
        ValueError: There is nothing to read, or the list is malformed.
    """
    sources: list[Source] = []
    short = [folder.resolve().name for folder in folders]
    for folder, name in zip(folders, short, strict=True):
        prefix = "" if len(folders) == 1 else f"{name if short.count(name) == 1 else folder.as_posix()}/"
        sources += [source._replace(name=prefix + source.name) for source in list_sources(folder)]
    if list_file:
        if not list_file.is_file():
            raise FileNotFoundError(f"no list {list_file}")
        is_catalog = list_file.suffix.lower() in (".json", ".geojson")
        sources += _read_catalog(list_file, asset, bands or ()) if is_catalog else _read_list(list_file)
    if not sources:
        raise ValueError(f"no rasters or images in {', '.join(map(str, folders)) or list_file}")
    (name, count), *_ = Counter(source.name for source in sources).most_common(1)
    if count > 1:
        where = f"{list_file}: " if list_file else ""
        raise ValueError(f"{where}{count} files are called {name}; give each folder or file once")
    return sorted(sources, key=lambda source: source.name)


def _to_gdal(address: str, folder: Path) -> str:
    """Return what GDAL opens; relative paths are those of ``folder`` if they exist there."""
    for scheme, prefix in _ADDRESSES.items():
        if address.startswith(scheme):
            return prefix + address.removeprefix(scheme)
    address = address.removeprefix("file://")
    inside = folder / address
    return address if address.startswith("/") or not inside.exists() else str(inside)


def _read_list(path: Path) -> list[Source]:
    lines = [line.strip() for line in read_text(path).splitlines()]
    addresses = [_to_gdal(line, path.parent) for line in lines if line and not line.startswith("#")]
    prefix = os.path.commonprefix([os.path.dirname(address) + "/" for address in addresses]).rpartition("/")[0]
    return [Source(address, address.removeprefix(prefix).lstrip("/")) for address in addresses]


def _read_catalog(path: Path, asset: str | None, bands: Sequence[str]) -> list[Source]:
    """Read the items of a STAC ItemCollection (or one item): date and address of an asset of each, or of its bands."""
    content = read_json(path)
    items = content.get("features", [content]) if isinstance(content, dict) else []
    if not isinstance(items, list):
        raise ValueError(f"{path}: not a STAC ItemCollection; features is a list of items")
    sources = []
    for number, item in enumerate(items):
        try:
            name, assets, properties = item["id"], item["assets"], item.get("properties") or {}
            is_stack = asset is None and any(band in assets for band in bands)
            keys = bands if is_stack else [asset or _only_raster(assets, f"{path}: item {name}")]
            if missing := [key for key in keys if key not in assets]:
                raise ValueError(f"{path}: item {name} has no asset {missing[0]}; it has {', '.join(assets)}")
            date = properties.get("datetime") or properties.get("start_datetime") or ""
            paths = [_to_gdal(assets[key]["href"], path.parent) for key in keys]
            stack = tuple(zip(keys, paths, strict=True)) if is_stack else ()
            sources.append(Source(paths[0], str(name), str(date)[:10], stack))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: item {number} is not a STAC item with id and assets") from error
    return sources


def _only_raster(assets: dict[str, Any], where: str) -> str:
    """Return the name of the only asset that is a raster with data."""
    rasters = [key for key, asset in assets.items() if "image/" in (asset.get("type") or "image/")
               and not {"thumbnail", "overview"} & set(asset.get("roles") or ())]  # fmt: skip
    if len(rasters) != 1:
        raise ValueError(f"{where} has {len(rasters)} raster assets ({', '.join(rasters)}); choose with --asset NAME")
    return rasters[0]


def folder_split(names: Sequence[str]) -> list[str] | None:
    """Return the part of each file if all are in folders called train, val or test, in any case; otherwise None."""
    parts = [SPLITS.get(name.partition("/")[0].lower(), "") for name in names]
    return parts if all(parts) and "train" in parts else None
