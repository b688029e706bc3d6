"""Which operators this device can run: ``python -m dsops_agent.runtime.supports OPERATOR ...``.

Asked in a process of its own, because the control process loads no runtime. It prints one JSON object: ``runtime``,
``version``, and ``missing``, those of the operators that the device cannot run.

The runtime itself is asked, not a table: it resolves every operator code of a file, by number and version, when an
interpreter is made of it (``BuildLocalIndexToRegistrationMapping`` in TensorFlow Lite's ``interpreter_builder.cc``).
What the structural check admits nowhere is missing as well, for no payload with it would be loaded.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from dsops.errors import DsopsError
from dsops.needs import parse_operator
from dsops.tflite_lint import OperatorCode, why_not_admitted
from dsops.tflite_lint.schema import Op
from dsops_agent.runtime.engine import DEVICE_LIMITS
from dsops_agent.runtime.litert import Runtime, find_runtime
from dsops_agent.runtime.probe_model import probe_model


def supports(operators: Sequence[str]) -> dict[str, object]:
    """Return the runtime, and which operators it cannot run here.

    Raises:
        RuntimeMissing: There is no runtime.
    """
    runtime = find_runtime()
    missing = [name for name in operators if not is_supported(runtime, name)]
    return {"runtime": runtime.name, "version": runtime.version, "missing": missing}


def is_supported(runtime: Runtime, operator: str) -> bool:
    """Return whether an operator, as a manifest names it, runs here; one that nobody knows does not."""
    name, version, is_custom = parse_operator(operator)
    if is_custom:
        return not why_not_admitted(OperatorCode(Op.CUSTOM, Op.CUSTOM, name, version), DEVICE_LIMITS)
    op = Op.__members__.get(name)
    if op is None or why_not_admitted(OperatorCode(op, op, "", version), DEVICE_LIMITS):
        return False
    try:
        runtime.module.Interpreter(model_content=probe_model(op, version))
    except (ValueError, RuntimeError):
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer for the operators that are named."""
    parser = argparse.ArgumentParser(prog="dsops_agent.runtime.supports", description="Asks the runtime.")
    parser.add_argument("operators", nargs="*")
    options = parser.parse_args(arguments)
    try:
        result = {"ok": True, **supports(options.operators)}
    except DsopsError as error:
        result = {"ok": False, "error": error.as_dict()}
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
