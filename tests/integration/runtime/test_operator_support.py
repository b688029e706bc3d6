"""The real runtime is asked which operators it knows, and knows those of every bundle that it runs."""

import importlib.metadata
from pathlib import Path

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as schema
from runtime_bundles import tflite

from dsops.bundle import Bundle
from dsops.errors import RuntimeCrashed
from dsops.needs import needs_of
from dsops.operators import operators_of
from dsops.sealing import read_blob
from dsops.tflite_lint.operator_table import RULES
from dsops_agent.install.ports import Support
from dsops_agent.install.preflight import Facts, check
from dsops_agent.operators import OperatorQuery
from dsops_agent.room import HostRoom
from dsops_agent.runtime.litert import find_runtime
from dsops_agent.runtime.probe_model import probe_model
from dsops_agent.runtime.supports import is_supported, supports
from dsops_controller.cli.content_keys import find_key

pytestmark = pytest.mark.integration

GOLDEN = sorted((Path(__file__).parents[3] / "firmware_bundles/golden").glob("v*/*.bundle"))
LITERT = "ai-edge-litert"


@pytest.fixture(scope="module")
def query() -> OperatorQuery:
    return OperatorQuery()


def test_a_probe_is_read_as_it_is_meant() -> None:
    for op in RULES:
        model = schema.ModelT.InitFromPackedBuf(probe_model(op, 7), 0)
        [code] = model.operatorCodes
        assert (code.builtinCode, code.deprecatedBuiltinCode, code.version) == (op, min(op, 127), 7)
        assert (model.version, len(model.subgraphs), len(model.buffers)) == (3, 1, 1)


def test_the_runtime_itself_is_asked(query: OperatorQuery) -> None:
    known = ("CONV_2D/1", "CONV_2D/3", "FULLY_CONNECTED/9", "SOFTMAX/2", "ADD/1", "RESHAPE/1", "GELU/1")
    unknown = ("CONV_2D/99", "ADD/100", "NO_SUCH_OPERATOR/1", "WHILE/1", "custom:edgetpu-custom-op/1", "CUSTOM/1")
    found = query.ask((*known, *unknown))
    assert found == Support(LITERT, importlib.metadata.version(LITERT), unknown)


def test_the_answer_is_that_of_the_interpreter() -> None:
    """What is said to be missing is refused when an interpreter is made of a whole model, and nothing else is."""
    runtime, model = find_runtime(), schema.ModelT.InitFromPackedBuf(tflite(), 0)
    for version in range(1, 40):
        model.operatorCodes[0].version = version
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        data = bytes(builder.Output())
        try:
            runtime.module.Interpreter(model_content=data)
            loads = True
        except ValueError:
            loads = False
        missing = [name for name in operators_of(data) if not is_supported(runtime, name)]
        assert bool(missing) is not loads, version


def test_answers_are_kept_until_another_runtime_is_installed() -> None:
    names = ["runtime 1", "runtime 1", "runtime 2"]
    query = OperatorQuery(lambda: names.pop(0))
    assert query.ask(("ADD/1",)).missing == ()
    assert query._known == {"ADD/1": True}
    query._known["ADD/1"] = False
    assert query.ask(("ADD/1",)).missing == ("ADD/1",), "it was asked again"
    assert query.ask(("ADD/1",)).missing == (), "it was not asked again"


def test_a_process_that_dies_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(RuntimeCrashed, match="it exited with 1"):
        OperatorQuery().ask(("ADD/1",))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_golden_bundle_fits_this_device(path: Path, query: OperatorQuery, tmp_path: Path) -> None:
    bundle = Bundle.open(path)
    key = find_key(bundle.manifest, [path.with_suffix(".key")]) if bundle.manifest.sealed else None
    operators = operators_of(read_blob(bundle, bundle.manifest.payload, key))
    needs = needs_of(bundle.manifest, path.stat().st_size).model_copy(update={"operators": operators})
    assert operators
    room = HostRoom(tmp_path)
    check(needs, Facts(query.ask(operators), frozenset(), needs.contract, room.memory(), room.disk_bytes(), 1 << 20))


def test_a_model_of_the_tests_is_supported() -> None:
    assert supports(operators_of(tflite()))["missing"] == []
