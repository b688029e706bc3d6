"""Labels as an audit: which of them say how often a model is right."""

from collections.abc import Iterable

from dsops_controller.dataops.drift.audited_errors import MARGIN, Audit, Verdict, judge
from dsops_controller.dataops.labels.coverage import agreed
from dsops_controller.dataops.labels.labels import LabelRow

AUDITED = "random"
"""Why a sample was kept that says how often a model is right."""


def of_labels(rows: Iterable[LabelRow], release: int, accuracy: float | None, margin: float = MARGIN) -> Verdict | None:
    """Return what labels say of a release; None when its accuracy at its build is not known.

    Args:
        rows: Labels of the model; of those only samples of the release count that were kept at random, for no other
            reason is a fair draw, and on which all labellers agree.
        release: Of the model.
        accuracy: Of the build.
        margin: By how much the error may be above that of the build.
    """
    if accuracy is None:
        return None
    clear, _ = agreed(rows)
    fair = [row for row in clear if row.reason == AUDITED and row.release == release]
    audits = [Audit(row.captured, row.sample, is_wrong=row.predicted != row.label, label=row.label) for row in fair]
    reference = min(max(1.0 - float(accuracy), 0.0), 1.0 - 2 * margin)
    return judge(audits, reference, margin)
