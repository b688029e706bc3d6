import pytest

from dsops.api.v1.telemetry_pb2 import Kpi, TelemetryRecord
from dsops.clock import ManualClock
from dsops.errors import InvalidInput, NotFound, QueueFull
from dsops_agent.runtime import kpi_json
from dsops_agent.runtime.collect import Identity, micros
from dsops_agent.runtime.kpis import BURST, MAX_TAGS, PER_S, Figure, Kpis

DIGEST = "ab" * 32


class Stage:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.put: list[bytes] = []
        self.kpis = Kpis(self.served, self.put.append, self.clock)

    def served(self, model: str) -> Identity:
        if model != "digits":
            raise NotFound(f"model {model} is not active")
        return Identity(model, 7, DIGEST)

    def taken(self) -> list[Kpi]:
        return [TelemetryRecord.FromString(data).kpi for data in self.put]


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_figure_bears_what_serves_its_model_in_that_moment(stage: Stage) -> None:
    stage.kpis.report(Figure("parts_rejected", 3.0, "{parts}", "digits", {"line": "2"}))
    now_us = micros(stage.clock.now())
    about = {"model": "digits", "release": 7, "digest": DIGEST}
    assert stage.taken() == [
        Kpi(time_us=now_us, name="parts_rejected", value=3, unit="{parts}", tags={"line": "2"}, **about)
    ]


def test_a_figure_may_be_of_no_model(stage: Stage) -> None:
    stage.kpis.report(Figure("shift", -1.5))
    (kpi,) = stage.taken()
    assert (kpi.model, kpi.release, kpi.digest, kpi.value) == ("", 0, "", -1.5)


@pytest.mark.parametrize(
    ("figure", "named"),
    [
        (Figure("", 1), "name"),
        (Figure("parts/rejected", 1), "parts/rejected"),
        (Figure("x" * 65, 1), "name"),
        (Figure("parts", float("nan")), "nan"),
        (Figure("parts", float("inf")), "inf"),
        (Figure("parts", 1, "u" * 65), "unit"),
        (Figure("parts", 1, tags={str(n): "" for n in range(MAX_TAGS + 1)}), "17 tags"),
        (Figure("parts", 1, tags={"": "x"}), "tag ''"),
        (Figure("parts", 1, tags={"line": "x" * 129}), "tag 'line'"),
    ],
)
def test_what_is_not_valid_is_named_and_not_taken(stage: Stage, figure: Figure, named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        stage.kpis.report(figure)
    assert stage.put == []


def test_a_model_that_is_not_active_is_not_found(stage: Stage) -> None:
    with pytest.raises(NotFound):
        stage.kpis.report(Figure("parts", 1, model="other"))
    assert stage.put == []


def test_the_rate_is_bounded_and_what_is_refused_costs_nothing(stage: Stage) -> None:
    for _ in range(BURST):
        stage.kpis.report(Figure("parts", 1))
    for _ in range(3):
        with pytest.raises(QueueFull, match="20 a second"):
            stage.kpis.report(Figure("parts", 1))
    stage.clock.advance(1 / PER_S + 0.001)
    stage.kpis.report(Figure("parts", 1))
    assert len(stage.put) == BURST + 1


def test_json_is_read() -> None:
    told = {"name": "parts", "value": 2, "unit": "1", "model": "digits", "tags": {"a": "b"}}
    assert kpi_json.read(told) == Figure("parts", 2.0, "1", "digits", {"a": "b"})
    assert kpi_json.read({"name": "parts", "value": 0.5}) == Figure("parts", 0.5)


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"name": "parts"}, "value"),
        ({"name": "parts", "value": True}, "value"),
        ({"name": "parts", "value": "2"}, "value"),
        ({"name": "parts", "value": 10**400}, "value"),
        ({"name": 5, "value": 1}, "name"),
        ({"name": "parts", "value": 1, "tags": {"a": 1}}, "tags"),
        ({"name": "parts", "value": 1, "tags": "a"}, "tags"),
        ({"name": "parts", "value": 1, "modle": "digits"}, "modle"),
    ],
)
def test_json_that_is_no_figure_is_refused_by_name(told: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        kpi_json.read(told)
