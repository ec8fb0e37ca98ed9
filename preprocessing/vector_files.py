"""Read vector files that users name, without following them to others."""

from pathlib import Path
from typing import Any

from vicreg.data.georeference import one_line

# First bytes. pyogrio takes no list of drivers, and GDAL follows other files, such as VRTs, to files and addresses.
_FORMATS = {"GeoJSON": b"{", "GeoPackage": b"SQLite format 3\0", "Shapefile": b"\0\0\x27\x0a", "FlatGeobuf": b"fgb"}
_PIPELINE = b"gdal_streamed_alg"  # JSON that makes GDAL 3.11 and later run a pipeline


def read_vector(path: str | Path, **options: Any) -> Any:
    """Read a GeoJSON, GeoPackage, Shapefile or FlatGeobuf file, with options of ``geopandas.read_file``.

    Raises:
        OSError: There is no such file.
        ValueError: It cannot be read.
    """
    import geopandas

    with open(path, "rb") as file:
        first = file.read(2**12).removeprefix(b"\xef\xbb\xbf").lstrip()
        if not first:
            raise ValueError(f"{path}: empty file (zero bytes)")
        if not first.startswith(tuple(_FORMATS.values())) or (first[:1] == b"{" and _PIPELINE in first + file.read()):
            raise ValueError(f"{path}: cannot be read as {', '.join(_FORMATS)}; convert it with ogr2ogr")
    try:
        return geopandas.read_file(path, engine="pyogrio", **options)
    except Exception as error:  # GDAL, pyogrio, pyproj and shapely each raise their own
        raise ValueError(f"{path}: cannot be read ({one_line(error)})") from error
