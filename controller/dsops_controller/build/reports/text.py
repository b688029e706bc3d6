"""How the reports write figures, for people."""

import math

_SHARES = ("accuracy", "top5_accuracy", "agreement", "recall", "precision")
_TITLES = {
    "accuracy": "accuracy",
    "top5_accuracy": "top-5 accuracy",
    "f1_macro": "F1 (macro)",
    "f1_weighted": "F1 (weighted)",
    "auc": "AUC",
    "ece": "calibration error",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R\N{SUPERSCRIPT TWO}",
    "mean_error": "mean error",
}
_MIB = 1 << 20
NONE = "\N{EN DASH}"


def title(name: str) -> str:
    """Return what people call a metric."""
    return _TITLES.get(name, clean(name))


def metric(name: str, value: float | None) -> str:
    """Return a metric's value: shares as percent, all else with four digits."""
    if value is None:
        return NONE
    if name in _SHARES:
        return f"{value * 100:.2f} %"
    return f"{value:.4f}" if 0.01 <= abs(value) < 10 else number(value)


def drop(name: str, value: float) -> str:
    """Return how much worse a metric is, below zero when it is better; shares in percentage points."""
    if abs(value) < 1e-9:
        return "0"
    return f"{value * 100:.2f} pp" if name in _SHARES else f"{value:.3g}"


def against(name: str, value: float) -> str:
    """Return how a drop compares with the float model, in words."""
    if abs(value) < 1e-9:
        return "as float"
    return f"{drop(name, abs(value))} {'worse' if value > 0 else 'better'} than float"


def number(value: float) -> str:
    """Return a number with four digits, and no more places than it has."""
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{value:.0f}"
    return f"{value:.4g}" if 1e-4 <= abs(value) < 1e6 else f"{value:.2e}"


def size(count: float) -> str:
    """Return a number of bytes in binary units."""
    if abs(count) < 1024:
        return f"{count:.0f} B"
    return f"{count / 1024:.1f} KiB" if abs(count) < _MIB else f"{count / _MIB:.1f} MiB"


def duration(micros: float) -> str:
    """Return a time given in microseconds."""
    if micros < 1000:
        return f"{micros:.3g} \N{MICRO SIGN}s"
    return f"{micros / 1e3:.3g} ms" if micros < 1e6 else f"{micros / 1e6:.3g} s"


def count(value: float) -> str:
    """Return a large count in thousands, millions or billions."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.0f}"


def share(part: float, whole: float) -> str:
    """Return a part of a whole as percent."""
    return f"{part / whole * 100:.1f} %" if whole else NONE


def ratio(before: float, after: float, less: str, more: str) -> str:
    """Return how many times smaller or larger a figure became, in the words for it."""
    if before <= 0 or after <= 0:
        return NONE
    factor = max(before / after, after / before)
    if factor < 1.005:
        return "same"
    return f"{factor:.2f}\N{MULTIPLICATION SIGN} {less if after < before else more}"


def clean(text: str) -> str:
    """Return a text that others wrote, without what does not print: it could hide or move what stands around it."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def short(text: str, width: int) -> str:
    """Return the beginning of a cleaned text."""
    shown = clean(text)
    return shown if len(shown) <= width else shown[: width - 1] + "\N{HORIZONTAL ELLIPSIS}"
