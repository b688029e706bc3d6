"""The golden inputs of a model that callers ask meanwhile."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from runtime_bundles import frames, make_bundle

from dsops.bundle import Bundle
from dsops.errors import DigestMismatch
from dsops_agent.runtime.engine import load_bundle
from dsops_agent.runtime.golden import check_golden


class Order:
    """Remembers which thread ran each frame."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def begin(self) -> None:
        self.threads.append(threading.get_ident())

    def end(self) -> None:
        pass


def test_callers_are_answered_between_the_golden_inputs_of_a_check(tmp_path: Path) -> None:
    made, order = make_bundle(tmp_path), Order()
    served = replace(load_bundle(Bundle.open(made.path), made.digest, 1, is_proved=True), marks=order)
    checking = threading.Thread(target=check_golden, args=(served, 0.05))
    served.infer({"image": frames(1)})
    checking.start()
    while checking.is_alive():
        served.infer({"image": frames(1)})
    mine = threading.get_ident()
    golden = [at for at, thread in enumerate(order.threads) if thread != mine]
    assert len(golden) == 8
    assert golden[-1] - golden[0] > len(golden) - 1, "no caller had a turn during the check"


def test_the_golden_inputs_of_a_proved_bundle_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    made = make_bundle(tmp_path)
    served = load_bundle(Bundle.open(made.path), made.digest, 1, is_proved=True)
    assert len(check_golden(served)) == 8
    data = bytearray(made.path.read_bytes())
    start = data.index(b"DSOPSGLD")
    data[start + 200] ^= 1
    made.path.write_bytes(data)
    with pytest.raises(DigestMismatch):
        check_golden(served)
