"""A structural check of TFLite files, in pure Python: what passes has a shape that a runtime can hold and execute.

Runtimes trust the file. This is the layer between a signature, which says who made a file, and the process of its own
in which a runtime loads it: it refuses files that are damaged, contradict themselves, or ask for too much, and says
where. It never executes or allocates what a file describes; its own time and memory are bounded whatever it is given.
"""

from dsops.tflite_lint.checks_operators import why_not_admitted
from dsops.tflite_lint.facts import Facts, OperatorUse, TensorFacts
from dsops.tflite_lint.limits import LintLimits
from dsops.tflite_lint.linting import lint, list_operators
from dsops.tflite_lint.model import OperatorCode

__all__ = [
    "Facts",
    "LintLimits",
    "OperatorCode",
    "OperatorUse",
    "TensorFacts",
    "lint",
    "list_operators",
    "why_not_admitted",
]
