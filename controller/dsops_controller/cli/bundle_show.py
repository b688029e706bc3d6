"""What people see of a bundle: everything that it says of itself, in sections that fit 80 columns."""

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsops.bundle import Bundle, file_digest
from dsops.errors import BundleError, InvalidModel
from dsops.golden import GoldenSet
from dsops.manifest import Manifest
from dsops.profile import Profile
from dsops.sealing import ContentKey, read_blob
from dsops.tflite_lint import LintLimits, lint
from dsops_controller.cli import output, session
from dsops_controller.cli.content_keys import find_key

WIDTH = 80
_SHOWN = 12
"""Labels, or numbers of a channel each, that a table names before it says how many more there are."""
_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")
Facts = dict[str, Any]


def describe(path: Path, content_keys: Sequence[Path] = ()) -> Facts:
    """Return everything that a bundle file says of itself; a part that is damaged, or encrypted, is a ``problem``.

    Args:
        path: The bundle file.
        content_keys: Files with secrets; a sealed bundle is looked into if one fits.

    Raises:
        MalformedBundle: It is not a bundle.
        ContentSealed: None of the secrets fits.
        MissingExtra: The build side is not installed.
    """
    opened = Bundle.open(path)
    key = find_key(opened.manifest, content_keys) if content_keys else None
    parts = _Parts(opened, key)
    sha256, length = file_digest(path)
    facts: Facts = {"file": path.name, "sha256": sha256, "length_bytes": length}
    return summary(opened.manifest) | facts | {name: _sound(read, parts) for name, read in _PARTS.items()}


def summary(manifest: Manifest) -> Facts:
    """Return a manifest, with what identifies it in front."""
    named = {"model": manifest.model, "release": manifest.release, "variant": manifest.variant}
    return named | {"manifest": manifest.model_dump(mode="json")}


def show(facts: Mapping[str, Any], form: output.Format) -> None:
    """Print what is known of a bundle; of one on the controller that is its manifest."""
    if form is output.Format.JSON:
        output.print_json(facts)
        return
    manifest = Manifest.model_validate(facts["manifest"])
    _print_identity(facts, manifest)
    _print_tensors(manifest)
    _print_needs(manifest)
    section("METRICS", manifest.metrics)
    lineage = dict(output.flatten(manifest.lineage.model_dump(mode="json", exclude_defaults=True)))
    section("LINEAGE", {key: _abbreviated(value) for key, value in lineage.items()})
    _print_sealed(manifest)
    section("PAYLOAD", facts.get("payload"))
    _print_profile(facts.get("profile"))
    section("GOLDEN INPUTS", facts.get("golden"))
    section("PROVENANCE", facts.get("provenance"), hidden=("subjects",))
    _print_blobs(manifest)


def title(text: str) -> None:
    """Print the title of a section."""
    output.out.print(f"\n{text}", style="bold", markup=False)


def section(name: str, facts: Mapping[str, Any] | None, hidden: Sequence[str] = ()) -> None:
    """Print a section of facts; one without any is left out."""
    shown = {key: value for key, value in (facts or {}).items() if value not in (None, "", [], {})}
    if shown:
        title(name)
        output.facts(shown, output.Format.TABLE, hidden)


def table(name: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Print a section with a table; one without rows is left out."""
    if rows:
        title(name)
        output.rows(rows, columns, output.Format.TABLE)


def shortened(values: Iterable[object]) -> str:
    """Return a list as people read it: its beginning, and how many more there are."""
    every = list(values)
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return output.text(every[:_SHOWN]) + more


def _abbreviated(value: object) -> object:
    """Return a text with its digests cut short, so that a line fits."""
    return _DIGEST.sub(r"\1...", value) if isinstance(value, str) else value


def _print_identity(facts: Mapping[str, Any], manifest: Manifest) -> None:
    output.out.print(f"{manifest.model} {manifest.release} {manifest.variant}", style="bold", markup=False)
    for line in textwrap.wrap(manifest.description, WIDTH):
        output.out.print(output.text(line), markup=False)
    known = {
        "sha256": facts.get("sha256"),
        "bytes": facts.get("length_bytes"),
        "path": facts.get("path"),
        "pushed": facts.get("pushed"),
        "format": manifest.format,
        "task": manifest.task.value,
        "licence": manifest.license,
        "kpis": list(manifest.kpis),
    }
    output.facts({key: value for key, value in known.items() if value}, output.Format.TABLE)
    if manifest.labels:
        title(f"LABELS ({len(manifest.labels)})")
        for line in textwrap.wrap(shortened(manifest.labels), WIDTH):
            output.out.print(output.text(line), markup=False)


def _print_tensors(manifest: Manifest) -> None:
    columns = {"name": "NAME", "datatype": "TYPE", "shape": "SHAPE", "scale": "SCALE", "zero_point": "ZERO"}
    for name, specs in (("INPUTS", manifest.inputs), ("OUTPUTS", manifest.outputs)):
        rows = [
            {
                "name": spec.name,
                "datatype": spec.datatype,
                "shape": " x ".join(map(str, spec.shape)),
                "scale": f"{spec.scale:.6g}" if spec.scale else None,
                "zero_point": str(spec.zero_point) if spec.scale else None,
            }
            for spec in specs
        ]
        table(name, rows, columns)
    rows = [
        one.model_dump(mode="json") | {"scale": shortened(one.scale), "offset": shortened(one.offset)}
        for one in manifest.preprocessing
    ]
    wanted = ("input", "layout", "color", "resize", "scale", "offset", "raw", "raw_color", "interpolation")
    table("PREPROCESSING (real = raw * scale + offset)", rows, {key: key.upper() for key in wanted})
    section("POSTPROCESSING", manifest.postprocessing.model_dump(mode="json"))


def _print_needs(manifest: Manifest) -> None:
    needs = manifest.compatibility.model_dump(mode="json") | manifest.budgets.model_dump(mode="json")
    needs["hardware"] = needs["hardware"] or "any"
    operators = needs.pop("operators")
    section("NEEDS (0: no limit)", {key: value for key, value in needs.items() if value not in ("", [])})
    if operators:
        title(f"OPERATORS ({len(operators)}, each with its version)")
        for line in textwrap.wrap(", ".join(operators), WIDTH):
            output.out.print(output.text(line), markup=False)


def _print_sealed(manifest: Manifest) -> None:
    sealed = manifest.sealed
    if sealed is not None:
        facts = {"blobs": [blob.name for blob in sealed.blobs], "scheme": sealed.scheme, "key id": sealed.key_id}
        section("SEALED (encrypted; devices get the key with their directive)", facts)


def _print_profile(facts: Mapping[str, Any] | None) -> None:
    if facts is None:
        return
    if "problem" in facts:
        section("PROFILE", facts)
        return
    frames, alarm = facts["n_ref"], output.text(facts["alarm_score"])
    table(
        f"PROFILE ({frames} reference frames, drift from a score of {alarm} on)",
        facts["signals"],
        {"name": "SIGNAL", "kind": "KIND", "bins": "BINS", "low": "LOW", "high": "HIGH"},
    )


def _print_blobs(manifest: Manifest) -> None:
    roles = {manifest.payload: "payload", manifest.profile: "profile", manifest.golden: "golden inputs"}
    roles |= {entry.blob: entry.kind for entry in manifest.files}
    roles |= {blob: role.replace("_", " ") for role, blob in manifest.documents.model_dump().items() if blob}
    rows = [
        {"name": b.name, "role": roles[b.name], "bytes": b.size_bytes, "sha256": output.short(b.sha256)}
        for b in manifest.blobs
    ]
    table("BLOBS", rows, {"name": "NAME", "role": "ROLE", "bytes": "BYTES", "sha256": "SHA256"})


@dataclass(frozen=True)
class _Parts:
    """An opened bundle, and the key to what is sealed in it."""

    bundle: Bundle
    key: ContentKey | None

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    def read(self, name: str) -> bytes:
        return read_blob(self.bundle, name, self.key)


def _payload(bundle: _Parts) -> Facts:
    payload = session.optional("dsops_controller.build.bundles.payload", "build")
    data = bundle.read(bundle.manifest.payload)
    structure = payload.read_payload(data)
    found: Facts = structure.as_dict()
    return found | {"structure": _lint_text(data, structure.custom_operators)}


def _lint_text(data: bytes, custom_operators: Sequence[str]) -> str:
    """Say what the lint thinks of a payload; whether it admits custom operators is up to the device."""
    try:
        lint(data, LintLimits(custom_operators=frozenset(custom_operators)))
    except InvalidModel as error:
        return f"not sound: {error.why}"
    return "sound"


def _profile(bundle: _Parts) -> Facts:
    profile = Profile.decode(bundle.read(bundle.manifest.profile))
    signals = [
        {
            "name": signal.name,
            "kind": signal.kind,
            "bins": len(signal.counts),
            "low": signal.edges[0] if signal.edges else None,
            "high": signal.edges[-1] if signal.edges else None,
        }
        for signal in profile.signals
    ]
    return {"n_ref": profile.n_ref, "alarm_score": profile.alarm_score, "signals": signals}


def _golden(bundle: _Parts) -> Facts:
    golden = GoldenSet.decode(bundle.read(bundle.manifest.golden))
    tolerances = zip((tensor.name for tensor in golden.outputs), golden.tolerances, strict=True)
    labels = {label: golden.labels.count(label) for label in bundle.manifest.labels if label in golden.labels}
    return {"frames": len(golden), "tolerances": dict(tolerances), "labels": labels}


def _provenance(bundle: _Parts) -> Facts | None:
    name = bundle.manifest.documents.provenance
    if name is None:
        return None
    provenance = session.optional("dsops_controller.build.bundles.documents.provenance", "build")
    found: Facts = provenance.read_provenance(bundle.read(name))
    return found


def _sound(read: Callable[[_Parts], Facts | None], opened: _Parts) -> Facts | None:
    try:
        return read(opened)
    except BundleError as error:
        return {"problem": str(error)}


_PARTS: dict[str, Callable[[_Parts], Facts | None]] = {
    "payload": _payload,
    "profile": _profile,
    "golden": _golden,
    "provenance": _provenance,
}
