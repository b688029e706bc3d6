"""A device that cannot use its accelerator now: the bundle that needs it is refused, and may be tried again."""

from typing import Any

import pytest

from dsops.errors import DelegateMissing
from dsops.states import Install


@pytest.mark.parametrize(
    ("fault", "ends"), [("prove_faults", Install.REJECTED), ("activate_faults", Install.ROLLED_BACK)]
)
def test_a_bundle_whose_delegate_is_not_there_is_not_condemned(
    world: Any, bundle: Any, fault: str, ends: Install
) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    getattr(world.runtime, fault)[two.sha256] = DelegateMissing("the model does not run without its delegate")
    state = world.install(2, two)
    assert (state.install, state.problem.code) == (ends, DelegateMissing.code)
    assert (state.active, world.runtime.serving["digits"]) == (one.sha256, one.sha256)
    assert state.quarantined == ()
    getattr(world.runtime, fault).clear()
    world.direct(3, one)
    world.settle()
    world.direct(4, two)
    assert world.settle().install is Install.COMMITTED
    world.check_end()
