"""A program reports figures to the real data process, over each transport; they come out as records."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rest_caller import UnixHttp
from runtime_bundles import make_bundle
from test_runtime_process import Device, wait_for

from dsops.api.v1.telemetry_pb2 import Kpi
from dsops.client import Inference
from dsops.errors import InvalidInput, NotFound, QueueFull

pytestmark = pytest.mark.integration


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with tempfile.TemporaryDirectory(prefix="ds") as name:  # a test's own folder may be too long for a socket
        made = Device(Path(name), rest=f"{name}/rest.sock")
        made.start()
        made.activate(make_bundle(tmp_path))
        yield made
        made.close()


def kpis(device: Device) -> list[Kpi]:
    return [record.kpi for record in device.telemetry if record.WhichOneof("kind") == "kpi"]


def report_many(client: Inference) -> None:
    for _ in range(2000):
        client.kpi("parts", 1)


def test_figures_come_out_as_records_with_what_served(device: Device) -> None:
    socket = device.folder / "inference.sock"
    with Inference(socket, "compass") as client:
        client.kpi("parts_rejected", 3, unit="{parts}", tags={"line": "2"})
        client.kpi("shift", 2, model="")
        socket.with_name("inference.sock.direct").unlink()
    with Inference(socket, "compass") as client:  # over gRPC now, for nobody listens on the direct socket
        client.kpi("parts_total", 40.5)
    rest = UnixHttp(device.folder / "rest.sock")
    rest.request("POST", "/v2/dsops/kpis", json.dumps({"name": "scrap", "value": 0.25, "model": "compass"}))
    assert rest.getresponse().status == 200
    rest.close()
    wait_for(lambda: len(kpis(device)) == 4, device.log)
    found = {kpi.name: kpi for kpi in kpis(device)}
    assert (found["parts_rejected"].value, found["parts_rejected"].unit) == (3.0, "{parts}")
    assert dict(found["parts_rejected"].tags) == {"line": "2"}
    assert {name: (kpi.model, kpi.release) for name, kpi in found.items()} == {
        "parts_rejected": ("compass", 1),
        "shift": ("", 0),
        "parts_total": ("compass", 1),
        "scrap": ("compass", 1),
    }
    assert all(len(kpi.digest) == 64 for name, kpi in found.items() if name != "shift")
    assert all(record.moment.monotonic_us for record in device.telemetry)


def test_what_is_refused_is_told_and_leaves_no_record(device: Device) -> None:
    with Inference(device.folder / "inference.sock", "compass") as client:
        with pytest.raises(InvalidInput, match="parts/rejected"):
            client.kpi("parts/rejected", 1)
        with pytest.raises(InvalidInput, match="nan"):
            client.kpi("parts", float("nan"))
        with pytest.raises(InvalidInput):
            client.kpi("parts", "many")  # type: ignore[arg-type]
        with pytest.raises(NotFound):
            client.kpi("parts", 1, model="other")
        with pytest.raises(QueueFull, match="too many figures"):
            report_many(client)
    rest = UnixHttp(device.folder / "rest.sock")
    for body, status in (({"name": "a/b", "value": 1}, 400), ({"name": "a", "value": 1, "model": "other"}, 404)):
        rest.request("POST", "/v2/dsops/kpis", json.dumps(body))
        answer = rest.getresponse()
        assert (answer.status, "error" in json.loads(answer.read())) == (status, True)
    rest.close()
    wait_for(lambda: len(kpis(device)) >= 200, device.log)
    assert {kpi.name for kpi in kpis(device)} == {"parts"}
