"""The bundle commands that need no controller, and what `verify` makes of a provenance when there is one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsops.bundle import Bundle
from dsops_controller.trust.keys import KeyFolder

pytestmark = pytest.mark.integration

Run = Callable[..., Any]


@pytest.fixture(scope="session")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("owner")
    KeyFolder(folder).make("model-digits")
    return folder


@pytest.fixture
def pair(offline: Run, built: Path, owner: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two releases of a build, the newer one with provenance."""
    paths = tmp_path / "one.bundle", tmp_path / "two.bundle"
    variant = ("--variant", "int8")
    assert offline("bundle", "build", built, "-r", "1", "--to", paths[0], *variant).code == 0
    assert offline("bundle", "build", built, "-r", "2", "--to", paths[1], *variant, "--keys", owner).code == 0
    return paths


def test_a_folder_takes_the_bundle_of_each_variant(offline: Run, built: Path, tmp_path: Path) -> None:
    made = offline("bundle", "build", built, "-r", "5", "--to", tmp_path, "-o", "json")
    assert made.code == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert sorted(row["file"] for row in made.result) == names
    assert "digits-5-int8.bundle" in names
    table = offline("bundle", "build", built, "-r", "5", "--to", tmp_path, "--variant", "int8").out
    assert "digits-5-int8.bundle" in table


def test_a_variant_or_builder_that_cannot_be_is_refused(offline: Run, built: Path, owner: Path, tmp_path: Path) -> None:
    place = ("--to", tmp_path / "x.bundle", "-o", "json")
    for words, code in (
        (("--variant", "coral"), 2),
        (("--builder", "urn:acme:ci"), 2),
        (("--builder", "acme", "--keys", owner), 2),
        (("--keys", tmp_path / "none"), 5),
    ):
        refused = offline("bundle", "build", built, "-r", "1", *words, *place)
        assert (refused.code, refused.out) == (code, "")
        assert refused.error["hint"]
    assert not (tmp_path / "x.bundle").exists()


def test_show_tells_everything_within_80_columns(offline: Run, pair: tuple[Path, Path]) -> None:
    text = offline("bundle", "show", pair[1]).out
    titles = (
        "LABELS", "INPUTS", "OUTPUTS", "PREPROCESSING", "POSTPROCESSING", "NEEDS", "METRICS", "LINEAGE", "PAYLOAD",
        "PROFILE", "GOLDEN INPUTS", "PROVENANCE", "BLOBS",
    )  # fmt: skip
    assert [title for title in titles if f"\n{title}" not in text] == []
    assert [line for line in text.splitlines() if len(line) > 80] == []
    shown = offline("bundle", "show", pair[1], "-o", "json").result
    bundle = Bundle.open(pair[1])
    assert shown["manifest"] == bundle.manifest.model_dump(mode="json")
    assert shown["payload"]["parameters"] > 1000
    assert sum(shown["payload"]["operators"].values()) > 3
    assert {signal["name"] for signal in shown["profile"]["signals"]} >= {"confidence", "input_mean"}
    assert shown["provenance"]["builder"] == "urn:dsops:local-build"


def test_show_names_a_damaged_part_and_shows_the_rest(offline: Run, pair: tuple[Path, Path]) -> None:
    data = bytearray(pair[0].read_bytes())
    place = data.index(b"DSOPSGLD")
    data[place] ^= 1
    pair[0].write_bytes(data)
    shown = offline("bundle", "show", pair[0], "-o", "json")
    assert shown.code == 0
    assert "golden.bin" in shown.result["golden"]["problem"]
    assert shown.result["payload"]["structure"] == "sound"
    assert "problem" in offline("bundle", "show", pair[0]).out
    assert offline("bundle", "verify", pair[0]).code == 7


def test_diff_says_what_changed_and_what_it_costs(offline: Run, pair: tuple[Path, Path]) -> None:
    text = offline("bundle", "diff", *pair).out
    assert "UPDATE OVER THE AIR" in text
    assert [line for line in text.splitlines() if len(line) > 80] == []
    found = offline("bundle", "diff", *pair, "-o", "json").result
    assert {change["where"]: change["after"] for change in found["fields"]} == {
        "release": 2,
        "documents.provenance": "provenance.dsse.json",
    }
    assert (found["equal"], found["weights"]) == (False, [])
    assert found["update"]["length_bytes"] == pair[1].stat().st_size
    same = offline("bundle", "diff", pair[0], pair[0])
    assert (same.code, "the same bytes" in same.out) == (0, True)
    assert offline("bundle", "diff", pair[0], pair[0].parent / "none").code == 2


def test_extract_writes_checked_blobs(offline: Run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    bundle = Bundle.open(pair[1])
    made = offline("bundle", "extract", pair[1], "--to", tmp_path / "all", "-o", "json")
    assert made.code == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "all").iterdir()} == {
        blob.name: bundle.read(blob.name) for blob in bundle.manifest.blobs
    }
    assert offline("bundle", "extract", pair[1], "sbom.cdx.json", "--to", tmp_path / "one").code == 0
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["sbom.cdx.json"]


def test_extract_refuses_before_it_writes(offline: Run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    unknown = offline("bundle", "extract", pair[0], "golden.bin", "none.txt", "--to", tmp_path / "x", "-o", "json")
    assert (unknown.code, (tmp_path / "x").exists()) == (5, False)
    assert "golden.bin" in unknown.error["why"]
    pair[0].write_bytes(pair[0].read_bytes()[:-1] + b"\0")
    assert offline("bundle", "extract", pair[0], "--to", tmp_path / "x").code == 7
    assert not (tmp_path / "x").exists()
    (tmp_path / "file").write_text("")
    assert offline("bundle", "extract", pair[1], "--to", tmp_path / "file").code == 2


@pytest.mark.parametrize("verb", ["show", "verify", "sign"])
def test_a_pipe_is_refused_at_once(offline: Run, tmp_path: Path, verb: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    words = ("--keys", tmp_path) if verb == "sign" else ()
    assert offline("bundle", verb, tmp_path / "pipe", *words).code in {2, 7}


def test_verify_without_a_root_checks_what_it_can(offline: Run, pair: tuple[Path, Path]) -> None:
    assert offline("bundle", "verify", pair[0], "-o", "json").result["provenance"] == "none"
    found = offline("bundle", "verify", pair[1], "-o", "json").result
    assert "signature not checked" in found["provenance"]


def test_verify_with_a_root_asks_for_the_owners_signature(
    dsops: Run, site: Any, built: Path, owner: Path, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.bundle", tmp_path / "bad.bundle"
    for path, release, keys in ((good, "21", site.keys), (bad, "22", owner)):
        words = ("-r", release, "--to", path, "--variant", "int8", "--keys", keys, "--builder", "urn:acme:ci")
        assert dsops("bundle", "build", built, *words).code == 0
        assert dsops("bundle", "sign", path, "--keys", site.keys).code == 0
        assert dsops("bundle", "push", path).code == 0
    checked = dsops("bundle", "verify", good, "--root", site.root, "-o", "json")
    assert checked.result["provenance"] == "signed by the model's owner; built by urn:acme:ci"
    refused = dsops("bundle", "verify", bad, "--root", site.root, "-o", "json")
    assert (refused.code, refused.error["code"]) == (7, "bundle.untrusted")


def test_a_pushed_bundle_is_shown_by_its_variant(dsops: Run, site: Any, built: Path, tmp_path: Path) -> None:
    path = tmp_path / "pushed.bundle"
    assert dsops("bundle", "build", built, "-r", "23", "--to", path, "--variant", "int8").code == 0
    assert dsops("bundle", "sign", path, "--keys", site.keys).code == 0
    assert dsops("bundle", "push", path).code == 0
    for what in ("digits/23", "digits/23/int8"):
        assert "INPUTS" in dsops("bundle", "show", what).out
    assert dsops("bundle", "show", "digits/23/float32").code == 5
