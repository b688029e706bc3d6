"""Frames that are run together: only where every answer stays what it is, to the last bit."""

from pathlib import Path

import numpy as np
import pytest
from runtime_bundles import MadeBundle, ModelBuilder, Wanted, frames, make_bundle, pack, schema
from runtime_tasks import features, make_memory

from dsops.bundle import Bundle
from dsops.manifest import Task
from dsops_agent.runtime.batches import BATCH_FRAMES, Batches, State
from dsops_agent.runtime.engine import ServedModel, load_bundle
from dsops_agent.runtime.flight import Unmarked
from dsops_agent.runtime.golden import try_batches
from dsops_agent.runtime.litert import Array, LoadedModel

FLOAT = schema.TensorType.FLOAT32


def load(bundle: MadeBundle) -> ServedModel:
    return load_bundle(Bundle.open(bundle.path), bundle.digest, 1)


def load_trusting(bundle: MadeBundle) -> ServedModel:
    """Load a bundle whose batches may take any time, which a test cannot foretell."""
    served = load(bundle)
    vars(served)["batches"] = Batches(served.loaded, most_time=1e9)
    return served


def fixed_model() -> bytes:
    """A graph with the number of frames in a constant: it cannot be resized."""
    build = ModelBuilder()
    x, middle, y = (build.tensor(name, (1, 4), FLOAT) for name in ("x", "middle", "y"))
    shape = build.tensor("shape", (2,), schema.TensorType.INT32, np.array([1, 4], np.int32))
    build.operator(schema.BuiltinOperator.RESHAPE, [x, shape], [middle], schema.ReshapeOptionsT())
    build.operator(schema.BuiltinOperator.ADD, [middle, middle], [y], schema.AddOptionsT())
    return build.finish([x], [y])


def mixing_model() -> bytes:
    """A cumulative sum over the frames: it can be resized, and mixes what it is given."""
    build = ModelBuilder()
    x, y = build.tensor("x", (1, 4), FLOAT), build.tensor("y", (1, 4), FLOAT)
    axis = build.tensor("axis", (), schema.TensorType.INT32, np.array(0, np.int32))
    build.operator(schema.BuiltinOperator.ADD, [x, axis], [y], schema.AddOptionsT())
    (code,), (operator,) = build.model.operatorCodes, build.graph.operators
    code.builtinCode, code.deprecatedBuiltinCode = schema.BuiltinOperator.CUMSUM, 127
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.CumsumOptions, schema.CumsumOptionsT()
    return build.finish([x], [y])


def other(folder: Path, payload: bytes) -> ServedModel:
    wanted = Wanted(model="other", task=Task.OTHER, labels=())
    return load(pack(folder, payload, {"x": features(8, 1)}, {"x": features(300, 2)}, wanted))


@pytest.mark.parametrize("int8", [True, False])
@pytest.mark.parametrize("count", [8, 19, 32])
def test_answers_of_batches_are_those_of_single_frames_to_the_last_bit(tmp_path: Path, int8: bool, count: int) -> None:
    served = load_trusting(make_bundle(tmp_path, int8=int8))
    assert try_batches(served) is State.TRUSTED
    given = {"image": frames(count, seed=9, noise=0.4)}
    together, alone = served.infer(given), served.infer(given, alone=True)
    assert [a.tobytes() for a in together.outputs] == [b.tobytes() for b in alone.outputs]
    assert together.choices.tolist() == alone.choices.tolist()
    assert len(together.latency_us) == len(alone.latency_us) == count
    assert len(set(together.latency_us[:BATCH_FRAMES])) == 1
    assert len(set(alone.latency_us[:BATCH_FRAMES])) > 1


def test_a_model_with_a_fixed_number_of_frames_is_run_frame_by_frame(tmp_path: Path) -> None:
    served = other(tmp_path, fixed_model())
    assert try_batches(served) is State.REFUSED
    assert served.infer({"x": features(9, 4)}).outputs[0] == pytest.approx(2 * features(9, 4))


def test_a_model_that_mixes_frames_is_found_out(tmp_path: Path) -> None:
    served = other(tmp_path, mixing_model())
    assert try_batches(served) is State.REFUSED
    assert served.infer({"x": features(16, 4)}).outputs[0].tolist() == features(16, 4).tolist()


def test_a_model_with_a_state_is_answered_as_before(tmp_path: Path) -> None:
    served = load(make_memory(tmp_path))
    name = served.manifest.inputs[0].name
    given = {name: features(16, 4, served.manifest.inputs[0].shape[1])}
    try_batches(served)
    assert served.infer(given).outputs[0].tobytes() == served.infer(given, alone=True).outputs[0].tobytes()


def test_equal_frames_prove_nothing(tmp_path: Path) -> None:
    served = load(make_bundle(tmp_path))
    for _ in range(8):
        served.infer({"image": np.ones((32, 4, 4, 1), np.float32)})
    assert served.batches.state is State.UNTRIED


def test_what_takes_no_less_time_is_refused() -> None:
    model = LoadedModel(doubling_model())
    batches = Batches(model)
    given: list[Array] = [features(32, 5)]
    answered = [np.concatenate([model.run_stored([given[0][row : row + 1]])[0] for row in range(32)])]
    batches.try_on(given, answered, [0.0] * 32, Unmarked().run)
    assert batches.state is State.REFUSED


def doubling_model() -> bytes:
    build = ModelBuilder()
    x, y = build.tensor("x", (1, 4), FLOAT), build.tensor("y", (1, 4), FLOAT)
    build.operator(schema.BuiltinOperator.ADD, [x, x], [y], schema.AddOptionsT())
    return build.finish([x], [y])
