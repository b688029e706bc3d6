"""Data sets by the command line against a controller."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsops.manifest import TensorSpec
from dsops_controller.build.data import read_data

pytestmark = pytest.mark.integration

Dsops = Callable[..., Any]
STREAM = (b"s" * 16).hex()
INPUT = TensorSpec(name="input", datatype="FP32", shape=(1, 4, 4, 1))


@pytest.fixture(autouse=True)
def labelled(dsops: Dsops, tmp_path: Path) -> None:
    """Fifteen samples of cam-1, labelled as the device said."""
    assert dsops("sample", "label", "classes", "animals", "cat", "dog", "fox").code == 0
    rows = dsops("sample", "list", "--device", "cam-1", "-o", "json").result
    lines = [f"{row['id']},{row['predicted']},ann" for row in rows]
    (tmp_path / "labels.csv").write_text("\n".join(["sample,label,labeller", *lines]))
    assert dsops("sample", "label", "import", tmp_path / "labels.csv").code == 0


def test_a_data_set_is_made_exported_for_a_build_and_compared(dsops: Dsops, tmp_path: Path) -> None:
    create = (
        "dataset",
        "create",
        "field",
        "--model",
        "animals",
        "--device",
        "cam-1",
        "--validation",
        "0",
        "--test",
        "0",
    )
    made = dsops(*create, "-o", "json").result
    assert (made["is_new"], made["samples"]) == (True, 15)
    assert dsops(*create, "-o", "json").result["reference"] == made["reference"]
    assert "CLASS" in dsops(*create).out

    file = tmp_path / "training.npz"
    assert dsops("dataset", "export", "field", file, "--split", "training").code == 0
    data = read_data(file, [INPUT], "the training data", needs_truth=True)
    assert (len(data), sorted(set(data.y.tolist() if data.y is not None else []))) == (15, [0, 1, 2])
    assert dsops("dataset", "export", "field", tmp_path / "m.jsonl", "-f", "manifest").code == 0
    assert hashlib.sha256((tmp_path / "m.jsonl").read_bytes()).hexdigest() == made["digest"]
    assert dsops("dataset", "export", "field", tmp_path / "pictures", "-f", "images").code == 0
    assert len(list((tmp_path / "pictures").glob("train/*/*.png"))) == 15

    assert dsops("sample", "label", "set", f"cam-1/{STREAM}/1", "dog", "--labeller", "ann").code == 0
    after = dsops(*create, "-o", "json").result
    change = dsops("dataset", "diff", made["reference"], after["reference"], "-o", "json").result
    assert [(one["before"], one["now"]) for one in change["relabelled"]] == [("cat", "dog")]
    assert "1 relabelled" in dsops("dataset", "diff", made["reference"], "field").err
    listed = dsops("dataset", "list", "-o", "json").result
    assert {after["reference"], made["reference"]} <= {row["reference"] for row in listed}
    assert dsops("dataset", "show", "field", "-o", "json").result["models"] == []
    assert made["reference"] in dsops("dataset", "show", made["reference"]).out


def test_erased_samples_are_gone_and_the_newest_version_is_without_them(dsops: Dsops) -> None:
    create = (
        "dataset",
        "create",
        "short",
        "--model",
        "animals",
        "--device",
        "cam-1",
        "--validation",
        "0",
        "--test",
        "0",
    )
    before = dsops(*create, "-o", "json").result
    sample = f"cam-1/{STREAM}/15"
    refused = dsops("sample", "erase", sample, "--reason", "asked for", "-o", "json")
    assert (refused.code, refused.error["hint"]) == (2, "give --yes")
    done = dsops("sample", "erase", sample, "--reason", "asked for", "--yes", "-o", "json").result
    assert (done["samples"], "short/2" in done["versions"]) == (1, True)
    assert dsops("sample", "show", sample).code == 5
    assert sample not in {row["id"] for row in dsops("sample", "list", "-o", "json").result}
    assert dsops("dataset", "show", "short", "-o", "json").result["samples"] == before["samples"] - 1
    assert dsops("dataset", "export", "short/1", "unused.npz", "-o", "json").error["code"] == "request.conflict"


def test_a_removed_version_keeps_its_manifest_and_nothing_else(dsops: Dsops) -> None:
    dsops("dataset", "create", "brief", "--model", "animals", "--device", "cam-1", "--validation", "0", "--test", "0")
    assert "dataset/brief/1" in dsops("store", "tables", "-o", "json").out
    for words, hint in ((("brief",), "brief/1"), (("brief/1",), "--yes")):
        refused = dsops("dataset", "remove", *words, "-o", "json")
        assert (refused.code, hint in refused.error["hint"]) == (2, True)
    assert dsops("dataset", "remove", "brief/1", "--yes", "-o", "json").result["is_kept"] is False
    assert "dataset/brief/1" not in dsops("store", "tables", "-o", "json").out
    assert dsops("dataset", "show", "brief", "-o", "json").result["is_kept"] is False
    assert dsops("dataset", "remove", "brief/9", "--yes", "-o", "json").code == 5


def test_what_cannot_be_is_refused_in_words(dsops: Dsops, tmp_path: Path) -> None:
    def refused(*words: str) -> tuple[int, str]:
        outcome = dsops("dataset", *words, "-o", "json")
        return outcome.code, json.loads(outcome.err.splitlines()[-1])["message"]

    assert refused("create", "Field", "--model", "animals")[0] == 2
    assert refused("create", "x", "--model", "animals", "--validation", "60", "--test", "60")[0] == 2
    assert refused("create", "x", "--model", "animals", "--labellers", "9") == (5, "no labelled sample matches")
    assert refused("show", "nothing") == (5, "there is no data set nothing")
    assert refused("show", "a/b")[0] == 2
    assert refused("diff", "nothing/1", "nothing/2")[0] == 5


def test_retraining_is_asked_for_listed_and_closed(dsops: Dsops) -> None:
    assert dsops("retrain", "request", "nothing", "-o", "json").code == 5
    dsops("dataset", "create", "again", "--model", "animals", "--device", "cam-1", "--validation", "0", "--test", "0")
    made = dsops("retrain", "request", "animals", "--dataset", "again/1", "--note", "try", "-o", "json").result
    assert (made["cause"], made["state"], made["dataset"]) == ("manual", "open", "again/1")
    assert dsops("retrain", "request", "animals", "--dataset", "again", "-o", "json").result["id"] == made["id"]
    assert made["id"][:12] in dsops("retrain", "list").out
    assert dsops("retrain", "show", made["id"][:10], "-o", "json").result["note"] == "try"
    assert dsops("retrain", "close", made["id"][:10], "-o", "json").result["state"] == "closed"
    again = dsops("retrain", "request", "animals", "--dataset", "again/1", "-o", "json")
    assert (again.code, "dsops retrain retry" in again.error["hint"]) == (6, True)
    assert dsops("retrain", "retry", made["id"][:10], "-o", "json").result["state"] == "open"
    assert dsops("retrain", "close", made["id"][:10]).code == 0
    assert dsops("trace", "device", "nobody", "-o", "json").code == 5
    assert dsops("trace", "device", "cam-1", "--at", "noon", "-o", "json").code == 2
    assert dsops("trace", "device", "cam-1", "--at", "1500-01-01", "-o", "json").code == 2
    assert dsops("trace", "device", "cam-1", "--at", "2h", "-o", "json").code in (0, 5), "so long ago is a moment too"
    assert dsops("retrain", "show", "zzz", "-o", "json").code == 5
