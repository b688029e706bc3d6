"""Fuzzes the lint of TFLite files: whatever it is given, it returns facts or raises InvalidModel."""

import sys

import atheris

with atheris.instrument_imports(include=["dsops"]):
    from dsops.errors import InvalidModel
    from dsops.tflite_lint import LintLimits, lint

LIMITS = (LintLimits(), LintLimits(control_flow=True, custom_operators=frozenset({"x"}), work=1 << 16))


def check(data: bytes) -> None:
    for limits in LIMITS:
        try:
            facts = lint(data, limits)
        except InvalidModel:
            continue
        assert 0 <= facts.trailing_bytes < len(data)


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
