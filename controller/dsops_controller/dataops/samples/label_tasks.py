"""Tasks for Label Studio with what the device predicted (labelstud.io/guide/predictions), and their interface."""

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dsops_controller.dataops.samples import images
from dsops_controller.dataops.samples.sample_reading import FullSample, SampleTensor

CONTROL = "label"
IMAGE, TEXT = "image", "text"
_SHOWN = 200


def tasks(samples: Sequence[FullSample], given: Mapping[str, Mapping[str, str]], *, numeric: bool = False) -> bytes:
    """Return tasks as JSON, one a sample. Pictures are part of it (``data:`` URLs), so that no server must serve them.

    Args:
        samples: What shall be labelled.
        given: What labellers said already, by sample and labeller; shown with the task, not as an annotation.
        numeric: Labels are numbers, and so are predictions.
    """
    made = [_task(sample, given.get(sample.row.id, {}), numeric=numeric) for sample in samples]
    return json.dumps(made, separators=(",", ":"), ensure_ascii=False).encode()


def interface(classes: Sequence[str], kind: str = IMAGE) -> str:
    """Return the labelling interface (XML) that the tasks are made for: one choice of the classes, or a number."""
    shown = (
        f'  <Image name="{IMAGE}" value="${IMAGE}"/>' if kind == IMAGE else f'  <Text name="{TEXT}" value="${TEXT}"/>'
    )
    if not classes:
        return f'<View>\n{shown}\n  <Number name="{CONTROL}" toName="{kind}"/>\n</View>\n'
    choices = "".join(f'    <Choice value="{html.escape(name, quote=True)}"/>\n' for name in classes)
    control = f'  <Choices name="{CONTROL}" toName="{kind}" choice="single">\n{choices}  </Choices>'
    return f"<View>\n{shown}\n{control}\n</View>\n"


def _task(sample: FullSample, given: Mapping[str, str], *, numeric: bool) -> dict[str, Any]:
    row = sample.row
    kind = IMAGE if images.size_of(sample.input.shape) else TEXT
    data: dict[str, Any] = {
        "sample_id": row.id,
        "device": row.device,
        "model": row.model,
        "release": row.release,
        "captured": row.time.isoformat(),
        "reason": row.reason,
        kind: _picture(sample.input) if kind == IMAGE else _text(sample.input),
    }
    if given:
        data["labels"] = dict(given)
    task: dict[str, Any] = {"data": data}
    if row.predicted:
        task["predictions"] = [_prediction(sample, kind, numeric=numeric)]
    return task


def _prediction(sample: FullSample, kind: str, *, numeric: bool) -> dict[str, Any]:
    value: dict[str, Any] = {"choices": [sample.row.predicted]}
    if numeric:
        value = {"number": float(sample.row.predicted)}
    answer = {"from_name": CONTROL, "to_name": kind, "type": "number" if numeric else "choices", "value": value}
    prediction: dict[str, Any] = {"model_version": sample.row.digest, "result": [answer]}
    confidence = confidence_of(sample.output)
    return prediction if confidence is None else prediction | {"score": round(confidence, 6)}


def confidence_of(output: SampleTensor) -> float | None:
    """Return the largest score of an output that holds probabilities; None for any other."""
    if output.datatype not in ("FP32", "FP16", "FP64") or not output.data:
        return None
    scores = images.numbers(output)
    are_probabilities = all(0.0 <= score <= 1.0 for score in scores) and math.isclose(sum(scores), 1.0, abs_tol=0.05)
    return max(scores) if are_probabilities else None


def _picture(tensor: SampleTensor) -> str:
    return "data:image/png;base64," + base64.b64encode(images.png(tensor)).decode()


def _text(tensor: SampleTensor) -> str:
    if tensor.datatype == "BYTES":
        return tensor.data.decode("utf-8", "replace")
    values = images.numbers(tensor)
    more = f" ... ({len(values)} values)" if len(values) > _SHOWN else ""
    return " ".join(f"{value:g}" for value in values[:_SHOWN]) + more
