"""Preflight as a decision: each rule's own error, all of them in the message, and nothing against what fits."""

from dataclasses import replace
from typing import Any

import pytest

from dsops.contract import Contract, Shown
from dsops.errors import (
    ContractBroken,
    DelegateMissing,
    IncompatibleBundle,
    NoMemory,
    OperatorMissing,
    OverMemory,
    OverSize,
    RuntimeTooOld,
)
from dsops.needs import Needs
from dsops_agent.install.ports import Memory, Support
from dsops_agent.install.preflight import RULES, Facts, check, check_memory_now

IMAGE = Shown(name="image", datatype="FP32", shape=(8, 8, 1))
SCORES = Shown(name="scores", datatype="FP32", shape=(10,))
CONTRACT = Contract(inputs=(IMAGE,), outputs=(SCORES,))
NEEDS = Needs(contract=CONTRACT, memory_bytes=100, disk_bytes=1000)
FACTS = Facts(
    support=Support("ai-edge-litert", "2.3.0"),
    delegates=frozenset(),
    contract=CONTRACT,
    memory=Memory(100, 100),
    disk_bytes=1500,
    reserve_bytes=500,
)
WIDER = Contract(inputs=(IMAGE.model_copy(update={"shape": (9, 9, 1)}),), outputs=(SCORES,))
LISTED = Support("ai-edge-litert", "2.3.0", tuple(f"ADD/{n}" for n in range(1, 8)))

UNFIT: list[tuple[dict[str, Any], dict[str, Any], type[IncompatibleBundle], str]] = [
    ({"min_litert": "2.3.1"}, {}, RuntimeTooOld, "it needs LiteRT 2.3.1, the device has ai-edge-litert 2.3.0"),
    ({"min_litert": "1.0"}, {"support": Support("tflite-runtime", "2.14.0")}, RuntimeTooOld, "has tflite-runtime"),
    ({"delegates": ("edgetpu",)}, {}, DelegateMissing, "it needs the delegate edgetpu, the device has none"),
    ({"delegates": ("edgetpu",)}, {"delegates": frozenset({"gpu"})}, DelegateMissing, "the device has gpu"),
    ({}, {"support": Support("ai-edge-litert", "2.3.0", ("ADD/9",))}, OperatorMissing, "2.3.0 does not run ADD/9"),
    ({}, {"support": LISTED}, OperatorMissing, "ADD/5 and 2 more"),
    ({"contract": WIDER}, {}, ContractBroken, r"image FP32 \[n, 8, 8, 1\] becomes image FP32 \[n, 9, 9, 1\]"),
    ({"memory_bytes": 101}, {}, OverMemory, "it needs 101 bytes of memory, 100 can be had"),
    ({"disk_bytes": 1001}, {}, OverSize, "it takes 1001 bytes, the whole disk has room for 1000"),
    ({}, {"disk_bytes": 100}, OverSize, "room for 0"),
    ({}, {"max_bundle_bytes": 999}, OverSize, "it takes 1000 bytes, install.max_bundle_bytes is 999"),
]


def test_what_fits_exactly_is_not_refused() -> None:
    check(NEEDS, FACTS)
    check(NEEDS.model_copy(update={"min_litert": "2.3"}), replace(FACTS, max_bundle_bytes=1000))
    check(NEEDS.model_copy(update={"contract": WIDER}), replace(FACTS, contract=None))
    check(NEEDS.model_copy(update={"delegates": ("gpu",)}), replace(FACTS, delegates=frozenset({"gpu", "npu"})))


@pytest.mark.parametrize(("needs", "facts", "error", "text"), UNFIT)
def test_each_rule_has_an_error_of_its_own(
    needs: dict[str, Any], facts: dict[str, Any], error: type[IncompatibleBundle], text: str
) -> None:
    with pytest.raises(IncompatibleBundle, match=text) as caught:
        check(NEEDS.model_copy(update=needs), replace(FACTS, **facts))
    assert type(caught.value) is error


def test_all_that_is_broken_is_said_and_the_first_decides() -> None:
    needs = NEEDS.model_copy(update={"min_litert": "9", "memory_bytes": 999, "contract": WIDER})
    with pytest.raises(RuntimeTooOld) as caught:
        check(needs, FACTS)
    assert [part in caught.value.why for part in ("LiteRT 9", "programs here would break", "999 bytes of memory")] == [
        True
    ] * 3


def test_every_rule_is_tried_and_no_two_have_one_code() -> None:
    assert {error for *_, error, _ in UNFIT} == {error for error, _ in RULES}
    assert len({error.code for error, _ in RULES}) == len(RULES)


def test_memory_that_is_short_for_the_moment_is_no_fault_of_the_bundle() -> None:
    check_memory_now(NEEDS, Memory(1000, 100))
    with pytest.raises(NoMemory, match="99 bytes are free, 100 are needed"):
        check_memory_now(NEEDS, Memory(1000, 99))
