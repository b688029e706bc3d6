"""The model as it is asked: over the inference socket, by the client that every program can use."""

from dsops.client import Inference
from dsops.errors import InvalidInput, NotServing
from dsops_agent.feed.fit import Form
from dsops_agent.feed.ports import Answered
from dsops_agent.runtime.litert import Array


class SocketModel:
    """Asks the inference process. Implements :class:`dsops_agent.feed.ports.Model`.

    Args:
        socket: Its socket.
        name: Name of the model.
        input_name: Name that its input must have; empty for any.
        outputs: Outputs that are wanted; none for all.
    """

    def __init__(self, socket: str, name: str, input_name: str, outputs: tuple[str, ...]) -> None:
        self._inference = Inference(socket, name)
        self._name = name
        self._input = input_name
        self._outputs = outputs
        self._form: Form | None = None

    def form(self) -> Form:
        """Return the input that frames are for. It is asked for anew after a refusal: another release may be active.

        Raises:
            InvalidInput: The model has another input, or several.
            DsopsError: The model is not there.
        """
        if self._form is None:
            self._form = self._asked()
        return self._form

    def _asked(self) -> Form:
        inputs = {one.name: one for one in self._inference.metadata().inputs}
        names = ", ".join(inputs)
        if len(inputs) != 1 or self._input not in ("", names):
            wanted = f"input {self._input}" if self._input else "one input"
            raise InvalidInput(
                f"a source feeds models of one input, and {self._name} is not one with {wanted}", why=names
            )
        found = inputs[names]
        return Form(found.name, found.datatype, tuple(found.shape)[1:])

    def ask(self, frames: Array) -> Answered:
        """Ask about frames [n, ...].

        Raises:
            DsopsError: See :meth:`dsops_agent.feed.ports.Model.ask`.
        """
        try:
            answer = self._inference.infer(frames, outputs=self._outputs)
        except (InvalidInput, NotServing):
            self._form = None
            raise
        return Answered(dict(answer.outputs), answer.release, answer.digest)

    def close(self) -> None:
        """Close the connection."""
        self._inference.close()
