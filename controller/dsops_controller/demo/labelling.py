"""Two people label what came back: one knows the digits, the other slips now and then."""

import csv
import io
from functools import partial
from pathlib import Path

import numpy as np

from dsops_controller.demo.digits import LABELS, Labelled, Labels
from dsops_controller.demo.report import Report
from dsops_controller.demo.stage import MODEL, Stage

CAREFUL, HASTY = "ada", "bob"
SLIP_EVERY = 12
"""One in so many labels of the hasty one is of the next digit."""


def label(stage: Stage, report: Report, archive: Path, prefix: str, truth: Labels) -> Labelled:
    """Have two people label the frames that came back, and return the data set of what both say.

    Args:
        stage: Where commands are run.
        report: Told what came of it.
        archive: Samples as they were exported.
        prefix: Which to take: requests that are named so, with a hyphen and the number of the frame.
        truth: What each frame shows, by its number.
    """
    samples = _samples(archive, f"{prefix}-")
    labels, training = stage.folder / "labels.csv", stage.folder / "field.npz"
    write_labels(labels, list(samples.values()), truth[np.array(list(samples), dtype=np.int64)])
    run = partial(stage.commands.run, online=True)
    run("sample", "label", "import", labels, "--model", MODEL)
    alpha = run("sample", "quality", MODEL)["alpha"]["value"]
    run("dataset", "create", "field", "--model", MODEL, "--labellers", "2", "--validation", "0", "--test", "0")
    run("dataset", "export", "field/1", training)
    agreed = read_training(training)
    report.record(labelled_samples=len(samples), labels_alpha=alpha)
    report.say(
        f"{len(samples)} returned frames, each labelled by two people: alpha {alpha:.3f}; "
        f"they agree on {len(agreed)}, which are data set field/1"
    )
    return agreed


def _samples(archive: Path, prefix: str) -> dict[int, str]:
    """Return the sample of each frame by its number: one, however often the frame was shown."""
    with np.load(io.BytesIO(archive.read_bytes()), allow_pickle=False) as samples:
        named = zip(samples["request_id"].tolist(), samples["id"].tolist(), strict=True)
        return {int(name.removeprefix(prefix)): sample for name, sample in named if name.startswith(prefix)}


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
