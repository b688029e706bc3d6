"""What leaves for other programs does no harm there: names of folders, cells of tables, XML, archives."""

import csv
import io
import json
import struct
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dsops.errors import InvalidInput, NotFound, ServerUnreachable
from dsops_controller.cli import unpack
from dsops_controller.dataops.samples import exports, label_tasks
from dsops_controller.dataops.samples.exports import Form, Only
from dsops_controller.dataops.samples.sample_reading import FullSample, SampleTensor
from dsops_controller.dataops.samples.samples import SampleRow

TENSOR = SampleTensor("FP32", (1, 2, 2, 1), struct.pack("<4f", 0.0, 0.25, 0.5, 1.0))
ROW = SampleRow(
    id="cam-1/aa/1", device="cam-1", model="digits", release=2, digest="ab" * 32, time=datetime(2026, 1, 1, tzinfo=UTC),
    reason="drift", score=0.5, inclusion=0.1, request_id="r", predicted="seven", datatype="FP32", shape=(1, 2, 2, 1),
    input_bytes=16,
)  # fmt: skip
SAMPLE = FullSample(ROW, TENSOR, SampleTensor("FP32", (1, 2), struct.pack("<2f", 0.75, 0.25)))


def rows(samples: list[FullSample], given: dict[str, dict[str, str]]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(exports.export(Form.CSV, samples, given).decode())))


def test_a_label_stands_in_a_table_only_when_all_agree() -> None:
    (agreed,) = rows([SAMPLE], {ROW.id: {"ann": "7", "bob": "7"}})
    (disputed,) = rows([SAMPLE], {ROW.id: {"ann": "7", "bob": "1"}})
    assert (agreed["label"], disputed["label"]) == ("7", "")
    assert json.loads(disputed["labels"]) == {"ann": "7", "bob": "1"}


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx"])
def test_no_cell_is_a_formula(text: str) -> None:
    (row,) = rows([replace(SAMPLE, row=replace(ROW, predicted=text))], {})
    assert row["predicted"] == "'" + text


@pytest.mark.parametrize("label", ["../../etc", "a/b", "..", ".hidden", "a\\b", "/", "x" * 300, "con:1"])
def test_a_label_never_leads_out_of_its_folder(label: str) -> None:
    name = exports.folder_name(label)
    assert name not in ("", ".", "..")
    assert not set(name) & set("/\\:")
    assert not name.startswith(".")
    assert len(name) < 100
    assert name != exports.folder_name(label + "!")


def test_folders_of_plain_labels_are_named_as_they_are() -> None:
    assert [exports.folder_name(name) for name in ("seven", "été", None)] == ["seven", "été", "_unlabelled"]


def test_the_interface_is_xml_whatever_the_classes_are_called() -> None:
    text = label_tasks.interface(('a"<b>', "c & d"))
    assert [choice.get("value") for choice in ElementTree.fromstring(text).iter("Choice")] == ['a"<b>', "c & d"]
    assert ElementTree.fromstring(label_tasks.interface((), "text")).find("Number") is not None


def test_tasks_of_numbers_and_of_what_is_no_picture() -> None:
    flat = replace(SAMPLE, input=SampleTensor("FP32", (1, 4), TENSOR.data), row=replace(ROW, predicted="2.5"))
    (task,) = json.loads(label_tasks.tasks([flat], {ROW.id: {"ann": "3"}}, numeric=True))
    assert task["data"]["text"] == "0 0.25 0.5 1"
    assert task["data"]["labels"] == {"ann": "3"}
    assert task["predictions"][0]["result"][0]["value"] == {"number": 2.5}
    assert task["predictions"][0]["score"] == 0.75
    unsure = replace(SAMPLE, output=SampleTensor("FP32", (1, 2), struct.pack("<2f", 5.0, -3.0)))
    (task,) = json.loads(label_tasks.tasks([unsure], {}))
    assert "score" not in task["predictions"][0]


def test_samples_are_chosen_by_what_labellers_said() -> None:
    said: list[dict[str, str]] = [{}, {"ann": "1"}, {"ann": "1", "bob": "1"}, {"ann": "1", "bob": "2"}]
    admitted = {only: [only.admits(given) for given in said] for only in Only}
    assert admitted == {
        Only.LABELLED: [False, True, True, True],
        Only.UNLABELLED: [True, False, False, False],
        Only.DISPUTED: [False, False, False, True],
    }


def test_nothing_to_export_is_said() -> None:
    for form in Form:
        with pytest.raises(NotFound):
            exports.export(form, [], {})
    flat = replace(SAMPLE, input=SampleTensor("FP32", (1, 4), TENSOR.data))
    with pytest.raises(InvalidInput, match="no picture"):
        exports.export(Form.IMAGES, [flat], {})


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name in names:
            made.writestr(name, b"x")
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a\\..\\x"])
def test_an_archive_cannot_write_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(ServerUnreachable):
        unpack.unpack(archive("ok", name), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "x").exists()


def test_an_archive_appears_whole_and_a_rest_of_before_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "old").write_text("")
    assert unpack.unpack(archive("a/b", "c"), tmp_path / "out") == 2
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["a", "b", "c"]
    with pytest.raises(ServerUnreachable):
        unpack.unpack(b"no archive", tmp_path / "other")
    with pytest.raises(InvalidInput):
        unpack.check_folder(tmp_path / "out")
    with pytest.raises(InvalidInput):
        unpack.check_folder(tmp_path / "absent" / "out")
    unpack.check_folder(tmp_path / "new")
