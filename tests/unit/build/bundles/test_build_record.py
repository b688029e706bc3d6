from pathlib import Path

import pytest
from pydantic import ValidationError

from dsops.errors import InvalidInput
from dsops_controller.build import record
from dsops_controller.build.record import BuildRecord


def test_what_is_written_is_what_is_read(build: Path) -> None:
    entry = BuildRecord.read(build)
    assert BuildRecord.model_validate_json(entry.encode()) == entry
    assert (build / record.FILE_NAME).read_bytes() == entry.encode()


def test_a_folder_that_holds_no_build_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not hold a build"):
        BuildRecord.read(tmp_path)


@pytest.mark.parametrize("data", [b"{}", b"[]", b"\xff", b"{", b'{"format":1,"format":1}', b"[" * 99])
def test_a_file_that_is_no_record_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / record.FILE_NAME).write_bytes(data)
    with pytest.raises(InvalidInput, match=r"not (a build record|strict JSON)"):
        BuildRecord.read(tmp_path)


def test_an_unknown_variant_names_those_there_are(build: Path) -> None:
    entry = BuildRecord.read(build)
    assert entry.variant("int8") is entry.variants[0]
    with pytest.raises(InvalidInput, match="it has int8"):
        entry.variant("float32")


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda d: d["variants"].append(d["variants"][0]), "two variants"),
        (lambda d: d["variants"].clear(), "variants"),
        (lambda d: d["variants"][0]["files"].pop(), "other files"),
        (lambda d: d["variants"][0].update(variant="shared"), "cannot be named"),
        (lambda d: d["variants"][0].update(variant="../x"), "pattern"),
        (lambda d: d["variants"][0].update(measured_as="other"), "measured as"),
        (lambda d: d.update(shared=[]), "shared files"),
        (lambda d: d.update(model_card="card.md"), "shared files"),
        (lambda d: d.update(format=2), "format"),
        (lambda d: d.update(surprise=1), "surprise"),
    ],
)
def test_a_record_that_does_not_hold_together_is_refused(build: Path, edit: object, says: str) -> None:
    content = BuildRecord.read(build).model_dump(mode="json")
    assert callable(edit)
    edit(content)
    with pytest.raises(ValidationError, match=says):
        BuildRecord.model_validate(content)
