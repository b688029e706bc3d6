"""How large a model may be, and what it may contain, before it is refused unread."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LintLimits:
    """Bounds of :func:`dsops.tflite_lint.lint`. The defaults admit every network that an edge device can hold.

    Attributes:
        file_bytes: Length of the whole file.
        trailing_bytes: Length of what follows the FlatBuffer, such as the ZIP archive of TFLite metadata.
        subgraphs: Number of subgraphs.
        tensors: Number of tensors of all subgraphs.
        operators: Number of operators of all subgraphs.
        buffers: Number of buffers, and of operator codes, metadata entries and signatures.
        name_bytes: Length of a name, in bytes of UTF-8.
        tensor_elements: Elements of one tensor.
        activation_elements: Elements of all tensors that hold no constant.
        work: Numbers that are visited, however often the file names them; a table counts for 16, an index for 8.
        custom_operators: Names of the custom operators that the runtime has, such as ``edgetpu-custom-op``.
        unchecked_operators: Names of builtin operators to admit although no rule says what is right for them.
        control_flow: Whether operators that run other subgraphs (IF, WHILE, CALL_ONCE) and resource variables are
            admitted.
    """

    file_bytes: int = 1 << 31
    trailing_bytes: int = 16 << 20
    subgraphs: int = 64
    tensors: int = 16_384
    operators: int = 16_384
    buffers: int = 32_768
    name_bytes: int = 4096
    tensor_elements: int = 1 << 28
    activation_elements: int = 1 << 28
    work: int = 1 << 23
    custom_operators: frozenset[str] = frozenset()
    unchecked_operators: frozenset[str] = frozenset()
    control_flow: bool = False
