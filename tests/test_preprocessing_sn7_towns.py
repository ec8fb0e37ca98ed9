"""Places of AOIs: borders give the country, towns inside it give state and city."""

import numpy as np
import pandas as pd
import pytest

from preprocessing.sn7 import towns
from preprocessing.sn7.geocode import tile_points
from preprocessing.sn7.places import Place
from preprocessing.sn7.towns import locate

PARIS, LYON, BERLIN = (48.8566, 2.3522), (45.7578, 4.8320), (52.5200, 13.4050)
DESERT = (23.0, 12.0)  # in the southwest of Libya


def test_the_60_aois_of_spacenet_7_keep_their_city_state_and_country(repo_root):
    expected = pd.read_csv(repo_root / "tests" / "cases" / "sn7_places.csv", keep_default_na=False)
    assert len(expected) == 60
    found = [(aoi, *locate(tile_points(aoi))[:3]) for aoi in expected.aoi]
    assert found == list(expected.itertuples(index=False, name=None))


def test_the_majority_of_points_decides_not_the_first():
    place = locate([BERLIN, PARIS, PARIS])
    assert (place.country, place.iso, place.city) == ("France", "FR", "Paris")


def test_the_country_is_voted_on_before_the_state_and_the_state_before_the_city():
    # Berlin is the most frequent city, Paris that of France, but the Auvergne-Rhône-Alpes have more points.
    grenoble = (45.1885, 5.7245)
    place = locate([BERLIN] * 4 + [PARIS] * 3 + [LYON] * 2 + [grenoble] * 2)
    assert (place.city, place.state, place.country) == ("Grenoble", "Auvergne-Rhône-Alpes", "France")


def test_equal_votes_fall_the_same_way_in_any_order():
    assert locate([BERLIN, PARIS])[:4] == locate([PARIS, BERLIN])[:4]


def test_countries_have_the_names_people_say():
    assert locate([(37.5665, 126.9780)]).country == "South Korea"
    assert locate([(32.0450, 20.1050)]).country == "Libya"


def test_a_town_across_the_border_neither_gives_the_country_nor_the_city():
    place = locate([(22.1280, 113.5300)])  # Hengqin; the nearest town is Macao's Taipa
    assert (place.city, place.state, place.country) == ("Zhuhai", "Guangdong", "China")
    assert locate([(27.0, 14.6)]).country == "Libya"


def test_the_distance_to_the_town_is_the_median_over_points():
    assert locate([PARIS, LYON]).town_km < 2
    assert locate([DESERT] * 3).town_km > 100
    assert locate([DESERT, PARIS, PARIS]).town_km < 2


@pytest.mark.parametrize(
    ("position", "country", "iso"),
    [
        ((4.92, -52.31), "French Guiana", "GF"), ((-21.1, 55.5), "Reunion", "RE"),
        ((78.2, 15.6), "Svalbard and Jan Mayen", "SJ"), ((48.0, 2.0), "France", "FR"),
    ],
)  # fmt: skip
def test_territories_with_a_code_of_their_own_are_told_from_their_country(position, country, iso):
    assert locate([position])[2:4] == (country, iso)


def test_a_country_without_towns_has_no_city():
    assert locate([(-75.0, 0.0)]) == Place("", "", "Antarctica", "AQ", None)


def test_an_island_that_the_borders_do_not_have_takes_the_country_of_its_town():
    assert locate([(7.50, 146.31)])[:4] == ("Lamotrek", "Yap State", "Micronesia", "FM")


def test_a_position_at_sea_is_refused():
    with pytest.raises(ValueError, match="no country within 20 km"):
        locate([(0.0, 0.0)])


def test_the_nearest_town_may_lie_across_180_degrees(monkeypatch):
    table = [towns.Town("FJ", "", "west", -16.8, 178.6), towns.Town("FJ", "", "east", -16.8, -179.9)]
    positions = np.array([town[3:] for town in table])
    monkeypatch.setattr(towns, "_read_towns", lambda: (table, np.array(["FJ"] * 2), positions))
    place = locate([(-16.8, 179.99)])
    assert (place.city, place.country) == ("east", "Fiji") and place.town_km == pytest.approx(11.7, abs=0.1)
