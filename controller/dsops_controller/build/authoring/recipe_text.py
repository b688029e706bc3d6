"""Writes the text of a recipe: complete, commented, with what is known filled in and what is needed said."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dsops.manifest import Postprocessing, Task, TensorSpec
from dsops_controller.build.data import ONLY_INPUT, TRUTH, input_dtype

NEEDED = "# needed: "
"""How a line begins that says what a person has to give before the recipe builds."""

_GATES = {
    Task.CLASSIFICATION: ("max_accuracy_drop = 0.01", "min_agreement = 0.97"),
    Task.REGRESSION: ("max_mae_increase = 0.05",),
    Task.RECONSTRUCTION: ("max_auc_drop = 0.01", "max_mean_error_increase = 0.05"),
    Task.OTHER: ("min_cosine = 0.95",),
}
_TRUTHS = {
    Task.CLASSIFICATION: "int64 [N], the number of each frame's label, from 0",
    Task.REGRESSION: "float32 [N, ...], the true quantities, of the output's shape",
    Task.RECONSTRUCTION: "int64 [N], 1 for an anomaly and 0 for a sound frame; leave it out when all are sound",
    Task.OTHER: "whatever a metric of yours compares with ([evaluate] metrics), or nothing",
}
_TASKS = {
    Task.CLASSIFICATION: "a score for each label",
    Task.REGRESSION: "one or more quantities",
    Task.RECONSTRUCTION: "the first input again; how far it is off is the anomaly score",
    Task.OTHER: "anything else: boxes, masks, embeddings",
}


@dataclass(frozen=True)
class Draft:
    """What a recipe says.

    Attributes:
        source: File name, or reference into a registry.
        labels: File name, empty when there is none.
        score_count: Scores of a classification.
        data: File name for every purpose; empty when there is none yet.
        payload: File name of a model that is quantized already; empty for one to quantize.
        author: Goes into the lineage's facts.
    """

    name: str
    source: str
    task: Task
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    transposed: frozenset[str] = frozenset()
    rule: Postprocessing = field(default_factory=Postprocessing)
    labels: str = ""
    score_count: int = 0
    description: str = ""
    license: str = ""
    author: str = ""
    data: str = ""
    payload: str = ""

    @property
    def needed_labels(self) -> int:
        """How many labels there should be and are not."""
        return max(self.score_count, 2) if self.task is Task.CLASSIFICATION and not self.labels else 0


def savez_line(inputs: Sequence[TensorSpec], task: Task, file: str) -> str:
    """Return the line of Python that writes a data file for these inputs."""
    arrays = {spec.name: f"frames_of_{number}" for number, spec in enumerate(inputs, 1)}
    if len(inputs) == 1:
        arrays = {ONLY_INPUT: "frames"}
    if task is not Task.OTHER:
        arrays[TRUTH] = "truth"
    given = [f"{name}={value}" for name, value in arrays.items() if name.isidentifier()]
    odd = ", ".join(f"{name!r}: {value}" for name, value in arrays.items() if not name.isidentifier())
    return f"np.savez({', '.join([repr(file), *given, *([f'**{{{odd}}}'] if odd else [])])})".replace("'", '"')


def render_recipe(draft: Draft) -> str:
    """Return the recipe as TOML."""
    parts = (_head, _model, _data, _variants, _evaluate, _gate, _golden, _preprocessing, _postprocessing, _rest)
    return "\n".join("\n".join(part(draft)) + "\n" for part in parts)


def _head(draft: Draft) -> Iterator[str]:
    yield "# Recipe of a model; every path is relative to this file and stays beside it."
    yield "# All keys: docs/recipe.md.  Build: dsops model build FOLDER --to OUT"
    yield "#"
    for what, specs in (("input", draft.inputs), ("output", draft.outputs)):
        for spec in specs:
            turned = ", channels last; the ONNX model has them first" if spec.name in draft.transposed else ""
            yield f"# {what} {_quoted(spec.name)}: {spec.datatype} {list(spec.shape)}{turned}"


def _model(draft: Draft) -> Iterator[str]:
    yield "[model]"
    yield f"name = {_quoted(draft.name)}"
    yield f"source = {_quoted(draft.source)}"
    yield f"task = {_quoted(draft.task)}  # {_TASKS[draft.task]}"
    if draft.labels:
        yield f"labels = {_quoted(draft.labels)}"
    elif draft.task is Task.CLASSIFICATION:
        yield f'# labels = "labels.txt"  {NEEDED}{draft.needed_labels} lines, one a score, in the order of the scores'
    yield f"description = {_quoted(draft.description)}"
    yield f"license = {_quoted(draft.license)}  # SPDX expression, such as Apache-2.0"
    yield '# card = "modelcard.md"'
    yield '# kpis = ["picks-per-hour"]  # figures of the business that the model is there for'


def _data(draft: Draft) -> Iterator[str]:
    yield "[data]"
    yield "# One frame more than the model's shape in front: [N, ...]. Write each file so:"
    yield f"#   {savez_line(draft.inputs, draft.task, 'evaluation.npz')}"
    for spec in draft.inputs:
        name = ONLY_INPUT if len(draft.inputs) == 1 else spec.name
        yield f"#   {_quoted(name)}: {input_dtype(spec).name} {['N', *spec.shape[1:]]}".replace("'", "")
    yield f"#   {_quoted(TRUTH)}: {_TRUTHS[draft.task]}"
    yield '#   "slice.NAME": text or integers [N], to see where a variant falls behind (optional)'
    files = {
        "calibration": "typical frames, some hundreds, none of the evaluation's",
        "evaluation": "held-out frames with their truth",
    }
    for purpose, meaning in files.items():
        if draft.data:
            yield f"{purpose} = {_quoted(draft.data)}  # better: {meaning}"
        else:
            yield f"{purpose} = {_quoted(purpose + '.npz')}  {NEEDED}{meaning}"
    yield '# profile = "reference.npz"  # what drift is measured against; default: the evaluation file'
    yield '# golden = "reference.npz"   # where golden inputs are chosen from; default: the evaluation file'
    yield '# training = "train.npz"     # only its digest is kept'


def _variants(draft: Draft) -> Iterator[str]:
    yield "# One table a variant. float32 float16 int8 int16x8 dynamic8 dynamic4 weight8 weight4"
    if draft.payload:
        yield "[variant.int8]"
        yield f"payload = {_quoted(draft.payload)}  # quantized already, used as it is"
        return
    yield "[variant.int8]"
    yield '# hardware = ["aarch64", "x86_64"]  # classes of hardware that it is for; all when it is left out'
    yield '# rules = [{ operator = "SOFTMAX", mode = "float32" }]  # exceptions for some operators'
    yield ""
    yield "[variant.float32]"


def _evaluate(draft: Draft) -> Iterator[str]:
    yield "[evaluate]"
    yield '# metrics = ["my_metrics.py:iou"]  # Python functions beside this file'
    yield "threads = [1]"


def _gate(draft: Draft) -> Iterator[str]:
    yield "# What a variant must keep of the float model; else the build fails with the figures."
    yield "[gate]"
    yield from (f"# {line}  # the default" for line in _GATES[draft.task])


def _golden(draft: Draft) -> Iterator[str]:
    yield "# Frames with which every device proves the model before it serves."
    yield "[golden]"
    yield "count = 32"
    yield "# tolerance = 0.05  # by default it is measured over the kernels"


def _preprocessing(draft: Draft) -> Iterator[str]:
    yield "# How a raw frame becomes the input: real = raw * scale + offset. Devices and programs read it here."
    for spec in draft.inputs:
        yield "[preprocessing]" if len(draft.inputs) == 1 else f"[preprocessing.{_quoted(spec.name)}]"
        if len(spec.shape) == 4 and spec.shape[-1] in {1, 3}:
            color = "GRAY" if spec.shape[-1] == 1 else "RGB"
            yield f'# color = "{color}"  # GRAY RGB BGR'
            yield '# resize = "stretch"  # stretch crop letterbox'
        yield "# scale = [0.00392156862745098]  # one number, or one a channel; here: bytes to 0..1"
        yield "# offset = [0.0]"


def _postprocessing(draft: Draft) -> Iterator[str]:
    yield "[postprocessing]"
    if draft.task is Task.CLASSIFICATION:
        ending = "the model ends with it" if draft.rule.activation == "none" else "the model's scores are raw"
        yield f'activation = "{draft.rule.activation}"  # none softmax sigmoid; {ending}'
    if draft.task is Task.RECONSTRUCTION:
        yield f'error = "{draft.rule.error}"  # mean_squared mean_absolute'
        yield f"# threshold = 0.5  {NEEDED}the anomaly score from which on a frame is one"
    if draft.rule.threshold is not None:
        yield f"threshold = {draft.rule.threshold}  # from this score on a frame is of the second label"


def _rest(draft: Draft) -> Iterator[str]:
    yield "# What the bundle may use on a device; 0 sets no limit."
    yield "[budgets]"
    yield from ("max_latency_ms = 0.0", "max_memory_bytes = 0", "max_disk_bytes = 0", "")
    yield "# Files that are installed and removed with the model."
    yield "[files]"
    yield '# "thresholds.json" = { kind = "config", source = "thresholds.json" }  # config calibration labels document'
    yield ""
    yield "[lineage]"
    yield 'commit = ""  # version of the training code'
    yield 'parameters = {}  # of the training: { epochs = "60" }'
    yield f"facts = {_inline({'author': draft.author} if draft.author else {})}"


def _inline(table: Mapping[str, str]) -> str:
    pairs = ", ".join(f"{_quoted(key)} = {_quoted(value)}" for key, value in table.items())
    return f"{{ {pairs} }}" if pairs else "{}"


def _quoted(text: str) -> str:
    """Return a text as a TOML basic string, which is a JSON string but for one control character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
