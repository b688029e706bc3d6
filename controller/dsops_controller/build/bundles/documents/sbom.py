"""The bill of materials of a bundle: CycloneDX 1.6 (ECMA-424, first edition), with a component of machine learning.

Its own fields are filled where they exist: what a model is for, how well it does, which data and tools it came from.
What CycloneDX has no field for stands in properties named ``dsops:*``. There is no time in it, and the serial number
follows from the content, so equal builds give equal bytes.
"""

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from dsops import strictjson
from dsops.manifest import Blob, TensorSpec
from dsops_controller.build.bundles.documents.modelcard import sections
from dsops_controller.build.bundles.documents.provenance import sha256_of
from dsops_controller.build.bundles.documents.subject import Subject
from dsops_controller.build.record import PAYLOAD

Json: TypeAlias = dict[str, object]

MODEL = "model"
SOURCE = "source-model"
_SPDX = re.compile(r"\(*[A-Za-z0-9.+:-]+\)*(?:\s+(?:AND|OR|WITH)\s+\(*[A-Za-z0-9.+:-]+\)*)*")
_SLICED = re.compile(r"(?P<metric>[^\[\]]+)\[(?P<slice>[^\[\]]+)\]")
_CONSIDERED = {
    "users": ("users", "intended users"),
    "useCases": ("intended use", "intended uses", "use cases", "uses", "direct use"),
    "technicalLimitations": ("limitations", "technical limitations", "out-of-scope use"),
    "performanceTradeoffs": ("trade-offs", "tradeoffs", "performance trade-offs"),
}
_ETHICAL = ("ethical considerations", "bias, risks, and limitations", "risks", "bias")


def bill_of_materials(subject: Subject) -> bytes:
    """Return the document."""
    materials = [*_source(subject), *_data_sets(subject), *_files(subject)]
    document: Json = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"tools": {"components": list(_tools(subject))}, "component": _model(subject)},
        "components": materials,
        "dependencies": [
            {"ref": MODEL, "dependsOn": sorted(str(one["bom-ref"]) for one in materials)},
            *({"ref": one["bom-ref"]} for one in materials),
        ],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_OID, strictjson.dumps(document).decode())
    return strictjson.dumps(document | {"serialNumber": serial.urn})


def _model(subject: Subject) -> Json:
    record = subject.record
    component: Json = {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": record.model,
        "version": str(subject.release),
        "hashes": _hashes(subject.payload_blob.sha256),
        "modelCard": _card(subject),
        "properties": _properties(
            {
                "dsops:variant": subject.variant.variant,
                "dsops:mode": subject.variant.mode,
                "dsops:payload": PAYLOAD,
                "dsops:payload-bytes": str(subject.payload_blob.size_bytes),
                "dsops:hardware": ", ".join(subject.variant.compatibility.hardware),
                "dsops:recipe-sha256": record.recipe_sha256,
                "dsops:training-commit": record.lineage.commit,
            }
        ),
    }
    if record.description:
        component["description"] = record.description
    if record.license:
        component["licenses"] = [_licence(record.license)]
    return component


def _card(subject: Subject) -> Json:
    record, variant = subject.record, subject.variant
    operators = {f"dsops:operator:{name}": str(count) for name, count in subject.payload.operators.items()}
    training = {f"dsops:training:{name}": value for name, value in sorted(record.lineage.parameters.items())}
    card: Json = {
        "modelParameters": {
            "task": record.task.value,
            "datasets": [{"ref": one["bom-ref"]} for one in _data_sets(subject)],
            "inputs": [{"format": _format(spec)} for spec in variant.inputs],
            "outputs": [{"format": _format(spec)} for spec in variant.outputs],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(variant.metrics))},
        "properties": _properties(
            {"dsops:parameters": str(subject.payload.parameters), "dsops:tensors": str(subject.payload.tensors)}
            | operators
            | training
        ),
    }
    considerations = _considerations(subject.model_card)
    return card | {"considerations": considerations} if considerations else card


def _considerations(text: str) -> Json:
    """Return what a model card says under the headings that people use."""
    said = sections(text)
    found: Json = {}
    for field, titles in _CONSIDERED.items():
        items = [item for title in titles for item in said.get(title, ())]
        if items:
            found[field] = items
    ethical = [{"name": item} for title in _ETHICAL for item in said.get(title, ())]
    return found | {"ethicalConsiderations": ethical} if ethical else found


def _metrics(metrics: Mapping[str, float]) -> Iterator[Json]:
    for name, value in sorted(metrics.items()):
        sliced = _SLICED.fullmatch(name)
        where = {"type": sliced["metric"], "slice": sliced["slice"]} if sliced else {"type": name}
        yield {**where, "value": repr(value)}


def _source(subject: Subject) -> Iterator[Json]:
    lineage = subject.record.lineage
    if lineage.source_sha256:
        yield {
            "type": "machine-learning-model",
            "bom-ref": SOURCE,
            "name": f"{subject.record.model} (source model)",
            "hashes": _hashes(lineage.source_sha256),
        }


def _data_sets(subject: Subject) -> Iterator[Json]:
    for purpose, digest in sorted(subject.record.lineage.datasets.items()):
        known = sha256_of(digest)
        yield {
            "type": "data",
            "bom-ref": f"data:{purpose}",
            "name": purpose,
            "data": [{"type": "dataset", "name": purpose}],
            **({"hashes": _hashes(known)} if known else {"properties": _properties({"dsops:digest": digest})}),
        }


def _files(subject: Subject) -> Iterator[Json]:
    kinds = {entry.blob: entry.kind for entry in subject.record.attachments}
    for blob in subject.blobs:
        if blob.name != PAYLOAD:
            yield _file(blob, kinds.get(blob.name, ""))


def _file(blob: Blob, kind: str) -> Json:
    entry: Json = {
        "type": "file",
        "bom-ref": f"file:{blob.name}",
        "name": blob.name,
        "hashes": _hashes(blob.sha256),
    }
    return entry | {"properties": _properties({"dsops:kind": kind})} if kind else entry


def _tools(subject: Subject) -> Iterable[Json]:
    for name, version in sorted(subject.record.tools.items()):
        yield {"type": "application", "name": name, "version": version}


def _hashes(sha256: str) -> Sequence[Json]:
    return [{"alg": "SHA-256", "content": sha256}]


def _licence(text: str) -> Json:
    return {"expression": text} if _SPDX.fullmatch(text) else {"license": {"name": text}}


def _format(spec: TensorSpec) -> str:
    scale = f", scale {spec.scale!r}, zero point {spec.zero_point}" if spec.scale else ""
    return f"{spec.name}: {spec.datatype} {list(spec.shape)}{scale}"


def _properties(values: Mapping[str, str]) -> list[Json]:
    return [{"name": name, "value": value} for name, value in values.items() if value]
