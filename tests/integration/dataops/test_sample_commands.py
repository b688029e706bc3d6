"""Samples and labels by the command line against a controller: out for labelling, in again, judged."""

import csv
import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

pytestmark = pytest.mark.integration

Dsops = Callable[..., Any]
STREAM = (b"s" * 16).hex()


def sid(number: int, device: str = "cam-1") -> str:
    return f"{device}/{STREAM}/{number}"


def grey(png: bytes) -> list[list[int]]:
    """Return the pixels of a grey PNG without filters, read by the format's rules."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    place, data, size = 8, b"", (0, 0)
    while place < len(png):
        (length,) = struct.unpack_from(">I", png, place)
        kind, body = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        assert struct.unpack_from(">I", png, place + 8 + length)[0] == zlib.crc32(kind + body)
        if kind == b"IHDR":
            size = struct.unpack_from(">II", body)
        if kind == b"IDAT":
            data += body
        place += 12 + length
    width, height = size
    lines = zlib.decompress(data)
    return [list(lines[row * (width + 1) + 1 : (row + 1) * (width + 1)]) for row in range(height)]


def test_a_sample_is_shown_with_its_tensors_in_figures_and_its_picture(dsops: Dsops, tmp_path: Path) -> None:
    listed = dsops("sample", "list", "--device", "cam-1", "-o", "json").result
    assert len(listed) == 15
    found = dsops("sample", "show", sid(3), "--image", tmp_path / "a.png", "-o", "json").result
    assert (found["predicted"], found["input"]["shape"], found["confidence"]) == (
        "fox",
        [1, 4, 4, 1],
        pytest.approx(0.8),
    )
    assert found["input"]["first"][0] == pytest.approx(14 / 255)
    assert grey((tmp_path / "a.png").read_bytes()) == [
        [14, 15, 16, 17],
        [18, 19, 20, 21],
        [22, 23, 24, 25],
        [26, 27, 28, 29],
    ]
    for wrong, code in ((sid(999), 5), ("cam-1/17", 2), ("cam-1/../1", 2)):
        assert dsops("sample", "show", wrong, "-o", "json").code == code


def test_samples_go_to_label_studio_and_come_back_with_who_said_what(dsops: Dsops, tmp_path: Path) -> None:
    assert dsops("sample", "label", "classes", "animals", "cat", "dog", "fox").code == 0
    assert dsops("sample", "export", tmp_path / "tasks.json", "--device", "cam-1").code == 0
    tasks = json.loads((tmp_path / "tasks.json").read_bytes())
    assert tasks[0]["data"]["image"].startswith("data:image/png;base64,")
    assert tasks[0]["predictions"][0]["result"][0]["value"] == {"choices": ["cat"]}
    assert tasks[0]["predictions"][0]["score"] == pytest.approx(0.8)
    interface = dsops("sample", "label", "interface", "animals").out
    assert '<Choice value="fox"/>' in interface
    assert f'name="{tasks[0]["predictions"][0]["result"][0]["from_name"]}"' in interface

    exported = tmp_path / "project.json"
    exported.write_text(json.dumps([annotated(task, number) for number, task in enumerate(tasks)]))
    taken = dsops("sample", "label", "import", exported, "-o", "json").result
    assert taken == {"added": 30, "unchanged": 0, "skipped": 1}
    assert dsops("sample", "label", "import", exported, "-o", "json").result == {
        "added": 0,
        "unchanged": 30,
        "skipped": 1,
    }
    assert dsops("sample", "show", sid(1), "-o", "json").result["labels"] == {"ann@example.org": "cat", "user-7": "cat"}

    found = dsops("sample", "quality", "animals", "-o", "json").result
    assert (found["samples"], found["twice"]) == (15, 15)
    assert [one["labels"] for one in found["disagreements"]] == [{"ann@example.org": "fox", "user-7": "dog"}]
    assert found["listed"] == ["cat", "dog", "fox"]  # fifteen samples prove little
    text = dsops("sample", "quality", "animals")
    assert "dog (1)" in text.out
    assert "alpha (nominal)" in text.err


def annotated(task: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a task as Label Studio exports it after two people labelled it, and one gave up."""

    def annotation(who: object, choice: str) -> dict[str, Any]:
        result = [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [choice]}}]
        return {
            "id": number, "completed_by": who, "was_cancelled": False, "ground_truth": False, "lead_time": 3.5,
            "created_at": "2026-11-01T10:00:00.000000Z", "updated_at": "2026-11-01T10:00:05.000000Z", "result": result,
        }  # fmt: skip

    truth = task["predictions"][0]["result"][0]["value"]["choices"][0]
    ann = annotation({"id": 4, "email": "ann@example.org"}, truth)
    bob = annotation(7, "dog" if number == 2 else truth)
    cancelled = [annotation(9, truth) | {"was_cancelled": True}] if number == 0 else []
    return task | {"id": number + 1, "annotations": [ann, bob, *cancelled]}


def test_wrong_labels_are_refused_by_line_and_nothing_is_taken(dsops: Dsops, tmp_path: Path) -> None:
    dsops("sample", "label", "classes", "animals", "cat", "dog", "fox")
    before = len(dsops("sample", "label", "list", "animals", "-o", "json").result)
    file = tmp_path / "labels.csv"
    file.write_text(
        f"sample,label,labeller\n{sid(4)},cat,cid\n\n{sid(5)},wolf,cid\n{sid(999)},cat,cid\nnonsense,cat,cid\n"
    )
    refused = dsops("sample", "label", "import", file, "-o", "json")
    assert refused.code == 2
    assert "line 6" in refused.error["why"]
    file.write_text(f"sample,label,labeller\n{sid(4)},cat,cid\n\n{sid(5)},wolf,cid\n{sid(999)},cat,cid\n")
    assert "line 5: there is no sample" in dsops("sample", "label", "import", file, "-o", "json").error["why"]
    file.write_text(f"sample,label,labeller\n{sid(4)},cat,cid\n\n{sid(5)},wolf,cid\n")
    assert (
        "line 4: 'wolf' is no class of animals" in dsops("sample", "label", "import", file, "-o", "json").error["why"]
    )
    flat = tmp_path / "min.json"
    flat.write_text(json.dumps([{"id": 1, "sample_id": sid(1), "label": "cat", "annotator": 1}]))
    refused = dsops("sample", "label", "import", flat, "-o", "json")
    assert (refused.code, "JSON-MIN" in refused.error["hint"]) == (2, True)
    assert len(dsops("sample", "label", "list", "animals", "-o", "json").result) == before


def test_a_label_that_is_given_anew_counts_and_the_one_before_stays_in_the_history(dsops: Dsops) -> None:
    dsops("sample", "label", "classes", "animals", "cat", "dog", "fox")
    one = sid(7, "cam-2")
    assert dsops("sample", "label", "set", one, "cat", "--labeller", "dan", "-o", "json").result["added"] == 1
    assert dsops("sample", "label", "set", one, "cat", "--labeller", "dan", "-o", "json").result["unchanged"] == 1
    assert dsops("sample", "label", "set", one, "dog", "--labeller", "dan").code == 0
    found = dsops("sample", "show", one, "-o", "json").result
    assert found["labels"] == {"dan": "dog"}
    assert [said["label"] for said in found["history"]] == ["cat", "dog"]


@pytest.mark.parametrize("ending", ["parquet", "arrow", "csv", "npz"])
def test_samples_are_exported_with_labels_in_the_forms_that_data_people_read(
    dsops: Dsops, tmp_path: Path, ending: str
) -> None:
    dsops("sample", "label", "classes", "animals", "cat", "dog", "fox")
    dsops("sample", "label", "set", sid(9, "cam-2"), "fox", "--labeller", "eve")
    place = tmp_path / f"samples.{ending}"
    if ending == "arrow":
        pytest.importorskip("arro3.io", reason="arro3-io is not installed: pip install 'dsops[arrow]'")
    assert dsops("sample", "export", place, "--device", "cam-2").code == 0
    rows = {row["sample"]: row for row in read(place)}
    assert len(rows) == 15
    assert rows[sid(9, "cam-2")]["label"] == "fox"
    assert rows[sid(9, "cam-2")]["predicted"] == "fox"
    if ending in ("parquet", "arrow"):
        assert struct.unpack("<16f", rows[sid(1, "cam-2")]["input"])[0] == pytest.approx(700 % 256 / 255)
        assert rows[sid(1, "cam-2")]["shape"] == [1, 4, 4, 1]


def read(place: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, read by other programs than wrote it where there are any."""
    if place.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(place.read_text())))
    if place.suffix == ".npz":
        with np.load(place, allow_pickle=False) as found:
            names = {"id": "sample", "label": "label", "predicted": "predicted"}
            columns = {new: found[old].tolist() for old, new in names.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if place.suffix == ".arrow":
        pyarrow = pytest.importorskip("pyarrow.ipc")
        rows: list[dict[str, Any]] = pyarrow.open_file(str(place)).read_all().to_pylist()
        return rows
    with duckdb.connect() as duck:
        found = duck.execute(f"select * exclude time from '{place}'")  # a time with a zone needs pytz in Python
        names = [column[0] for column in found.description or []]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def test_pictures_are_sorted_into_folders_by_label(dsops: Dsops, tmp_path: Path) -> None:
    dsops("sample", "label", "classes", "animals", "cat", "dog", "fox")
    dsops("sample", "label", "set", sid(11, "cam-2"), "dog", "--labeller", "eve")
    folder = tmp_path / "pictures"
    assert dsops("sample", "export", folder, "--format", "images", "--device", "cam-2").code == 0
    assert len(list(folder.glob("*/*.png"))) == 15
    assert {path.name for path in folder.iterdir()} >= {"dog", "_unlabelled", "manifest.csv"}
    manifest = {row["sample"]: row for row in csv.DictReader(io.StringIO((folder / "manifest.csv").read_text()))}
    assert (folder / "dog" / f"{manifest[sid(11, 'cam-2')]['sha256']}.png").exists()
    by = tmp_path / "by"
    command = ("sample", "export", by, "--format", "images", "--device", "cam-2", "--by", "predicted")
    assert dsops(*command, "--only", "unlabelled").code == 0
    assert {path.name for path in by.iterdir()} == {"cat", "dog", "fox", "manifest.csv"}
    assert not (by / "fox" / f"{manifest[sid(11, 'cam-2')]['sha256']}.png").exists()
    again = dsops("sample", "export", folder, "--format", "images", "-o", "json")
    assert (again.code, again.error["why"]) == (2, "it is there already, and not empty")
    assert dsops("sample", "export", tmp_path / "x.dat", "-o", "json").code == 2


def test_what_few_labels_cover_is_told(dsops: Dsops) -> None:
    dsops("sample", "label", "classes", "animals", "cat", "dog", "fox")
    dsops("sample", "label", "set", sid(13, "cam-2"), "cat", "--labeller", "eve")
    found = dsops("sample", "coverage", "animals", "--site", "plant-7", "-o", "json").result
    assert {"cat", "dog", "fox", "plant-7"} <= set(found["uncovered"])
    assert "COVERED" in dsops("sample", "coverage", "animals").out


def test_a_site_that_no_device_is_at_is_asked_for_nothing(dsops: Dsops) -> None:
    refused = dsops(
        "sample", "request", "animals", "--site", "hall-9", "--count", "2", "--reason", "new lamp", "-o", "json"
    )
    assert (refused.code, "hall-9" in refused.error["message"]) == (2, True)
    assert "[transfer] site" in refused.error["hint"]
