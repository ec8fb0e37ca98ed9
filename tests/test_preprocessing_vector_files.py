"""Vector files are read by their content, and do not make GDAL read others."""

import geopandas
import pytest
import shapely

from preprocessing.vector_files import read_vector

TABLE = geopandas.GeoDataFrame({"kind": ["a"]}, geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:4326")


@pytest.mark.parametrize("name", ["a.geojson", "a.gpkg", "a.shp", "a.fgb"])
def test_the_formats_are_read(tmp_path, name):
    TABLE.to_file(tmp_path / name)
    table = read_vector(tmp_path / name)
    assert table.kind.tolist() == ["a"] and table.crs == TABLE.crs and table.geometry[0].equals(TABLE.geometry[0])


def test_files_that_lead_to_other_files_are_refused(tmp_path):
    TABLE.to_file(tmp_path / "secret.gpkg")
    source = tmp_path / "secret.gpkg"
    layer = f'<OGRVRTLayer name="secret"><SrcDataSource>{source}</SrcDataSource></OGRVRTLayer>'
    (tmp_path / "a.gpkg").write_text(f"<OGRVRTDataSource>{layer}</OGRVRTDataSource>")
    pipeline = f'"type": "gdal_streamed_alg", "command_line": "gdal vector pipeline ! read {source}"'
    (tmp_path / "b.geojson").write_text("{" + " " * 5000 + pipeline + "}")
    for name in ("a.gpkg", "b.geojson"):
        with pytest.raises(ValueError, match=f"{name}: cannot be read as GeoJSON, GeoPackage, Shapefile, FlatGeobuf"):
            read_vector(tmp_path / name)
