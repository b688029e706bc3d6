"""Commands against a running controller: what they print, and how they end."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

Dsops = Callable[..., Any]
MakeBundle = Callable[..., Path]
UNKNOWN = "0" * 64


def push(dsops: Dsops, site: Any, bundle: Path) -> Any:
    signed = dsops("bundle", "sign", bundle, "--keys", site.keys)
    assert signed.code == 0, signed.err
    return dsops("bundle", "push", bundle, "-o", "json")


def releases(dsops: Dsops) -> set[int]:
    return {row["release"] for row in dsops("bundle", "list", "-o", "json").result}


def flip_last_byte(bundle: Path) -> None:
    data = bytearray(bundle.read_bytes())
    data[-1] ^= 1
    bundle.write_bytes(data)


def test_a_bundle_goes_from_file_to_controller(dsops: Dsops, site: Any, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(1)
    pushed = push(dsops, site, bundle)
    assert (pushed.code, pushed.result["path"]) == (0, "digits/1.int8.bundle")
    (row,) = [row for row in dsops("bundle", "list", "-o", "json").result if row["release"] == 1]
    assert row["sha256"] == pushed.result["sha256"]
    line = next(line for line in dsops("bundle", "list").out.splitlines() if row["sha256"] in line)
    assert line.split() == ["digits", "1", "int8", str(bundle.stat().st_size), row["sha256"]]
    shown = dsops("bundle", "show", "digits/1", "-o", "json").result
    assert shown["manifest"] == dsops("bundle", "show", bundle, "-o", "json").result["manifest"]
    verified = dsops("bundle", "verify", bundle, "--root", site.root, "-o", "json")
    assert verified.result["signed"] == "yes, as digits/1.int8.bundle"


def test_a_push_can_be_repeated(dsops: Dsops, site: Any, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(2)
    first = push(dsops, site, bundle)
    again = dsops("bundle", "push", bundle, "-o", "json")
    assert (again.code, again.result["sha256"]) == (0, first.result["sha256"])


def test_a_release_keeps_its_bytes(dsops: Dsops, site: Any, make_bundle: MakeBundle) -> None:
    first = push(dsops, site, make_bundle(3))
    other = make_bundle(3, "other")
    refused = dsops("bundle", "sign", other, "--keys", site.keys, "-o", "json")
    if refused.code == 0:
        refused = dsops("bundle", "push", other, "-o", "json")
    assert (refused.code, refused.error["code"]) == (6, "request.conflict")
    assert dsops("bundle", "show", "digits/3", "-o", "json").result["sha256"] == first.result["sha256"]


def test_a_flipped_byte_is_found_before_anything_is_sent(dsops: Dsops, site: Any, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(4)
    assert dsops("bundle", "sign", bundle, "--keys", site.keys).code == 0
    flip_last_byte(bundle)
    for verb in ("verify", "push"):
        refused = dsops("bundle", verb, bundle, "-o", "json")
        assert (refused.code, refused.error["code"]) == (7, "bundle.digest_mismatch")
    assert 4 not in releases(dsops)


def test_a_cut_bundle_is_malformed(dsops: Dsops, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(4)
    bundle.write_bytes(bundle.read_bytes()[:-100])
    refused = dsops("bundle", "verify", bundle, "-o", "json")
    assert (refused.code, refused.error["code"]) == (7, "bundle.malformed")


def test_the_signature_of_another_bundle_is_refused(dsops: Dsops, site: Any, make_bundle: MakeBundle) -> None:
    bundle, other = make_bundle(5), make_bundle(5, "other")
    assert dsops("bundle", "sign", other, "--keys", site.keys).code == 0
    refused = dsops("bundle", "push", bundle, "--role", f"{other}.role.json", "-o", "json")
    assert (refused.code, refused.error["code"]) == (7, "bundle.untrusted")
    assert 5 not in releases(dsops)


def test_a_key_of_another_fleet_is_refused(dsops: Dsops, site: Any, other_site: Any, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(6)
    theirs = next((other_site.server / "trust").rglob("*model-digits.json"))
    signed = dsops("bundle", "sign", bundle, "--keys", other_site.keys, "--role", theirs, "-o", "json")
    assert signed.code == 0, signed.err
    refused = dsops("bundle", "push", bundle, "-o", "json")
    assert (refused.code, refused.error["code"]) == (7, "bundle.untrusted")
    assert 6 not in releases(dsops)


def test_a_bundle_without_signature_is_not_pushed(dsops: Dsops, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(7)
    refused = dsops("bundle", "push", bundle, "-o", "json")
    assert (refused.code, refused.error["message"]) == (2, f"{bundle}.role.json is missing")
    assert "dsops bundle sign" in refused.error["hint"]


def test_bundles_that_are_not_there(dsops: Dsops, tmp_path: Path, make_bundle: MakeBundle) -> None:
    for words, code in (
        (("bundle", "show", "digits/99"), 5),
        (("bundle", "show", "digits"), 2),
        (("bundle", "show", "Bad Name/1"), 2),
        (("bundle", "show", ""), 2),
        (("bundle", "verify", tmp_path / "none.bundle"), 2),
        (("bundle", "push", tmp_path / "none.bundle"), 2),
        (("bundle", "sign", make_bundle(8), "--keys", tmp_path / "none"), 5),
        (("bundle", "verify", make_bundle(8), "--root", tmp_path / "none"), 2),
    ):
        assert dsops(*words, "-o", "json").code == code, words


def test_devices_and_their_tokens(dsops: Dsops, tmp_path: Path) -> None:
    file = tmp_path / "token"
    made = dsops("device", "token", "cam-1", "--to", file)
    assert (made.code, made.out) == (0, "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() not in made.err
    assert len(file.read_text()) >= 32
    printed = dsops("device", "token", "cam-1").out.strip()
    assert printed
    assert printed != file.read_text()
    assert dsops("device", "token", "cam-1", "-o", "json").result["expires"].endswith("Z")
    (row,) = [row for row in dsops("device", "list", "-o", "json").result if row["id"] == "cam-1"]
    assert (row["state"], row["online"], row["runs"], row["last_seen"]) == ("pending", False, [], "-")
    assert ["cam-1", "pending", "no", *["-"] * 5] in [line.split() for line in dsops("device", "list").out.splitlines()]
    assert dsops("device", "show", "cam-1", "-o", "json").result["id"] == "cam-1"


def test_a_token_file_that_cannot_be_written_costs_no_token(dsops: Dsops, tmp_path: Path) -> None:
    for to in (tmp_path / "none" / "token", tmp_path):
        refused = dsops("device", "token", "cam-lost", "--to", to, "-o", "json")
        assert (refused.code, refused.error["code"]) == (2, "request.invalid_input")
    assert dsops("device", "show", "cam-lost").code == 5


def test_devices_that_are_not_there(dsops: Dsops) -> None:
    assert dsops("device", "show", "nobody", "-o", "json").error["code"] == "request.not_found"
    for name in ("", "a/b", "..", "a b", "x" * 65, "controller", "é"):
        for verb in ("show", "token"):
            refused = dsops("device", verb, name, "-o", "json")
            assert (refused.code, refused.error["code"]) == (2, "request.invalid_input"), (verb, name)


def test_rollouts_of_what_is_not_there(dsops: Dsops, site: Any, make_bundle: MakeBundle) -> None:
    push(dsops, site, make_bundle(9))
    for words, code in (
        (("create", "digits/99"), 5),
        (("create", "other/1"), 5),
        (("create", "digits"), 2),
        (("create", "digits/9", "--device", "nobody"), 2),
        (("create", "digits/9", "--wave", "0"), 2),
        (("create", "digits/9", "--wave", "101%"), 2),
        (("create", "digits/9", "--wave", "nan%"), 2),
        (("create", "digits/9", "--wave", "x%"), 2),
        (("create", "digits/9", "--timeout", "nan"), 2),
        (("create", "digits/9", "--timeout", "inf"), 2),
        (("status", "ro-000000000000"), 5),
        (("status", "../summary"), 5),
        (("status", ".."), 2),
        (("status", "ro-000000000000", "--wait"), 5),
        (("abort", "ro-000000000000"), 5),
        (("resume", "ro-000000000000"), 5),
    ):
        refused = dsops("rollout", *words, "-o", "json")
        assert (refused.code, refused.out) == (code, ""), (words, refused.err)
        assert refused.error["message"]
    assert dsops("rollout", "list", "-o", "json").result == []


def test_an_empty_store(dsops: Dsops, tmp_path: Path) -> None:
    for words in (
        ("drift", "show"),
        ("sample", "list"),
        ("telemetry", "show"),
        ("telemetry", "kpis"),
        ("drift", "show", "digits"),
    ):
        empty = dsops(*words)
        assert (empty.code, empty.out, empty.err) == (0, "", "(none)\n"), words
        assert dsops(*words, "-o", "json").result == []
    none = dsops("sample", "export", tmp_path / "s.npz", "-o", "json")
    assert (none.code, none.error["code"]) == (5, "request.not_found")
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_looked_over_and_tended(dsops: Dsops, site: Any) -> None:
    listed = dsops("store", "tables", "-o", "json").result
    assert {(row["table"], row["rows"], row["first_day"]) for row in listed} >= {
        ("telemetry", 0, None),
        ("samples", 0, None),
    }
    whole = dsops("store", "check", "-o", "json")
    assert (whole.code, whole.result["level"]) == (0, "info")
    for words in (("compact",), ("retain",), ("vacuum", "--hours", "2")):
        tended = dsops("store", *words, "-o", "json")
        assert (tended.code, {row["removed_files"] for row in tended.result}) == (0, {0}), words
    assert dsops("store", "vacuum", "--hours", "0").code == 2
    log = site.server / "lake/hosts/_delta_log" / f"{0:020d}.json"
    whole_log = log.read_bytes()
    (newer,) = (site.server / "lake/hosts/_delta_log").glob("*.checkpoint.parquet")
    checkpoint = newer.read_bytes()
    try:
        log.write_text("{")
        newer.unlink()
        damaged = dsops("store", "check")
        assert damaged.code == 3
        assert "hosts" in damaged.out
        assert "backup" in damaged.out
    finally:
        log.write_bytes(whole_log)
        newer.write_bytes(checkpoint)
    assert dsops("store", "check").code == 0


def test_the_figures_of_the_controller(dsops: Dsops) -> None:
    status = dsops("server", "status", "-o", "json").result
    assert status["records_stored"] == 0
    assert status["mqtt"]["connected"] is False
    assert "mqtt.connected" in dsops("server", "status").out


def test_an_error_is_three_lines_on_standard_error(dsops: Dsops) -> None:
    refused = dsops("device", "show", "a b")
    assert refused.out == ""
    first, why, do = refused.err.splitlines()
    assert first == "error[request.invalid_input]: 'a b' is not a device name"
    assert why.startswith("  why: ")
    assert do.startswith("  do: ")


def test_the_traceback_comes_only_when_asked_for(dsops: Dsops) -> None:
    for words in (("--debug", "device", "show", "nobody"), ("device", "show", "nobody", "--debug")):
        refused = dsops(*words)
        assert refused.code == 5
        assert "Traceback" in refused.err
    assert "Traceback" not in dsops("device", "show", "nobody").err


def test_a_wrong_token_is_an_authentication_error(dsops: Dsops, site: Any, tmp_path: Path) -> None:
    context = tmp_path / "operator.toml"
    lines = site.context.read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("token", "ca"))]
    context.write_text("\n".join([*kept, f"ca = {json.dumps(str(site.server / 'ca' / 'ca.crt'))}", 'token = "guess"']))
    refused = dsops("device", "list", "--context", context, "-o", "json")
    assert (refused.code, refused.error["code"]) == (4, "request.unauthorized")


def test_a_controller_with_another_authority_is_not_believed(
    dsops: Dsops, site: Any, other_site: Any, tmp_path: Path
) -> None:
    context = tmp_path / "operator.toml"
    text = site.context.read_text().replace("ca/ca.crt", str(other_site.server / "ca" / "ca.crt"))
    context.write_text(text)
    refused = dsops("device", "list", "--context", context, "-o", "json")
    assert (refused.code, refused.error["code"]) == (1, "transport.server_unreachable")
    assert refused.error["why"].startswith("certificate verify failed")
