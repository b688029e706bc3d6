"""What a model's outputs mean: task, reading and labels, which every step after the conversion needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dsops.decision import Decision, decide
from dsops.errors import InvalidModel
from dsops.manifest import Postprocessing, Preprocessing, Task, check_task, check_top
from dsops_controller.build.data import Array
from dsops_controller.build.litert import LitertModel


@dataclass(frozen=True)
class Meaning:
    """What the first output is, how it is read, the labels of its scores, and how inputs are made of raw frames."""

    task: Task = Task.CLASSIFICATION
    rule: Postprocessing = field(default_factory=Postprocessing)
    labels: tuple[str, ...] = ()
    sections: tuple[Preprocessing, ...] = ()

    def check(self, model: LitertModel) -> None:
        """Check that a model's tensors are what the task needs.

        Raises:
            InvalidModel: They are not.
        """
        try:
            check_task(self.task, self.labels, model.inputs, model.outputs)
            if self.rule.top_k:
                check_top(self.rule.top_k, self.task, self.labels)
        except ValueError as error:
            raise InvalidModel(
                f"the model is not a {self.task} of these labels",
                why=str(error),
                hint="give one label for each score, in the order of the scores, or another model.task",
            ) from error

    def decide(self, model: LitertModel, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Decision:
        """Return what a model's outputs say of the frames that it was given."""
        return decide(
            self.task,
            self.rule,
            [inputs[spec.name] for spec in model.inputs],
            [outputs[spec.name] for spec in model.outputs],
        )
