"""Delegates: a real one, compiled here, that takes over a custom operator, refuses, balks or crashes."""

import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from runtime_bundles import MadeBundle, ModelBuilder, Wanted, frames, make_bundle, pack, schema

from dsops.bundle import Bundle
from dsops.errors import InvalidModel
from dsops.manifest import Task
from dsops_agent.install.ports import ProveLimits
from dsops_agent.operators import Accelerated
from dsops_agent.proof import Prover
from dsops_agent.runtime.accelerator import Accelerator
from dsops_agent.runtime.delegate import Delegate, why_unusable
from dsops_agent.runtime.engine import load_bundle
from dsops_agent.runtime.litert import LoadedModel
from dsops_agent.runtime.swap import Models, Totals

pytestmark = pytest.mark.skipif(
    shutil.which("gcc") is None or platform.architecture()[0] != "64bit", reason="needs gcc, and 64 bits"
)
SOURCE = Path(__file__).with_name("twice_delegate.c")
FLOAT = schema.TensorType.FLOAT32
OPERATOR = "dsops-twice"
LIMITS = ProveLimits(timeout_s=120.0, memory_bytes=0)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("delegate") / "libtwice.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(made), str(SOURCE)], check=True)
    return str(made)


def delegate(library: str, mood: str = "", operators: tuple[str, ...] = (OPERATOR,)) -> Delegate:
    return Delegate(name="twice", library=library, options={"mood": mood}, operators=operators)


def twice_model(*, custom: bool) -> bytes:
    """A model that doubles: by a custom operator, or by adding the input to itself."""
    build = ModelBuilder()
    x, y = build.tensor("x", (1, 4), FLOAT), build.tensor("y", (1, 4), FLOAT)
    build.operator(schema.BuiltinOperator.ADD, [x, x], [y], schema.AddOptionsT())
    if custom:
        (code,), (operator,) = build.model.operatorCodes, build.graph.operators
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = OPERATOR
        operator.inputs, operator.builtinOptionsType, operator.builtinOptions = [x], 0, None
    return build.finish([x], [y])


def make_twice(folder: Path) -> MadeBundle:
    rng = np.random.default_rng(0)
    golden, reference = ({"x": rng.normal(size=(count, 4)).astype(np.float32)} for count in (8, 300))
    wanted = Wanted(model="twice", task=Task.OTHER, labels=())
    return pack(folder, twice_model(custom=False), golden, reference, wanted, twice_model(custom=True))


class Unwatched:
    totals = Totals()

    def answered(self, *_: object) -> None:
        pass

    def failed(self) -> None:
        pass


def test_a_delegate_runs_the_operator_that_the_runtime_does_not_have(library: str) -> None:
    loaded = LoadedModel(twice_model(custom=True), delegate=(library, {}))
    assert loaded.run([np.arange(4, dtype=np.float32)[None]])[0].tolist() == [[0, 2, 4, 6]]
    assert (loaded.runtime.delegate, loaded.runtime.fallback) == (library, "")
    assert str(loaded.runtime).endswith(f"with {library}")


def test_without_its_delegate_such_a_model_is_refused() -> None:
    with pytest.raises(InvalidModel, match="custom"):
        LoadedModel(twice_model(custom=True))


def test_custom_operators_are_admitted_only_when_the_delegate_claims_them(library: str, tmp_path: Path) -> None:
    bundle = make_twice(tmp_path)
    opened = Bundle.open(bundle.path)
    served = load_bundle(opened, bundle.digest, 1, delegate=delegate(library))
    assert served.infer({"x": np.ones((2, 4), np.float32)}).outputs[0].tolist() == [[2.0] * 4] * 2
    for other in (None, delegate(library, operators=("another",))):
        with pytest.raises(InvalidModel, match="custom operators are not admitted"):
            load_bundle(opened, bundle.digest, 1, delegate=other)


@pytest.mark.parametrize("mood", ["refuse", "balk"])
def test_a_delegate_that_refuses_leaves_the_work_to_the_processor(library: str, mood: str) -> None:
    loaded = LoadedModel(twice_model(custom=False), delegate=(library, {"mood": mood}))
    assert loaded.run([np.ones((1, 4), np.float32)])[0].tolist() == [[2.0] * 4]
    assert loaded.runtime.delegate == ""
    assert loaded.runtime.fallback


def test_a_delegate_is_tried_in_a_process_of_its_own(library: str, tmp_path: Path) -> None:
    assert why_unusable(delegate(library)) == ""
    assert "there is no such accelerator" in why_unusable(delegate(library, "refuse"))
    assert "crashed by signal 11" in why_unusable(delegate(library, "crash"))
    assert "cannot be used" in why_unusable(delegate(str(tmp_path / "absent.so")))
    libc = "libc.so.6"  # a library, and no delegate
    assert "cannot be used" in why_unusable(delegate(libc))


@pytest.mark.parametrize(("mood", "problem"), [("", ""), ("refuse", "no such accelerator"), ("crash", "signal 11")])
def test_models_are_served_whatever_the_delegate_does(library: str, tmp_path: Path, mood: str, problem: str) -> None:
    told: list[tuple[str, str]] = []
    accelerator = Accelerator(delegate(library, mood), lambda name, why: told.append((name, why)))
    models = Models(1, lambda _: Unwatched(), accelerator)
    bundle = make_bundle(tmp_path)
    served = models.activate("compass", bundle.path, bundle.digest, 1).model
    assert served.infer({"image": frames(4)}).choices.tolist() == [0, 1, 2, 3]
    assert served.loaded.runtime.delegate == ("" if problem else library)
    status = Accelerated.of(accelerator.status())
    assert problem in status.problem
    assert status.usable == (() if problem else ("twice",))
    assert [name for name, _ in told] == (["twice"] if problem else [])
    assert status.brings(f"custom:{OPERATOR}/1") is not bool(problem)
    assert not status.brings("custom:another/1")


def test_a_delegate_that_balks_at_a_model_is_reported_and_tried_again_with_the_next(
    library: str, tmp_path: Path
) -> None:
    told: list[str] = []
    accelerator = Accelerator(delegate(library, "balk"), lambda _, why: told.append(why))
    models = Models(1, lambda _: Unwatched(), accelerator)
    bundle = make_bundle(tmp_path)
    models.activate("compass", bundle.path, bundle.digest, 1)
    assert len(told) == 1
    assert accelerator.usable() is not None


def test_a_bundle_is_proved_with_the_delegate(library: str, tmp_path: Path) -> None:
    bundle = make_twice(tmp_path)
    Prover(1, delegate(library).model_dump_json()).prove(bundle.path, LIMITS)
    with pytest.raises(InvalidModel, match="custom operators are not admitted"):
        Prover(1, delegate(library, "crash").model_dump_json()).prove(bundle.path, LIMITS)


def test_no_delegate_is_no_problem() -> None:
    accelerator = Accelerator(None)
    assert (accelerator.usable(), accelerator.status()) == (None, {})
    assert Accelerated.of({}).usable == Accelerated.of(None).usable == ()
