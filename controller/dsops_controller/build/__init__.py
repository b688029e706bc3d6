"""The build side: a trained network becomes quantized, evaluated, profiled bundles.

    from dsops_controller.build import build_bundles, build_model

    result = build_model(Path("digits"), Path("built"))
    build_bundles(result.folder, 1, Path("bundles"))

Names are loaded when they are used, so importing this package is cheap. Using one without the extra ``build`` raises
:class:`~dsops.errors.MissingExtra`.
"""

import importlib
from typing import TYPE_CHECKING

from dsops.errors import MissingExtra

if TYPE_CHECKING:
    from dsops_controller.build.authoring.init import Initiated, Wishes, init_recipe
    from dsops_controller.build.authoring.inspection import Inspection, inspect_model
    from dsops_controller.build.bundles.package import build_bundle, build_bundles
    from dsops_controller.build.conversion.convert import convert_onnx, read_model
    from dsops_controller.build.data import DataSet, read_data
    from dsops_controller.build.evaluation.answers import Question
    from dsops_controller.build.evaluation.evaluate import Evaluator, evaluate
    from dsops_controller.build.evaluation.gate import Gate, Verdict, check
    from dsops_controller.build.golden import check_golden, choose_golden
    from dsops_controller.build.litert import LitertModel
    from dsops_controller.build.meaning import Meaning
    from dsops_controller.build.profile import build_profile
    from dsops_controller.build.progress import Progress, silent
    from dsops_controller.build.quantization.quantize import OperatorRule, Quantized, QuantMode, quantize
    from dsops_controller.build.recipe import BuildResult, build_model
    from dsops_controller.build.recipe_file import Recipe, read_recipe
    from dsops_controller.build.record import BuildRecord
    from dsops_controller.build.registry import Located, ModelRegistry
    from dsops_controller.build.reports.report import Report

__all__ = [
    "BuildRecord",
    "BuildResult",
    "DataSet",
    "Evaluator",
    "Gate",
    "Initiated",
    "Inspection",
    "LitertModel",
    "Located",
    "Meaning",
    "ModelRegistry",
    "OperatorRule",
    "Progress",
    "QuantMode",
    "Quantized",
    "Question",
    "Recipe",
    "Report",
    "Verdict",
    "Wishes",
    "build_bundle",
    "build_bundles",
    "build_model",
    "build_profile",
    "check",
    "check_golden",
    "choose_golden",
    "convert_onnx",
    "evaluate",
    "init_recipe",
    "inspect_model",
    "quantize",
    "read_data",
    "read_model",
    "read_recipe",
    "silent",
]

_MODULES = {
    "evaluation.answers": ("Question",),
    "conversion.convert": ("convert_onnx", "read_model"),
    "data": ("DataSet", "read_data"),
    "evaluation.evaluate": ("Evaluator", "evaluate"),
    "evaluation.gate": ("Gate", "Verdict", "check"),
    "golden": ("check_golden", "choose_golden"),
    "authoring.init": ("Initiated", "Wishes", "init_recipe"),
    "authoring.inspection": ("Inspection", "inspect_model"),
    "litert": ("LitertModel",),
    "meaning": ("Meaning",),
    "bundles.package": ("build_bundle", "build_bundles"),
    "profile": ("build_profile",),
    "progress": ("Progress", "silent"),
    "quantization.quantize": ("OperatorRule", "QuantMode", "Quantized", "quantize"),
    "recipe": ("BuildResult", "build_model"),
    "recipe_file": ("Recipe", "read_recipe"),
    "record": ("BuildRecord",),
    "registry": ("Located", "ModelRegistry"),
    "reports.report": ("Report",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Load a public name (PEP 562).

    Raises:
        MissingExtra: The extra ``build`` is not installed.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ImportError as error:
        if (error.name or "").startswith("dsops"):
            raise
        raise MissingExtra(
            f"{name} needs the extra 'build'", why=f"{error.name} is not installed", hint="pip install 'dsops[build]'"
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)
