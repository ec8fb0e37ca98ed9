"""Facts about finding out where an AOI is."""

import csv

import numpy as np
import pytest

from preprocessing.sn7 import geocode, index, places
from preprocessing.sn7.geocode import footprint_points, tile_points, xyz_tile_bounds
from preprocessing.sn7.places import Place, read_places
from vicreg.data.georeference import to_degrees

DARTFORD = "L15-1025E-1366N_4102_2726_13"
HALF = 20037508.342789244


def test_tile_0_0_0_is_the_web_mercator_world_and_rows_are_counted_from_the_north():
    assert xyz_tile_bounds(0, 0, 0) == pytest.approx((-HALF, -HALF, HALF, HALF))
    assert xyz_tile_bounds(1, 0, 1) == pytest.approx((0, 0, HALF, HALF))


def test_a_tile_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no tile 2/0 at zoom 1"):
        xyz_tile_bounds(2, 0, 1)


def test_the_tile_in_an_aois_name_is_where_the_aoi_is():
    points = tile_points(DARTFORD)
    assert points.shape == (81, 2)
    assert points.mean(0) == pytest.approx([51.44, 0.286], abs=0.01)
    assert np.ptp(points, axis=0) == pytest.approx([8 / 9 * 0.0274, 8 / 9 * 0.0439], abs=1e-4)


def test_the_rasters_own_grid_agrees_with_the_tile_in_its_name():
    left, bottom, right, top = xyz_tile_bounds(4102, 2726, 13)
    transform = ((right - left) / 100, 0, left, 0, (bottom - top) / 50, top)
    found = geocode.raster_points("EPSG:3857", transform, 100, 50)
    assert found[np.lexsort(found.T)] == pytest.approx(tile_points(DARTFORD)[np.lexsort(tile_points(DARTFORD).T)])


def test_classes_of_states_and_cities_are_qualified_and_an_empty_state_falls_back_to_the_country():
    place = Place("Lahore", "Punjab", "Pakistan", "PK")
    names = [place.class_name(label) for label in ("country", "state", "city")]
    assert names == ["Pakistan", "Punjab, Pakistan", "Lahore, Punjab, Pakistan"]
    assert Place("Kuwait City", "", "Kuwait", "KW").class_name("state") == "Kuwait"
    assert Place("Kuwait City", "", "Kuwait", "KW").class_name("city") == "Kuwait City, Kuwait"


def test_an_override_table_is_read_with_the_countrys_code(tmp_path):
    path = tmp_path / "places.csv"
    path.write_text("aoi,city,state,country\nA,Cologne,North Rhine-Westphalia,Germany\nB,Taipa,,Macao\n")
    table = read_places(path, {"A", "B", "C"})
    assert table["A"] == Place("Cologne", "North Rhine-Westphalia", "Germany", "DE")
    assert table["B"] == Place("Taipa", "", "Macao", "MO")


@pytest.mark.parametrize(
    ("country", "name", "iso"),
    [
        ("USA", "United States", "US"), ("us", "United States", "US"),
        ("United States of America", "United States", "US"),
        ("UK", "United Kingdom", "GB"), ("Korea, Republic of", "South Korea", "KR"), ("Türkiye", "Turkey", "TR"),
    ],
)  # fmt: skip
def test_every_form_of_a_country_gives_one_name_and_code(tmp_path, country, name, iso):
    path = tmp_path / "places.csv"
    path.write_text(f'aoi,city,state,country\nA,x,,"{country}"\n', encoding="utf-8")
    assert read_places(path)["A"] == Place("x", "", name, iso)


def test_a_table_that_csv_cannot_read_is_refused_with_its_line(tmp_path):
    path = tmp_path / "places.csv"
    path.write_text(f"aoi,city,state,country\nA,x,,Peru\nB,{'x' * 2000},,Peru\n")
    limit = csv.field_size_limit(1000)
    with pytest.raises(ValueError, match=r"places.csv, line \d: field larger than field limit"):
        read_places(path)
    csv.field_size_limit(limit)


def test_an_unknown_country_is_refused_with_similar_names(tmp_path):
    path = tmp_path / "places.csv"
    path.write_text("aoi,city,state,country\nA,x,,Grenland\n")
    with pytest.raises(ValueError, match="line 2: no country Grenland in ISO 3166; similar names: .*Greenland"):
        read_places(path)


def test_every_country_of_the_geonames_list_resolves_to_itself():
    assert {code: places.resolve_country(name) for code, name in places.country_names().items()} == {
        code: code for code in places.country_names()
    }


def test_a_table_from_a_spreadsheet_with_semicolons_and_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "places.csv"
    path.write_bytes(b"\xef\xbb\xbfaoi;city;state;country\r\nA;Paris;Ile-de-France;France\r\n")
    assert read_places(path) == {"A": Place("Paris", "Ile-de-France", "France", "FR")}
    path.write_bytes("aoi,city,state,country\nA,Zürich,,Switzerland\n".encode("latin-1"))
    with pytest.raises(ValueError, match="places.csv: not UTF-8"):
        read_places(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("aoi,city,country\nA,x,y\n", "columns"),
        ("aoi,city,state,country,zip\nA,b,c,d,e\n", "columns"),
        ("", "columns"),
        ("aoi,city,state,country\nX,b,c,d\n", "line 2: no AOI X"),
        ("aoi,city,state,country\nA,b,c\n", "line 2: four fields"),
        ("aoi,city,state,country\nA,b,c,d,e\n", "line 2: four fields"),
        ("aoi,city,state,country\nA,b,c,\n", "line 2: .* a country"),
        ("aoi,city,state,country\nA,b,c,Peru\nA,b,c,Peru\nA,b,c,Chile\n", "line 4: another place than above for A"),
    ],
)
def test_a_wrong_override_table_is_refused_with_its_path_and_line(tmp_path, text, message):
    path = tmp_path / "places.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"places.csv.*{message}"):
        read_places(path, {"A"})


def test_a_missing_override_table_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        read_places(tmp_path / "nowhere.csv")


def test_footprints_in_another_projection_are_brought_to_degrees(tmp_path):
    path = tmp_path / "x_Buildings.geojson"
    path.write_text(
        '{"type": "FeatureCollection", "crs": {"type": "name", "properties": {"name": "EPSG:3857"}}, "features": ['
        '{"type": "Feature", "properties": {}, "geometry": {"type": "Point", "coordinates": [0, 6446275.84]}},'
        '{"type": "Feature", "properties": {}, "geometry": null}]}'
    )
    assert footprint_points(path) == pytest.approx(np.array([[50, 0]]), abs=1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "zero bytes"),
        ('{"type": "FeatureCollection", "features": [{"type": "Fea', "cannot be read"),
        ("not json", "cannot be read"),
        ('{"type": "FeatureCollection", "features": []}', "no building footprints"),
        (
            '{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {}, '
            '"geometry": {"type": "Point", "coordinates": [-13545864.4, 4578883.7]}}]}',
            "not longitude and latitude",
        ),
    ],
)
def test_a_label_file_that_is_empty_or_broken_is_refused_with_its_path(tmp_path, text, message):
    path = tmp_path / "x_Buildings.geojson"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"x_Buildings.geojson.*{message}"):
        footprint_points(path)


def test_footprints_outvote_the_raster_and_the_raster_outvotes_the_name(sn7_tree, monkeypatch):
    mosaics, _ = index.scan_tree(sn7_tree, workers=1)
    first = {mosaic.name.aoi: mosaic for mosaic in mosaics}
    dartford, california = first[DARTFORD], first["L15-0331E-1257N_1327_3160_13"]
    assert dartford.crs is None and california.crs is not None
    paris = dartford._replace(crs="EPSG:4326", transform=(1e-4, 0, 2.35, 0, -1e-4, 48.86))
    assert index.locate_aois([dartford], {})[0][DARTFORD].country == "United Kingdom"
    assert index.locate_aois([paris], {})[0][DARTFORD].country == "France"
    moved = california._replace(crs="EPSG:4326", transform=paris.transform)  # its label file stays in California
    assert index.locate_aois([moved], {})[0][moved.name.aoi].country == "United States"


def test_a_position_agrees_with_the_tile_up_to_a_tenth_of_its_side():
    left, bottom, right, top = xyz_tile_bounds(4102, 2726, 13)

    def message(column, row):  # in tile sides from the top left corner
        x, y = left + column * (right - left), top - row * (top - bottom)
        latitude, longitude = np.degrees(np.arctan(np.sinh(y / 6378137))), np.degrees(x / 6378137)
        return geocode.check_position(DARTFORD, np.array([[latitude, longitude]]), "its coordinates")

    assert message(0.5, 0.5) == message(-0.09, 0.5) == message(0.5, 1.09) == ""
    assert message(-0.11, 0.5) and message(0.5, 1.11)
    assert "lie at 51.4403 N, 0.2417 E, the tile number in the AOI's name at 51.4403 N, 0.2856 E" in message(-0.5, 0.5)


def test_a_twentieth_of_the_points_may_lie_outside_of_the_tile():
    inside = tile_points(DARTFORD)[:19]
    outside = np.array([(0.28, 51.44)])  # latitude and longitude exchanged
    assert geocode.check_position(DARTFORD, np.concatenate([inside, outside]), "its footprints") == ""
    message = geocode.check_position(DARTFORD, np.concatenate([inside[:15], outside.repeat(5, 0)]), "its footprints")
    assert message.startswith("25% of its footprints lie at 0.2800 N, 51.4400 E, the tile number")


def test_a_tile_at_180_degrees_contains_positions_on_both_sides():
    aoi = "L15-2047E-1023N_8191_4096_13"
    sides = np.array([(-0.02, 179.98), (-0.02, -179.998)])
    assert geocode.check_position(aoi, sides, "its coordinates") == ""
    assert geocode.check_position(aoi, sides + (0, 1), "its coordinates").startswith(
        "its coordinates lie at 0.0200 S, 179"
    )


def test_to_degrees_returns_from_huge_coordinates():
    assert np.isnan(to_degrees("EPSG:3857", [1e20], [0.0], strict=False)[0]).all()
