"""Whether TensorRT would compute a graph, and compute it right: checked before minutes are spent on building.

Operators and their limits are those of the ONNX parser's support matrix (TensorRT 10.15). Two known errors give wrong
numbers without a word, both of GridSample, which flow networks warp with:

- its modes are spelled anew from opset 20 on (`linear`), which the parser reads as nearest (onnx-tensorrt 1060);
- in float32 within a network that is in float16 elsewhere, as of 10.14.1 (pytorch/TensorRT 4074).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from onnx import ModelProto, NodeProto, TensorProto

from f2f.engine.errors import NetworkError
from f2f.engine.runtimes.onnx_graph import OnnxGraph, text_of, value_of

OPSETS = range(9, 25)
RENAMED_MODES_OPSET = 20
MIXED_SAMPLING_FROM = (10, 14, 1)

OPERATORS = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization BlackmanWindow
    Cast CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DeformConv
    DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather
    GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
    GroupNormalization GRU HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If InstanceNormalization
    IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop LRN LSTM LpNormalization LpPool
    MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or Pad
    Pow PRelu QuantizeLinear RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1
    ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
    Reshape Resize ReverseSequence RMSNormalization RNN RoiAlign RotaryEmbedding Round STFT Scan Scatter
    ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign
    SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze
    Upsample Where Xor
    """.split()  # noqa: SIM905 - to be compared with the matrix by eye
)
"""what the parser supports; a graph that uses another operator is refused"""


def check_graph(model: ModelProto, path: Path, version: tuple[int, ...]) -> None:
    """Refuse a graph that TensorRT of this version cannot run, or is known to run wrong.

    Raises:
        NetworkError: the message lists all that stands against it.
    """
    problems = list(dict.fromkeys(graph_problems(model, version)))
    if problems:
        raise NetworkError(
            f"{path} is not for TensorRT {'.'.join(map(str, version[:3]))}: {'; '.join(problems[:8])}; export it again "
            "with `f2f export`, or run it by --runtime onnxruntime"
        )


def graph_problems(model: ModelProto, version: tuple[int, ...]) -> Iterator[str]:
    """All that stands against running a graph by TensorRT of a version, a line each."""
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    opset = opsets.get("ai.onnx", 1)
    if opset not in OPSETS:
        yield f"its opset is {opset} (accepted: {OPSETS[0]} to {OPSETS[-1]})"
    graph = OnnxGraph.of(model)
    if graph.external:
        yield f"weights such as {graph.external[0]} lie outside of the file (accepted: all in one file)"
    for node in graph.nodes:
        for problem in _node_problems(node, opset, graph, version):
            yield f"{node.op_type} {node.name}".rstrip() + f": {problem}"


def _node_problems(node: NodeProto, opset: int, graph: OnnxGraph, version: tuple[int, ...]) -> Iterator[str]:
    if node.domain not in {"", "ai.onnx"}:
        yield f"it is of the domain {node.domain} (accepted: standard operators)"
    elif node.op_type not in OPERATORS:
        yield "TensorRT has no such operator"
    elif node.op_type == "GridSample":
        yield from _sampling_problems(node, opset, graph, version)
    elif node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
        yield from _rounding_problems(node, graph)
    else:
        yield from _limit_problems(node)
        yield from _constant_problems(node, graph)


def _sampling_problems(node: NodeProto, opset: int, graph: OnnxGraph, version: tuple[int, ...]) -> Iterator[str]:
    mode = text_of(node, "mode", "linear" if opset >= RENAMED_MODES_OPSET else "bilinear")
    if opset >= RENAMED_MODES_OPSET and mode != "nearest":
        yield f"the mode {mode} of opset {opset} is read as nearest neighbour (accepted: bilinear of opset 18)"
    if graph.ranks.get(node.input[0], 4) != 4:
        yield "it samples volumes (accepted: images, rank 4)"
    if graph.types.get(node.input[0]) == TensorProto.BFLOAT16:
        yield "it samples in bfloat16 (accepted: all in float32)"
    elif graph.reduced and graph.types.get(node.input[0]) != TensorProto.FLOAT16 and version >= MIXED_SAMPLING_FROM:
        yield "it samples in float32 within a network in float16, and gives wrong values (accepted: all in float32)"


def _rounding_problems(node: NodeProto, graph: OnnxGraph) -> Iterator[str]:
    rounded = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
    if graph.types.get(rounded) == TensorProto.UINT8:
        yield "it rounds to unsigned 8 bits, as --int8 does for CPUs (accepted: signed ones around 0; on GPUs --half)"


def _constant_problems(node: NodeProto, graph: OnnxGraph) -> Iterator[str]:
    wanted = "axes" if node.op_type.startswith("Reduce") else {"CumSum": "axis", "OneHot": "depth"}.get(node.op_type)
    if wanted and len(node.input) > 1 and node.input[1] and node.input[1] not in graph.constants:
        yield f"{wanted} from the input (accepted: constant)"


def _limit_problems(node: NodeProto) -> Iterator[str]:
    if node.op_type == "Resize":
        mode = text_of(node, "mode", "nearest")
        if mode not in {"nearest", "linear"}:
            yield f"the mode is {mode} (accepted: nearest, linear)"
        if value_of(node, "antialias", 0):
            yield "it smooths (antialias; accepted: without)"
        if (policy := text_of(node, "keep_aspect_ratio_policy", "stretch")) != "stretch":
            yield f"the policy is {policy} (accepted: stretch)"
    if node.op_type in {"MaxPool", "AveragePool", "LpPool"} and set(value_of(node, "dilations", [])) - {1}:
        yield "it is dilated (accepted: not dilated)"
    if node.op_type == "MaxPool" and len(node.output) > 1 and node.output[1]:
        yield "its indices are asked for (accepted: its values alone)"
    if node.op_type == "ScatterND" and (reduction := text_of(node, "reduction", "none")) != "none":
        yield f"the reduction is {reduction} (accepted: none)"
