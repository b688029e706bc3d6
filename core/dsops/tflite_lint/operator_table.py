"""The rule of each operator, as the kernels of TensorFlow Lite and LiteRT have it.

Types are those that some kernel takes; control flow, strings, hash tables and sparse tensors have no place here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Flag, auto

from dsops.tflite_lint.checks_blocks import (
    check_batch_to_space,
    check_depth_to_space,
    check_resize,
    check_space_to_batch,
    check_space_to_depth,
)
from dsops.tflite_lint.checks_dense import check_batch_matmul, check_embedding_lookup, check_fully_connected
from dsops.tflite_lint.checks_elementwise import (
    check_all_equal,
    check_arg,
    check_broadcast,
    check_cumsum,
    check_dequantize,
    check_fused,
    check_kept_scale,
    check_l2_normalization,
    check_leaky,
    check_local_response,
    check_log_softmax,
    check_logistic,
    check_prelu,
    check_quantize,
    check_reduce,
    check_same_shape,
    check_select,
    check_softmax,
    check_tanh,
)
from dsops.tflite_lint.checks_layout import (
    check_broadcast_to,
    check_concatenation,
    check_diagonal,
    check_drawn,
    check_expand_dims,
    check_fill,
    check_mirror_pad,
    check_pack,
    check_pad,
    check_range,
    check_rank,
    check_reshape,
    check_reverse,
    check_shape,
    check_slice,
    check_split,
    check_split_v,
    check_squeeze,
    check_strided_slice,
    check_tile,
    check_transpose,
    check_unpack,
)
from dsops.tflite_lint.checks_lookup import (
    check_broadcast_args,
    check_gather,
    check_gather_nd,
    check_one_hot,
    check_reverse_sequence,
    check_scatter_nd,
    check_segments,
    check_top_k,
    check_update_slice,
)
from dsops.tflite_lint.checks_recurrent import (
    check_bidirectional_lstm,
    check_bidirectional_rnn,
    check_lstm,
    check_rnn,
    check_sequence_lstm,
    check_sequence_rnn,
    check_svdf,
)
from dsops.tflite_lint.checks_windows import (
    check_conv_2d,
    check_conv_3d,
    check_conv_3d_transpose,
    check_depthwise_conv_2d,
    check_pool,
    check_transpose_conv,
)
from dsops.tflite_lint.node import Node
from dsops.tflite_lint.operators import Rule, Types, parse_forms
from dsops.tflite_lint.schema import DType, Op, Options

_F32 = frozenset({DType.FLOAT32})
_NARROW = frozenset({DType.INT8, DType.UINT8, DType.INT16})
_WIDE = frozenset({DType.INT32, DType.INT64})
_REAL = _F32 | _NARROW
_NUMBERS = _REAL | _WIDE
_ARITHMETIC = _NUMBERS | {DType.UINT32, DType.COMPLEX64}
_ANY = frozenset(DType) - {DType.STRING, DType.RESOURCE, DType.VARIANT}
_INTEGERS = frozenset({DType.INT8, DType.UINT8, DType.INT16, DType.UINT16, DType.INT32, DType.UINT32}) | _WIDE
_STORED = _NARROW | frozenset({DType.FLOAT16, DType.BFLOAT16, DType.INT32, DType.INT4, DType.UINT4, DType.INT2})
_COMPARED = _NUMBERS | {DType.BOOL}

_Check = Callable[[Node], None]


class _Needs(Flag):
    NOTHING = 0
    OPTIONS = auto()
    """Nothing works without the table of options."""
    SCALE = auto()
    """Narrow integers stand for real numbers, so they need a scale."""


_OPTIONS, _SCALE, _BOTH = _Needs.OPTIONS, _Needs.SCALE, _Needs.OPTIONS | _Needs.SCALE


@dataclass(frozen=True)
class _Entry:
    """A line of the table. Options are those that are called like the operator, unless others are named."""

    ops: tuple[Op, ...]
    form: str
    types: Types
    check: _Check | None = None
    needs: _Needs = _Needs.NOTHING
    options: Options | None = None

    def rules(self) -> Iterator[tuple[Op, Rule]]:
        inputs, outputs = parse_forms(self.form)
        for op in self.ops:
            options = Options.__members__.get(op.name, Options.NONE) if self.options is None else self.options
            needs_options, scaled = _OPTIONS in self.needs, _SCALE in self.needs
            yield op, Rule(inputs, outputs, self.types, options, needs_options, self.check, scaled)


_LSTM_INPUTS = "A A? A A A A? A A A A? A? A? A? A A A A? A? A A"
_NORMS = "A? A? A? A?"

_WINDOWS = (
    _Entry((Op.CONV_2D,), "A A A~ -> A", _REAL, check_conv_2d, _OPTIONS),
    _Entry((Op.DEPTHWISE_CONV_2D,), "A A A~ -> A", _REAL, check_depthwise_conv_2d, _OPTIONS),
    _Entry((Op.TRANSPOSE_CONV,), "I A A A? -> A", _REAL, check_transpose_conv, _OPTIONS),
    _Entry((Op.CONV_3D,), "T T T? -> T", _F32, check_conv_3d, _OPTIONS),
    _Entry((Op.CONV_3D_TRANSPOSE,), "I T T T? -> T", _F32, check_conv_3d_transpose, _OPTIONS, Options.CONV_3D),
    _Entry((Op.AVERAGE_POOL_2D, Op.MAX_POOL_2D), "T -> T", _REAL, check_kept_scale(check_pool), _BOTH, Options.POOL_2D),
    _Entry((Op.L2_POOL_2D,), "T -> T", _F32, check_pool, _OPTIONS, Options.POOL_2D),
)

_PRODUCTS = (
    _Entry((Op.FULLY_CONNECTED,), "A A A? -> A", _REAL, check_fully_connected, _OPTIONS),
    _Entry((Op.BATCH_MATMUL,), "A A -> A", _REAL, check_batch_matmul),
    _Entry((Op.EMBEDDING_LOOKUP,), "I A -> A", _ANY, check_embedding_lookup),
    _Entry((Op.SVDF,), "A A A A? A -> A", _REAL, check_svdf, _OPTIONS),
    _Entry((Op.RNN,), "A A A A A -> A", _REAL, check_rnn, _OPTIONS),
    _Entry(
        (Op.UNIDIRECTIONAL_SEQUENCE_RNN,), "A A A A A -> A", _REAL, check_sequence_rnn, _OPTIONS, Options.SEQUENCE_RNN
    ),
    _Entry((Op.BIDIRECTIONAL_SEQUENCE_RNN,), "A?... -> A...", _REAL, check_bidirectional_rnn, _OPTIONS),
    _Entry((Op.LSTM,), "A?... -> A...", _REAL, check_lstm, _OPTIONS),
    _Entry((Op.UNIDIRECTIONAL_SEQUENCE_LSTM,), f"{_LSTM_INPUTS} {_NORMS} -> A", _REAL, check_sequence_lstm, _OPTIONS),
    _Entry((Op.BIDIRECTIONAL_SEQUENCE_LSTM,), "A?... -> A...", _REAL, check_bidirectional_lstm, _OPTIONS),
)

_ELEMENTWISE = (
    _Entry((Op.ADD, Op.SUB, Op.MUL, Op.DIV), "T T -> T", _ARITHMETIC, check_fused, _SCALE),
    _Entry((Op.MAXIMUM, Op.MINIMUM), "T T -> T", _NUMBERS, check_broadcast, options=Options.MAXIMUM_MINIMUM),
    _Entry((Op.POW, Op.FLOOR_DIV, Op.FLOOR_MOD, Op.SQUARED_DIFFERENCE), "T T -> T", _NUMBERS, check_broadcast),
    _Entry((Op.ATAN2,), "T T -> T", _F32 | {DType.FLOAT64}, check_broadcast),
    _Entry((Op.BITWISE_XOR, Op.RIGHT_SHIFT), "T T -> T", _INTEGERS | {DType.BOOL}, check_broadcast),
    _Entry((Op.LOGICAL_AND, Op.LOGICAL_OR), "B B -> B", _ANY, check_broadcast),
    _Entry((Op.LOGICAL_NOT,), "B -> B", _ANY, check_same_shape),
    _Entry(
        (Op.EQUAL, Op.NOT_EQUAL, Op.LESS, Op.LESS_EQUAL, Op.GREATER, Op.GREATER_EQUAL),
        "T T -> B",
        _COMPARED,
        check_broadcast,
    ),
    _Entry((Op.ADD_N,), "T... -> T", _F32 | _WIDE, check_all_equal),
    _Entry((Op.SELECT, Op.SELECT_V2), "B T T -> T", _ANY, check_select),
    _Entry((Op.RELU, Op.RELU6, Op.RELU_N1_TO_1, Op.RELU_0_TO_1), "T -> T", _REAL, check_same_shape, _SCALE),
    _Entry((Op.ELU, Op.HARD_SWISH, Op.GELU), "T -> T", _REAL, check_same_shape, _SCALE),
    _Entry((Op.LEAKY_RELU,), "T -> T", _REAL, check_leaky, _BOTH),
    _Entry((Op.PRELU,), "T T -> T", _REAL, check_prelu, _SCALE),
    _Entry((Op.LOGISTIC,), "T -> T", _REAL, check_logistic, _SCALE),
    _Entry((Op.TANH,), "T -> T", _REAL, check_tanh, _SCALE),
    _Entry((Op.SOFTMAX,), "A -> A", _REAL, check_softmax, _OPTIONS),
    _Entry((Op.LOG_SOFTMAX,), "T -> T", _REAL, check_log_softmax, _SCALE),
    _Entry((Op.L2_NORMALIZATION,), "T -> T", _REAL, check_l2_normalization, _BOTH, Options.L2_NORM),
    _Entry((Op.LOCAL_RESPONSE_NORMALIZATION,), "T -> T", _F32, check_local_response, _OPTIONS),
    _Entry((Op.ABS, Op.NEG, Op.SIGN, Op.SQUARE), "T -> T", _NUMBERS | {DType.FLOAT64}, check_same_shape),
    _Entry((Op.EXP, Op.LOG, Op.SQRT, Op.RSQRT, Op.SIN, Op.COS), "T -> T", _REAL, check_same_shape, _SCALE),
    _Entry((Op.FLOOR, Op.CEIL, Op.ROUND), "T -> T", _REAL, check_same_shape),
    _Entry((Op.CAST,), "A -> A", _ANY, check_same_shape),
    _Entry((Op.QUANTIZE,), "T -> A", _REAL | {DType.INT32}, check_quantize),
    _Entry((Op.DEQUANTIZE,), "T -> F", _STORED, check_dequantize),
    _Entry((Op.FAKE_QUANT,), "F -> F", _F32, check_same_shape, _OPTIONS),
    _Entry((Op.ZEROS_LIKE,), "T -> T", _ANY, check_same_shape),
    _Entry((Op.MEAN, Op.SUM, Op.REDUCE_PROD), "T I -> T", _NUMBERS, check_reduce, _SCALE, Options.REDUCER),
    _Entry((Op.REDUCE_MAX, Op.REDUCE_MIN), "T I -> T", _NUMBERS, check_reduce, options=Options.REDUCER),
    _Entry((Op.REDUCE_ANY, Op.REDUCE_ALL), "B I -> B", _ANY, check_reduce, options=Options.REDUCER),
    _Entry((Op.ARG_MAX, Op.ARG_MIN), "T J -> J", _COMPARED, check_arg),
    _Entry((Op.CUMSUM,), "T I -> T", _F32 | _WIDE, check_cumsum),
    _Entry((Op.COMPLEX_ABS, Op.REAL, Op.IMAG), "A -> A", _ANY, check_same_shape),
)

_LAYOUT = (
    _Entry((Op.RESHAPE,), "T I~ -> T", _ANY, check_kept_scale(check_reshape)),
    _Entry((Op.TRANSPOSE,), "T J -> T", _ANY, check_kept_scale(check_transpose)),
    _Entry((Op.SQUEEZE,), "T -> T", _ANY, check_kept_scale(check_squeeze)),
    _Entry((Op.EXPAND_DIMS,), "T J -> T", _ANY, check_kept_scale(check_expand_dims)),
    _Entry((Op.CONCATENATION,), "T... -> T", _ANY, check_concatenation, _OPTIONS),
    _Entry((Op.PACK,), "T... -> T", _ANY, check_pack, _OPTIONS),
    _Entry((Op.UNPACK,), "T -> T...", _ANY, check_unpack, _OPTIONS),
    _Entry((Op.SPLIT,), "I T -> T...", _ANY, check_split, _OPTIONS),
    _Entry((Op.SPLIT_V,), "T J I -> T...", _ANY, check_split_v, _OPTIONS),
    _Entry((Op.SLICE,), "T J J -> T", _ANY, check_kept_scale(check_slice)),
    _Entry((Op.STRIDED_SLICE,), "T J J J -> T", _ANY, check_kept_scale(check_strided_slice), _OPTIONS),
    _Entry((Op.PAD,), "T J -> T", _ANY, check_kept_scale(check_pad)),
    _Entry((Op.PADV2,), "T J T -> T", _ANY, check_kept_scale(check_pad)),
    _Entry((Op.MIRROR_PAD,), "T J -> T", _ANY, check_kept_scale(check_mirror_pad), _OPTIONS),
    _Entry((Op.TILE,), "T J -> T", _ANY, check_tile),
    _Entry((Op.BROADCAST_TO,), "T J -> T", _ANY, check_broadcast_to),
    _Entry((Op.FILL,), "J T -> T", _ANY, check_fill),
    _Entry((Op.RANGE,), "T T T -> T", _NUMBERS, check_range),
    _Entry((Op.SHAPE,), "A -> J", _ANY, check_shape),
    _Entry((Op.RANK,), "A -> I", _ANY, check_rank),
    _Entry((Op.REVERSE_V2,), "T I -> T", _ANY, check_reverse),
    _Entry((Op.SPACE_TO_DEPTH,), "T -> T", _ANY, check_kept_scale(check_space_to_depth), _OPTIONS),
    _Entry((Op.DEPTH_TO_SPACE,), "T -> T", _ANY, check_kept_scale(check_depth_to_space), _OPTIONS),
    _Entry((Op.SPACE_TO_BATCH_ND,), "T I I -> T", _ANY, check_kept_scale(check_space_to_batch)),
    _Entry((Op.BATCH_TO_SPACE_ND,), "T I I -> T", _ANY, check_kept_scale(check_batch_to_space)),
    _Entry((Op.RESIZE_BILINEAR, Op.RESIZE_NEAREST_NEIGHBOR), "T I -> T", _ANY, check_kept_scale(check_resize)),
    _Entry((Op.BITCAST,), "A -> A", _ANY),
)

_LOOKUP = (
    _Entry((Op.GATHER,), "T A -> T", _ANY, check_kept_scale(check_gather)),
    _Entry((Op.GATHER_ND,), "T A -> T", _ANY, check_gather_nd),
    _Entry((Op.SCATTER_ND,), "I T I -> T", _ANY, check_scatter_nd),
    _Entry((Op.ONE_HOT,), "J I T T -> T", _ANY, check_one_hot),
    _Entry((Op.TOPK_V2,), "T A -> T A", _ANY, check_top_k),
    _Entry((Op.WHERE,), "A -> J", _ANY),
    _Entry((Op.UNIQUE,), "T -> T J", _ANY),
    _Entry((Op.DYNAMIC_UPDATE_SLICE,), "T T J -> T", _ANY, check_update_slice),
    _Entry((Op.REVERSE_SEQUENCE,), "T J -> T", _ANY, check_reverse_sequence, _OPTIONS),
    _Entry((Op.BROADCAST_ARGS,), "J J -> J", _ANY, check_broadcast_args),
    _Entry((Op.BUCKETIZE,), "A -> I", _ANY, check_same_shape, _OPTIONS),
    _Entry((Op.SEGMENT_SUM,), "T I -> T", _F32 | _WIDE, check_segments),
    _Entry(
        (Op.UNSORTED_SEGMENT_SUM, Op.UNSORTED_SEGMENT_PROD, Op.UNSORTED_SEGMENT_MAX, Op.UNSORTED_SEGMENT_MIN),
        "T I I -> T",
        _F32 | _WIDE,
        check_segments,
    ),
    _Entry((Op.MATRIX_DIAG,), "T -> T", _ANY, check_diagonal),
    _Entry((Op.MATRIX_SET_DIAG,), "T T -> T", _ANY, check_same_shape),
    _Entry((Op.NON_MAX_SUPPRESSION_V4,), "F F I F F -> I I", _F32),
    _Entry((Op.NON_MAX_SUPPRESSION_V5,), "F F I F F F -> I F I", _F32),
    _Entry((Op.RFFT2D,), "F I -> A", _F32),
    _Entry((Op.RANDOM_UNIFORM, Op.RANDOM_STANDARD_NORMAL), "J -> F", _F32, check_drawn, options=Options.RANDOM),
    _Entry((Op.MULTINOMIAL,), "A I -> J", _F32, options=Options.RANDOM),
)

_CONTROL = (
    _Entry((Op.IF,), "A... -> A...", _ANY, None, _OPTIONS),
    _Entry((Op.WHILE,), "A... -> A...", _ANY, None, _OPTIONS),
    _Entry((Op.CALL_ONCE,), " -> ", _ANY, None, _OPTIONS),
    _Entry((Op.VAR_HANDLE,), " -> A", _ANY, None, _OPTIONS),
    _Entry((Op.READ_VARIABLE,), "A -> A", _ANY),
    _Entry((Op.ASSIGN_VARIABLE,), "A A -> ", _ANY),
)

RULES: dict[Op, Rule] = {
    op: rule
    for table in (_WINDOWS, _PRODUCTS, _ELEMENTWISE, _LAYOUT, _LOOKUP, _CONTROL)
    for entry in table
    for op, rule in entry.rules()
}
"""The rule of each operator that has one."""
