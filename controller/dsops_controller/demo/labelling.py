"""Two people label what came back: one knows the digits, the other slips now and then."""

import csv
import io
from pathlib import Path

import numpy as np

from dsops_controller.demo.digits import LABELS, Labelled, Labels

CAREFUL, HASTY = "ada", "bob"
SLIP_EVERY = 12
"""One in so many labels of the hasty one is of the next digit."""


def write_labels(path: Path, samples: list[str], truth: Labels) -> None:
    """Write a CSV file of what both say of each sample."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("sample", "label", "labeller"))
    for number, (sample, digit) in enumerate(zip(samples, truth.tolist(), strict=True)):
        slip = number % SLIP_EVERY == SLIP_EVERY - 1
        rows.writerow((sample, LABELS[digit], CAREFUL))
        rows.writerow((sample, LABELS[(digit + slip) % len(LABELS)], HASTY))
    path.write_text(text.getvalue(), encoding="utf-8")


def read_training(path: Path) -> Labelled:
    """Return what a data set was exported as."""
    with np.load(path, allow_pickle=False) as data:
        digit_of = np.array([int(name) for name in data["classes"]], np.int64)
        return Labelled(data["x"], digit_of[data["y"]])
