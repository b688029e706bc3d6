"""The model as it is asked: over the inference socket, by the client that every program can use."""

from dsops.client import Inference
from dsops.described import Described
from dsops.errors import InvalidInput, NotServing
from dsops.forms import Form as Kind
from dsops_agent.feed.fit import Form, Frames
from dsops_agent.feed.ports import Answered


class SocketModel:
    """Asks the inference process. Implements :class:`dsops_agent.feed.ports.Model`. One thread.

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
        self._digest = ""

    def form(self) -> Form:
        """Return the input that frames are for; asked for anew after a refusal, and when another bundle has answered.

        Raises:
            InvalidInput: The model has another input, or several.
            DsopsError: The model is not there.
        """
        if self._form is None:
            self._form = self._asked()
        return self._form

    def _asked(self) -> Form:
        told = self._inference.metadata()
        names = [one.name for one in told.inputs]
        if len(names) != 1 or self._input not in ("", names[0]):
            wanted = f"input {self._input}" if self._input else "one input"
            raise InvalidInput(
                f"a source feeds models of one input, and {self._name} is not one with {wanted}", why=", ".join(names)
            )
        return Form.of(Described.read(names[0], told.properties))

    def ask(self, frames: Frames, request_id: str, key: str) -> Answered:
        """Ask about frames [n, ...].

        Raises:
            DsopsError: See :meth:`dsops_agent.feed.ports.Model.ask`.
        """
        self._check(frames)
        try:
            answer = self._inference.infer(
                frames.values, form=frames.form.said, request_id=request_id, key=key, outputs=self._outputs
            )
        except (InvalidInput, NotServing):
            self._form = None
            raise
        if answer.digest != self._digest:
            self._digest, self._form = answer.digest, None
            if frames.form.said is not Kind.RAW:  # which are right for every release that takes them
                self._check(frames)
        return Answered(dict(answer.outputs), answer.release, answer.digest)

    def _check(self, frames: Frames) -> None:
        form = self.form()
        if frames.form not in (form, form.raw):
            raise InvalidInput(f"another release of {self._name} is active, for which frames are made otherwise")

    def close(self) -> None:
        """Close the connection."""
        self._inference.close()
