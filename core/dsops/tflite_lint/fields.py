"""The numbers of the fields that the lint reads, a class for each table of the schema (see :mod:`.schema`).

A class's names are in the order of the table's declaration; a name with a leading underscore is not read.
"""


class Model:
    """The root: operator codes, subgraphs, buffers, metadata, signatures."""

    VERSION, OPERATOR_CODES, SUBGRAPHS, DESCRIPTION, BUFFERS, METADATA_BUFFER, METADATA, SIGNATURES = range(8)
    EXTERNAL_GROUPS, EXTERNAL_BUFFERS = 8, 9


class OperatorCode:
    """A kind of operator."""

    OLD_CODE, CUSTOM, VERSION, CODE = range(4)


class Buffer:
    """Constant data, inside the FlatBuffer or, by offset and size, behind it."""

    DATA, OFFSET, SIZE = range(3)


class SubGraph:
    """A graph of operators."""

    TENSORS, INPUTS, OUTPUTS, OPERATORS, NAME = range(5)


class Tensor:
    """A tensor."""

    SHAPE, TYPE, BUFFER, NAME, QUANTIZATION, IS_VARIABLE, SPARSITY, SIGNATURE, HAS_RANK = range(9)
    VARIANT, EXTERNAL_BUFFER = 9, 10


class Quantization:
    """Scales and zero points of a tensor."""

    MIN, MAX, SCALE, ZERO_POINT, DETAILS_TYPE, DETAILS, AXIS = range(7)
    BLOCKWISE = 2
    """Value of ``DETAILS_TYPE``."""


class Blockwise:
    """Quantization in blocks; scales and zero points are tensors."""

    SCALES, ZERO_POINTS, BLOCK_SIZE = range(3)


class Operator:
    """An operator of a graph."""

    CODE, INPUTS, OUTPUTS, OPTIONS_TYPE, OPTIONS, CUSTOM_OPTIONS, CUSTOM_FORMAT, MUTATED, INTERMEDIATES = range(9)
    LARGE_OFFSET, LARGE_SIZE, OPTIONS_2_TYPE, OPTIONS_2 = 9, 10, 11, 12


class Metadata:
    """A named buffer."""

    NAME, BUFFER = range(2)


class Signature:
    """Names for a subgraph's inputs and outputs."""

    INPUTS, OUTPUTS, KEY, _TAG, SUBGRAPH = range(5)


class TensorMap:
    """A name and the tensor that it stands for."""

    NAME, TENSOR = range(2)


class Conv2D:
    """Options of CONV_2D."""

    PADDING, STRIDE_W, STRIDE_H, ACTIVATION, DILATION_W, DILATION_H = range(6)


class Depthwise:
    """Options of DEPTHWISE_CONV_2D."""

    PADDING, STRIDE_W, STRIDE_H, MULTIPLIER, ACTIVATION, DILATION_W, DILATION_H = range(7)


class Conv3D:
    """Options of CONV_3D and CONV_3D_TRANSPOSE."""

    PADDING, STRIDE_D, STRIDE_W, STRIDE_H, ACTIVATION, DILATION_D, DILATION_W, DILATION_H = range(8)


class TransposeConv:
    """Options of TRANSPOSE_CONV."""

    PADDING, STRIDE_W, STRIDE_H, ACTIVATION = range(4)


class Pool2D:
    """Options of the pooling operators."""

    PADDING, STRIDE_W, STRIDE_H, FILTER_W, FILTER_H, ACTIVATION = range(6)


class FullyConnected:
    """Options of FULLY_CONNECTED."""

    ACTIVATION, WEIGHTS_FORMAT, KEEP_DIMS = range(3)


class Lstm:
    """Options of the three LSTM operators; the last two fields are at other places in each."""

    ACTIVATION, CELL_CLIP, PROJECTION_CLIP = range(3)
    KERNEL = 3
    UNIDIRECTIONAL_TIME_MAJOR, DIAGONAL = 3, 5
    MERGE_OUTPUTS, BIDIRECTIONAL_TIME_MAJOR = 3, 4


class Rnn:
    """Options of the RNN operators over sequences."""

    TIME_MAJOR, ACTIVATION, MERGE_OUTPUTS = range(3)


class Svdf:
    """Options of SVDF."""

    RANK, ACTIVATION = range(2)


class StridedSlice:
    """Options of STRIDED_SLICE."""

    BEGIN_MASK, END_MASK, ELLIPSIS_MASK, NEW_AXIS_MASK, SHRINK_AXIS_MASK, OFFSET = range(6)


class Axis:
    """Options that hold an axis: of CONCATENATION, GATHER, ONE_HOT (first), PACK and UNPACK (second)."""

    FIRST, SECOND = range(2)
    BATCH_DIMS = 1
    """Of GATHER."""


class First:
    """Options whose first fields are all that matters, as each rule says."""

    VALUE, NEXT = range(2)
