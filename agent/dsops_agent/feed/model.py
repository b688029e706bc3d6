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
        input_name: Input that frames are for; empty for the only one.
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
            InvalidInput: The model has no such input, or several and none is named.
            DsopsError: The model is not there.
        """
        if self._form is None:
            self._form = self._asked()
        return self._form

    def _asked(self) -> Form:
        inputs = {one.name: one for one in self._inference.metadata().inputs}
        names = ", ".join(inputs)
        if self._input and self._input not in inputs:
            raise InvalidInput(f"model {self._name} has no input {self._input}", why=f"it has {names}")
        if not self._input and len(inputs) != 1:
            raise InvalidInput(f"model {self._name} has the inputs {names}", hint="name one: input")
        found = inputs[self._input or names]
        return Form(found.name, found.datatype, tuple(found.shape)[1:])

    def ask(self, frames: Array) -> Answered:
        """Ask about frames [n, ...].

        Raises:
            DsopsError: See :meth:`dsops_agent.feed.ports.Model.ask`.
        """
        name = self.form().name
        try:
            answer = self._inference.infer(outputs=self._outputs, **{name: frames})
        except (InvalidInput, NotServing):
            self._form = None
            raise
        return Answered(dict(answer.outputs), answer.release, answer.digest)

    def close(self) -> None:
        """Close the connection."""
        self._inference.close()
