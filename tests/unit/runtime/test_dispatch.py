"""The way of a request: its model, the answer, who is told."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from runtime_bundles import frames, make_bundle

from dsops.errors import InvalidInput, NotFound
from dsops_agent.runtime.answer import Answer
from dsops_agent.runtime.dispatch import Dispatcher
from dsops_agent.runtime.engine import ServedModel
from dsops_agent.runtime.litert import Array
from dsops_agent.runtime.swap import Models, Totals


class Witness:
    """A watch that remembers what it was told; a broken one raises instead."""

    def __init__(self, *, is_broken: bool = False) -> None:
        self.told: list[str] = []
        self.failures = 0
        self._is_broken = is_broken

    @property
    def totals(self) -> Totals:
        return Totals(len(self.told), self.failures)

    def answered(self, inputs: Mapping[str, Array], answer: Answer, request_id: str) -> None:
        if self._is_broken:
            raise RuntimeError("this watch is broken")
        self.told.append(request_id)

    def failed(self) -> None:
        self.failures += 1


def dispatcher(folder: Path, witness: Witness) -> Dispatcher:
    bundle = make_bundle(folder)
    models = Models(1, lambda _: witness)
    models.activate(bundle.manifest.model, bundle.path, bundle.digest, bundle.manifest.release)
    return Dispatcher(models)


def two_frames(served: ServedModel) -> Mapping[str, Array]:
    return {"image": frames(2)}


def test_an_answer_says_which_bundle_gave_it(tmp_path: Path) -> None:
    witness = Witness()
    found = dispatcher(tmp_path, witness).infer("compass", "", "r-1", two_frames)
    assert found.served.name == "compass"
    assert found.answer.scores.shape[0] == 2
    assert witness.told == ["r-1"]


def test_a_release_that_is_named_must_be_the_active_one(tmp_path: Path) -> None:
    where = dispatcher(tmp_path, Witness())
    assert where.infer("compass", "1", "", two_frames).served.release == 1
    with pytest.raises(NotFound, match="release 2 of model compass is not active"):
        where.infer("compass", "2", "", two_frames)
    with pytest.raises(NotFound, match=r"no model .sextant. is active"):
        where.find("sextant")


def test_what_cannot_be_decoded_is_no_failure_of_the_model(tmp_path: Path) -> None:
    def refused(served: ServedModel) -> Mapping[str, Array]:
        raise InvalidInput("these are no frames")

    witness = Witness()
    with pytest.raises(InvalidInput):
        dispatcher(tmp_path, witness).infer("compass", "", "", refused)
    assert (witness.told, witness.failures) == ([], 0)


def test_a_broken_watch_costs_no_answer(tmp_path: Path) -> None:
    found = dispatcher(tmp_path, Witness(is_broken=True)).infer("compass", "", "", two_frames)
    assert len(found.answer.choices) == 2
