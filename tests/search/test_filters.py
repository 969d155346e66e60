"""Filters: what each one means, which index serves it, and that a filtered page is full and right."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from searchdb.db.current_model import claim_model
from searchdb.db.database import Database, open_database
from searchdb.db.tables import VECTOR_INDEX, images
from searchdb.errors import QueryError
from searchdb.index import build
from searchdb.records import Hit, ModelIdentity
from searchdb.search import hit_rows, ranking
from searchdb.search.conditions import EARTH_RADIUS_KM
from searchdb.search.filter_table import MAX_EXCLUDED, MAX_VALUES
from searchdb.search.filters import Filters
from searchdb.search.searcher import Query, Searcher
from tests.helpers.databases import NewSettings
from tests.helpers.vectors import clustered, fill

MODEL = ModelIdentity(name="test", weights_sha256=b"t" * 32, dimension=512)
ROWS = 4000
LISTS = 110
"""Of ivfflat: more than are fitted to so few rows, so that a scan leaves some of them out, even with a filter."""
NARROW_ROWS = 1000
"""More than a tenth of the rows, and less than half of them."""
QUERIES = 8
SHARES = {"half": 0.5, "tenth": 0.1, "thirtieth": 1 / 30, "thousandth": 0.001}


class Vectors:
    """Embeds the text "7" as the eighth of the test's query vectors, and words as any of them."""

    identity = MODEL
    shortest_edge = 224
    dimension = 512

    def __init__(self, queries: np.ndarray) -> None:
        self.queries = queries

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        numbers = [int(each) if each.isdigit() else len(each) for each in texts]
        return np.stack([self.queries[number % len(self.queries)] for number in numbers])

    def resize(self, image: Image.Image) -> Image.Image:
        return image

    def embed_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        raise AssertionError("no search by an image is expected")


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


class Crowd:
    """Many clustered images, tagged at random or by cluster."""

    def __init__(self, database: Database) -> None:
        rng = np.random.default_rng(4)
        centres = rng.normal(size=(150, 512))
        self.vectors = unit(centres[rng.integers(150, size=ROWS)] + 0.8 * rng.normal(size=(ROWS, 512)))
        # As texts do, the queries lie off the manifold of the images, and near each other.
        gap = rng.normal(size=512)
        near = unit(centres[rng.integers(150, size=QUERIES)])
        self.queries = unit(0.35 * near + 0.6 * unit(rng.normal(size=(QUERIES, 512))) + 0.7 * gap / np.linalg.norm(gap))
        chance = rng.permutation(ROWS) / ROWS
        looks = np.argsort(np.argsort(-(self.vectors @ self.queries.mean(axis=0)))) / ROWS  # 0 for the most similar
        self.masks = {f"chance {name}": chance < share for name, share in SHARES.items()}
        self.masks |= {f"alike {name}": looks < share for name, share in SHARES.items()}
        self.masks |= {f"unlike {name}": looks >= 1 - share for name, share in SHARES.items()}
        tags = [[name for name, mask in self.masks.items() if mask[n]] for n in range(ROWS)]
        common = {"source": "test", "sha256": b"", "width": 1, "height": 1, "byte_size": 1}
        with database.begin() as connection:
            common["embedding_model_id"] = claim_model(connection, MODEL)
            rows = [{**common, "image": f"/{n}", "embedding": self.vectors[n], "tags": tags[n]} for n in range(ROWS)]
            connection.execute(sa.insert(images), rows)
        self.database = database
        self.searcher = Searcher(database.engine, Vectors(self.queries))
        self._index: tuple[str, str] | None = None

    def indexed(self, method: str = "ivfflat", value_type: str = "halfvec") -> Crowd:
        """Have this index, which is built unless it is there already."""
        if self._index != (method, value_type):
            self._index = method, value_type
            lists, m, ef_construction = (LISTS, None, None) if method == "ivfflat" else (None, 16, 64)
            built = build.build_index(
                self.database.engine,
                method=method,
                value_type=value_type,
                lists=lists,
                m=m,
                ef_construction=ef_construction,
            )
            assert built is not None
            assert (built.method, built.value_type) == (method, value_type)
        return self

    def recall(self, name: str | None, count: int = 10) -> float:
        """Return the share of the true nearest ones that is found, having seen that every page is full."""
        found = expected = 0
        for n, query in enumerate(self.queries):
            similarities = self.vectors @ query
            if name is not None:
                similarities = np.where(self.masks[name], similarities, -2)
            fitting = count if name is None else min(count, int(self.masks[name].sum()))
            exact = {f"/{row}" for row in np.argsort(-similarities)[:fitting]}
            hits = self.searcher.search(Query(text=str(n)), filters=Filters(tag=name), threshold=-1, count=count)
            assert len(hits) == fitting
            assert all(name is None or name in hit.tags for hit in hits)
            found += len(exact & {hit.image for hit in hits})
            expected += fitting
        return found / expected


@pytest.fixture(scope="module")
def unindexed_crowd(new_settings: NewSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    with new_settings(tmp_path_factory.mktemp("home")) as settings, open_database(settings) as database:
        yield Crowd(database)


@pytest.fixture
def crowd(unindexed_crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> Crowd:
    """The crowd with an index of lists, of which half is too many to compare all."""
    monkeypatch.setattr(ranking, "NARROW_ROWS", NARROW_ROWS)
    return unindexed_crowd.indexed()


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("kind", ["chance", "alike", "unlike"])
@pytest.mark.slow
def test_a_filtered_page_is_full_and_has_the_nearest(crowd: Crowd, kind: str, share: str) -> None:
    assert crowd.recall(f"{kind} {share}") >= 0.95


@pytest.mark.slow
def test_a_page_without_a_filter_is_full_and_has_the_nearest(crowd: Crowd) -> None:
    assert crowd.recall(None) >= 0.95


@pytest.mark.parametrize("name", ["chance half", "alike tenth", "unlike half", "unlike tenth", "chance thirtieth"])
@pytest.mark.slow
def test_the_index_fills_the_page_however_rare_the_matches(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(ranking, "NARROW_ROWS", 50)
    before = index_scans(crowd.database)
    crowd.recall(name, count=40)
    assert index_scans(crowd.database) >= before + QUERIES


@pytest.mark.slow
def test_few_matches_are_all_compared(crowd: Crowd) -> None:
    before = index_scans(crowd.database)
    assert crowd.recall("chance tenth", count=40) == 1
    assert index_scans(crowd.database) == before


def index_scans(database: Database) -> int:
    with database.connect() as connection:
        connection.execute(sa.text("SELECT pg_stat_force_next_flush()"))
        connection.commit()
        statement = sa.text("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = :name")
        return connection.scalar(statement, {"name": VECTOR_INDEX}) or 0


@pytest.mark.parametrize(
    ("name", "narrow_rows"),
    [(None, NARROW_ROWS), ("chance half", NARROW_ROWS), ("unlike half", NARROW_ROWS), ("chance half", ROWS)],
)
@pytest.mark.slow
def test_pages_are_stable_to_the_thousandth_hit(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch, name: str | None, narrow_rows: int
) -> None:
    monkeypatch.setattr(ranking, "NARROW_ROWS", narrow_rows)

    def page(count: int, offset: int) -> list[int]:
        hits = crowd.searcher.search(
            Query(text="3"), filters=Filters(tag=name), threshold=-1, count=count, offset=offset
        )
        return [hit.id for hit in hits]

    whole = page(1000, 0)
    assert len(set(whole)) == 1000
    assert [hit for offset in range(0, 1000, 125) for hit in page(125, offset)] == whole
    with pytest.raises(QueryError, match="no deeper than 1,000"):
        page(40, 970)


@pytest.mark.parametrize(("method", "value_type"), [("hnsw", "halfvec"), ("hnsw", "vector"), ("ivfflat", "vector")])
@pytest.mark.slow
def test_other_indexes_fill_filtered_pages_as_well(
    unindexed_crowd: Crowd, monkeypatch: pytest.MonkeyPatch, method: str, value_type: str
) -> None:
    monkeypatch.setattr(ranking, "NARROW_ROWS", NARROW_ROWS)
    crowd = unindexed_crowd.indexed(method, value_type)
    before = index_scans(crowd.database)
    for name in ("chance half", "alike half", "unlike half"):
        assert crowd.recall(name) >= 0.95, name
    assert index_scans(crowd.database) >= before + 3 * QUERIES


def test_equally_similar_images_are_ordered_by_id_within_filters(few: Searcher) -> None:
    hits = few.search(Query(text="0"), filters=Filters(source="twins"), threshold=-1)
    assert [hit.similarity for hit in hits] == [hits[0].similarity] * 3
    assert [hit.id for hit in hits] == sorted(hit.id for hit in hits)


# --- what each filter means -------------------------------------------------------------------------

IMAGES: dict[str, dict[str, Any]] = {
    "valparaiso": {
        "country": "Chile", "city": "Valparaíso", "camera": "Canon EOS 5D", "latitude": -33.05, "longitude": -71.61,
        "taken_at": datetime(2024, 5, 31, 12, tzinfo=UTC), "tags": ["boat", "harbour"], "width": 3000, "height": 2000,
        "description": "Fishing boats lying in the old harbour", "folder": "Trips/Chile_1/coast", "rating": 4,
    },
    "santiago": {
        "country": "CHILE", "city": "Santiago", "camera": "Nikon D3", "latitude": -33.45, "longitude": -70.67,
        "taken_at": datetime(2024, 6, 1, tzinfo=UTC), "tags": ["street"], "width": 1000, "height": 1500,
        "description": "A street at night", "folder": "Trips/Chile_1", "rating": 2,
    },
    "fiji": {
        "country": "Fiji", "city": None, "camera": None, "latitude": -17.0, "longitude": 179.9,
        "taken_at": datetime(2020, 1, 1, tzinfo=UTC), "tags": ["boat", "beach"], "width": 800, "height": 800,
        "description": None, "folder": "Trips/Chile_10", "rating": 0,
    },
    "samoa": {
        "latitude": -17.0, "longitude": -179.9, "tags": ["100%", "it's"], "width": 600, "height": 400, "rating": -1,
    },
    "pole": {"folder": "trips/ChileX1", "latitude": 89.9, "longitude": 10.0, "tags": [], "width": 600, "height": 400},
    "plain": {"width": 64, "height": 64, "tags": []},
    **{f"twin {n}": {"source": "twins", "width": 64, "height": 64, "tags": []} for n in range(3)},
}  # fmt: skip
COLUMNS = ("country", "city", "camera", "latitude", "longitude", "taken_at", "description", "folder", "rating")


@pytest.fixture(scope="module")
def few_images(new_settings: NewSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A few images with full metadata; tests only read them."""
    rng = np.random.default_rng(0)
    vectors = {name: rng.normal(size=512) for name in IMAGES}
    with new_settings(tmp_path_factory.mktemp("home")) as settings, open_database(settings) as database:
        with database.begin() as connection:
            common = {
                "source": "test", "sha256": b"", "byte_size": 1, "embedding_model_id": claim_model(connection, MODEL),
                **dict.fromkeys(COLUMNS),
            }  # fmt: skip
            rows = [
                {**common, "image": name, "embedding": unit(vectors[name.replace("1", "0").replace("2", "0")]), **known}
                for name, known in IMAGES.items()
            ]
            connection.execute(sa.insert(images), rows)
        yield database


@pytest.fixture
def few(few_images: Database) -> Searcher:
    return Searcher(few_images.engine, Vectors(unit(np.random.default_rng(1).normal(size=(3, 512)))))


def names(hits: list[Hit]) -> set[str]:
    return {hit.image for hit in hits if hit.source != "twins"}


CHILE = {"valparaiso", "santiago"}
MEANINGS: list[tuple[dict[str, Any], set[str]]] = [
    ({"source": "twins"}, set()),
    ({"country": "Chile"}, CHILE),
    ({"country": ["chile", "FIJI"]}, {*CHILE, "fiji"}),
    ({"city": "VALPARAÍSO"}, {"valparaiso"}),
    ({"camera": "canon eos 5d"}, {"valparaiso"}),
    ({"tag": "boat"}, {"valparaiso", "fiji"}),
    ({"tag": ["boat", "beach"]}, {"fiji"}),
    ({"any_tag": ["street", "beach"]}, {"santiago", "fiji"}),
    ({"tag": "100%"}, {"samoa"}),
    ({"any_tag": "it's"}, {"samoa"}),
    ({"taken_after": "2024-05-31"}, CHILE),
    ({"taken_after": "2024-05-31T12:00Z", "taken_before": date(2024, 6, 1)}, {"valparaiso"}),
    ({"taken_before": datetime(2024, 5, 31, 12)}, {"fiji"}),
    ({"taken_before": "2024-06-01T02:00+02:00"}, {"valparaiso", "fiji"}),
    ({"orientation": "landscape"}, {"valparaiso", "samoa", "pole"}),
    ({"orientation": "portrait"}, {"santiago"}),
    ({"orientation": "square"}, {"fiji", "plain"}),
    ({"min_size": 1000}, CHILE),
    ({"folder": "Trips/Chile_1"}, CHILE),
    ({"folder": "/Trips/Chile_1/"}, CHILE),
    ({"folder": "Trips"}, {*CHILE, "fiji"}),
    ({"folder": ["trips", "Trips/Chile_1/coast"]}, {"pole", "valparaiso"}),
    ({"folder": "Trip"}, set()),
    ({"folder": "/"}, {*CHILE, "fiji", "pole"}),
    ({"rating": 1}, CHILE),
    ({"rating": 3, "folder": "Trips"}, {"valparaiso"}),
    ({"near": (-33.45, -70.67), "radius_km": 50}, {"santiago"}),
    ({"near": "-33.45, -70.67", "radius_km": 150}, CHILE),
    ({"near": (-17, 180), "radius_km": 20}, {"fiji", "samoa"}),
    ({"near": (-17, -179.95), "radius_km": 20}, {"fiji", "samoa"}),
    ({"near": (90, 0), "radius_km": 20}, {"pole"}),
    ({"near": (89.9, -170), "radius_km": 30}, {"pole"}),
    ({"near": (0, 0), "radius_km": 20_100}, {*CHILE, "fiji", "samoa", "pole"}),
    ({"words": "boat"}, {"valparaiso", "fiji"}),
    ({"words": '"old harbour"'}, {"valparaiso"}),
    ({"words": "fish -street"}, {"valparaiso"}),
    ({"words": "night or beach"}, {"santiago", "fiji"}),
    ({"where": "width > 2000"}, {"valparaiso"}),
    ({"where": "camera ~* 'canon' OR tags @> ARRAY['beach'] -- either"}, {"valparaiso", "fiji"}),
    ({"where": "description LIKE '%;%' OR city = 'Santiago'"}, {"santiago"}),
    ({"where": "camera LIKE 'Canon%' AND true"}, {"valparaiso"}),
    ({"country": "Chile", "where": "false OR width < 2000"}, {"santiago"}),
    ({"country": "Chile", "tag": "boat", "min_size": 100, "words": "harbour"}, {"valparaiso"}),
    ({"country": "nowhere"}, set()),
]


@pytest.mark.parametrize(("conditions", "expected"), MEANINGS, ids=[str(conditions) for conditions, _ in MEANINGS])
def test_what_a_filter_means(few: Searcher, conditions: dict[str, Any], expected: set[str]) -> None:
    assert names(few.search(Query(text="1"), filters=Filters(**conditions), threshold=-1, count=50)) == expected


def test_images_are_excluded_by_id(few: Searcher) -> None:
    everything = few.search(Query(text="1"), threshold=-1)
    left = few.search(Query(text="1"), filters=Filters(exclude_id=[everything[0].id, 10**6]), threshold=-1)
    assert [hit.id for hit in left] == [hit.id for hit in everything[1:]]
    assert few.search(Query(text="1"), filters=Filters(exclude_id=everything[0].id), threshold=-1) == left


def test_filters_that_are_not_set_are_absent(few: Searcher) -> None:
    assert not Filters()
    assert not Filters(country=(), tag=[], words=" ", exclude_id=[])
    assert few.search(Query(text="1"), filters=Filters(), threshold=-1) == few.search(Query(text="1"), threshold=-1)


def test_like_excludes_the_image_itself_within_filters(few: Searcher) -> None:
    twins = few.search(Query(text="1"), filters=Filters(source="twins"), threshold=-1)
    hits = few.search(Query(like=twins[0].id), filters=Filters(source="twins"), threshold=-1)
    assert [hit.id for hit in hits] == [hit.id for hit in twins[1:]]


def test_filters_as_json() -> None:
    filters = Filters(country="Chile", taken_after="2024-01-01", near=(1, 2), radius_km=3, exclude_id=4)
    assert filters.to_json() == {
        "country": ["Chile"], "taken_after": "2024-01-01T00:00:00+00:00", "near": [1.0, 2.0], "radius_km": 3,
        "exclude_id": [4],
    }  # fmt: skip
    assert Filters(**filters.to_json()) == filters


INDEXES = {
    "images_source_idx": {"source": "a"},
    "images_country_idx": {"country": ["a", "b"]},
    "images_city_idx": {"city": "a"},
    "images_camera_idx": {"camera": "a"},
    "images_tags_idx": {"any_tag": ["a", "b"]},
    "images_taken_at_idx": {"taken_after": "2024-01-01", "taken_before": "2024-02-01"},
    "images_folder_idx": {"folder": ["Pictures/2024", "Scans"]},
    "images_rating_idx": {"rating": 4},
    "images_shape_idx": {"orientation": "square", "min_size": 2000},
    "images_place_idx": {"near": (48, 11), "radius_km": 50},
    "images_words_idx": {"words": "harbour"},
}


@pytest.mark.parametrize(("name", "conditions"), INDEXES.items(), ids=INDEXES)
def test_every_filter_has_its_index(unindexed_crowd: Crowd, name: str, conditions: dict[str, Any]) -> None:
    statement = sa.select(images.c.id).where(Filters(**conditions).condition())
    compiled = statement.compile(unindexed_crowd.database.engine, compile_kwargs={"render_postcompile": True})
    with unindexed_crowd.database.connect() as connection:
        connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
        plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {compiled}", compiled.params).scalars())
    assert f"on {name}" in plan or f"using {name}" in plan, plan


@settings(max_examples=30)
@given(
    near=st.tuples(st.floats(-90, 90), st.floats(-180, 180)),
    radius_km=st.floats(0.001, 20_100),
)
@example(near=(5e-324, 0.0), radius_km=1.0)
@example(near=(0.0, -5e-324), radius_km=1.0)
def test_the_circle_is_the_one_on_the_sphere(
    unindexed_crowd: Crowd, near: tuple[float, float], radius_km: float
) -> None:
    rng = np.random.default_rng(int(radius_km))
    points = [(float(a), float(b)) for a, b in rng.uniform((-90, -180), (90, 180), size=(60, 2))]
    points += [(near[0], near[1]), (90, 0), (-90, 0), (0, 180), (0, -180), (-near[0], near[1])]
    condition = Filters(near=near, radius_km=radius_km).condition().compile(unindexed_crowd.database.engine)
    values = ", ".join(f"({n}, {a!r}::float8, {b!r}::float8)" for n, (a, b) in enumerate(points))
    statement = f"SELECT n FROM (VALUES {values}) AS images (n, latitude, longitude) WHERE {condition}"
    with unindexed_crowd.database.connect() as connection:
        found = set(connection.exec_driver_sql(statement, condition.params).scalars())
    for n, point in enumerate(points):
        distance = haversine(near, point)
        if abs(distance - radius_km) > 1e-3:
            assert (n in found) == (distance < radius_km), (point, distance)


def haversine(a: tuple[float, float], b: tuple[float, float]) -> float:
    (lat1, lon1), (lat2, lon2) = (map(math.radians, point) for point in (a, b))
    chord = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(chord, 1)))


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"country": ""}, "country has the value ''"),
        ({"city": "x" * 501}, "city has a value of 501 characters, the limit is 500"),
        ({"camera": "a\x00"}, "camera has the value"),
        ({"tag": [str(n) for n in range(MAX_VALUES + 1)]}, "tag has 101 values, the limit is 100"),
        ({"any_tag": [5]}, "any_tag has the value 5"),
        ({"taken_after": "yesterday"}, "taken_after is 'yesterday': write 2024-05-31"),
        (
            {"taken_after": "2024-02-01", "taken_before": "2024-01-01"},
            "no image is taken after the one and",
        ),
        ({"orientation": "wide"}, "orientation is 'wide': it is one of landscape, portrait, square"),
        ({"min_size": 0}, "min_size is 0"),
        ({"min_size": 2**31}, "min_size is 2147483648: it is a number of pixels"),
        ({"rating": 6}, "rating is 6: it is a number of stars from 1 to 5"),
        ({"rating": 3.5}, "rating is 3.5: it is a number of stars"),
        ({"near": (0, 0)}, "near is given without radius_km"),
        ({"radius_km": 5.0}, "radius_km is given without near"),
        ({"near": (91, 0), "radius_km": 5}, "latitude lies between -90 and 90"),
        ({"near": (float("nan"), 0), "radius_km": 5}, "latitude lies between"),
        ({"near": "here", "radius_km": 5}, "near is 'here': write latitude,longitude"),
        ({"near": (0, 0), "radius_km": 0}, "more than 0 and at most 20,100"),
        ({"near": (0, 0), "radius_km": float("nan")}, "more than 0"),
        ({"words": "x" * 501}, "words has 501 characters"),
        ({"exclude_id": -1}, "exclude_id has -1"),
        ({"exclude_id": range(MAX_EXCLUDED + 1)}, "exclude_id has 10,001 ids, the limit is 10,000"),
        ({"where": "true) OR (true"}, "not one condition in SQL"),
        ({"where": "true; DELETE FROM images"}, "not one condition in SQL"),
        ({"where": "true /* "}, "not one condition in SQL"),
        ({"where": "true ORDER BY 1"}, "not one condition in SQL"),
        ({"where": "width >"}, "not one condition in SQL"),
        ({"where": "(" * 4000 + "1"}, "where cannot be checked: it is nested too deeply: .* about 40 times"),
        ({"where": "NOT " * 2000 + "true"}, "nested too deeply"),
        ({"where": "x" + "[1]" * 3000}, "it has 3,000 brackets .*, the limit is 200"),
        ({"near": (10**400, 0), "radius_km": 1}, "write latitude,longitude"),
        ({"where": "SELECT 1"}, "not one condition in SQL"),
        ({"where": "(SELECT true)"}, "a query, not a condition"),
        ({"where": "width > $1"}, r"a parameter such as \$1"),
        ({"where": "width > :size"}, "a parameter"),
        ({"where": "x" * 10_001}, "where has 10,001 characters, the limit is 10,000"),
    ],
)
def test_a_filter_that_makes_no_sense_says_why(conditions: dict[str, Any], message: str) -> None:
    with pytest.raises(QueryError, match=message):
        Filters(**conditions)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("flavour = 'red'", 'where is refused by PostgreSQL: column "flavour" does not exist'),
        ("width", "must be type boolean"),
        ("width / 0 > 1", "division by zero"),
        ("nextval('images_id_seq') > 0", "read-only transaction"),
    ],
)
def test_postgresql_errors_are_quoted(few: Searcher, where: str, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        few.search(Query(text="1"), filters=Filters(where=where))
    assert few.search(Query(text="1"), threshold=-1)  # the connection is none the worse


def test_a_condition_has_a_time_limit(few: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hit_rows, "WHERE_TIMEOUT_S", 1.5)  # after twice as long, another limit ends the session
    with pytest.raises(QueryError, match=r"statement timeout .the limit is 1.5 s"):
        few.search(Query(text="1"), filters=Filters(where="pg_sleep(60) IS NOT NULL"))
    assert few.search(Query(text="1"), threshold=-1)


def test_the_settings_of_a_filtered_search_end_with_it(few: Searcher, few_images: Database) -> None:
    few.search(Query(text="1"), filters=Filters(where="true"))
    with few_images.connect() as connection:
        for name, value in {"enable_sort": "on", "transaction_read_only": "off", "statement_timeout": "0"}.items():
            assert connection.scalar(sa.text("SELECT current_setting(:name)"), {"name": name}) == value


def test_a_filtered_search_is_not_compiled(database: Database) -> None:
    """Without sorts a plan looks expensive enough for just-in-time compilation, which takes longer than the search."""
    with database.begin() as connection:
        connection.exec_driver_sql("SET LOCAL jit = on")
        ranking.prepare(connection)
        for name, value in {"enable_sort": "off", "jit": "off", "hnsw.iterative_scan": "relaxed_order"}.items():
            assert connection.scalar(sa.text("SELECT current_setting(:name)"), {"name": name}) == value


# --- what there is to filter by ---------------------------------------------------------------------


def test_facets_count_the_commonest_values(few: Searcher) -> None:
    facets = few.facets()
    assert (facets.counted, facets.complete) == (len(IMAGES), True)
    assert [(facet.value.lower(), facet.count) for facet in facets.country] == [("chile", 2), ("fiji", 1)]
    assert (facets.tag[0].value, facets.tag[0].count) == ("boat", 2)
    assert {facet.value: facet.count for facet in facets.orientation} == {"square": 5, "landscape": 3, "portrait": 1}
    assert {facet.value: facet.count for facet in facets.source} == {"test": 6, "twins": 3}
    assert [(facet.value, facet.count) for facet in facets.folder] == [
        ("Trips", 3), ("Trips/Chile_1", 2), ("Trips/Chile_1/coast", 1), ("Trips/Chile_10", 1), ("trips", 1),
        ("trips/ChileX1", 1),
    ]  # fmt: skip
    assert [(facet.value, facet.count) for facet in facets.rating] == [("2", 2), ("4", 1)]
    for name in ("source", "country", "city", "camera", "tag", "orientation", "folder", "rating"):
        for facet in getattr(facets, name):
            value: Any = int(facet.value) if name == "rating" else facet.value
            hits = few.search(Query(text="1"), filters=Filters(**{name: value}), threshold=-1, count=50)
            assert len(hits) == facet.count, (name, facet)


def test_facets_within_filters_and_limits(few: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    within = few.facets(Filters(tag="boat"), limit=1)
    assert within.counted == 2
    assert [facet.value for facet in within.tag] == ["boat"]
    monkeypatch.setattr("searchdb.search.facets.FACET_ROWS", 4)
    assert (few.facets(Filters(tag="boat")).total, few.facets(Filters(tag="boat")).complete) == (2, True)
    monkeypatch.setattr("searchdb.search.facets.SAMPLED_ROWS", 8)
    assert not few.facets().complete


def test_facets_of_a_large_collection_are_estimated_from_a_sample(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, clustered(2000))
    with database.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE images SET description = CASE WHEN id %% 4 = 0 THEN 'a dog' ELSE 'a cat' END, "
            "city = CASE WHEN id %% 1000 = 0 THEN 'Rare' ELSE 'City ' || id %% 2 END, tags = ARRAY['tag' || id %% 5]"
        )
    searcher = Searcher(database.engine, Vectors(np.ones((1, 512))))
    exact = searcher.facets(Filters(words="dog"))
    assert (exact.total, exact.counted, exact.complete) == (500, 500, True)
    monkeypatch.setattr("searchdb.search.facets.FACET_ROWS", 1000)
    monkeypatch.setattr("searchdb.search.facets.MATCHING_ROWS", 100)
    monkeypatch.setattr("searchdb.search.facets.SAMPLED_ROWS", 1000)
    monkeypatch.setattr("searchdb.search.facets.SAMPLED_TO_FILTER", 1000)
    every = searcher.facets()
    assert not every.complete
    assert every.counted < 2000
    assert every.total == pytest.approx(2000, rel=0.3)
    assert {facet.value: facet.count for facet in every.tag} == pytest.approx(
        {f"tag{n}": 400 for n in range(5)}, rel=0.4
    )
    within = searcher.facets(Filters(words="dog"))
    assert not within.complete
    assert within.counted < 500
    assert within.total == pytest.approx(500, rel=0.4)
    few = searcher.facets(Filters(city="rare", words="dog"))
    assert (few.total, few.complete) == (2, True)
    assert [(facet.value, facet.count) for facet in few.city] == [("Rare", 2)]


def test_an_empty_collection_has_no_facets(database: Database) -> None:
    facets = Searcher(database.engine, Vectors(np.ones((1, 512)))).facets()
    assert (facets.counted, facets.complete, list(facets.country), list(facets.orientation)) == (0, True, [], [])
