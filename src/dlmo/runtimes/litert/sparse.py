"""Encoding zeros: weights of a pruned model as sparse tensors, so that the raw file shrinks.

TensorFlow Lite's format knows compressed rows (schema.fbs, SparsityParameters); a DENSIFY operator restores the
dense tensor once, when the model is loaded, bit by bit. The converter itself never encodes zeros.
"""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dlmo.runtimes.litert import flatbuffer

# Tensor, operator and vectors that describe one sparse tensor take about this much of a file.
_OVERHEAD_BYTES = 320


def encode_zeros(content: bytes) -> bytes:
    """The same model with each weight tensor stored sparse where that is smaller; unchanged if none is.

    Raises ValueError for dynamically quantized convolutions (float activations, int8 weights): their kernels do
    not take restored weights; use weight-only int8 there.
    """
    model = flatbuffer.read(content)
    graph = model.subgraphs[0]
    densify = []
    for index in _weight_tensors(model, graph):
        weights = flatbuffer.constant(model, graph.tensors[index])
        if weights is None:
            continue
        values, sparsity, index_bytes = _compress(weights)
        if values.nbytes + index_bytes + _OVERHEAD_BYTES >= weights.nbytes:
            continue
        densify.append(_store_sparse(model, graph, index, values, sparsity))
    if not densify:
        return content
    graph.operators = densify + list(graph.operators)
    return flatbuffer.write(model)


def _weight_tensors(model: schema.ModelT, graph: schema.SubGraphT) -> list[int]:
    """Indices of stored weights, looking through the DEQUANTIZE that float16 and weight-only files put between."""
    stored = {
        int(operator.outputs[0]): int(operator.inputs[0])
        for operator in graph.operators
        if flatbuffer.operator_name(model, operator) == "DEQUANTIZE"
    }
    found = []
    for operator in graph.operators:
        name = flatbuffer.operator_name(model, operator)
        if name not in flatbuffer.WEIGHTED:
            continue
        weights = int(operator.inputs[1])
        activations = graph.tensors[int(operator.inputs[0])]
        if graph.tensors[weights].type == schema.TensorType.INT8:
            if activations.type != schema.TensorType.INT8:
                raise ValueError("zeros of dynamically quantized weights cannot be encoded")
            if name == "FULLY_CONNECTED":  # the delegate takes int8 ones only with plain weights
                continue
        found.append(stored.get(weights, weights))
    return found


def _compress(weights: np.ndarray) -> tuple[np.ndarray, schema.SparsityParametersT, int]:
    """Non-zero values in order, their positions in compressed rows over one axis, bytes of the positions.

    The axis is the one that takes fewest bytes: a position along a long axis needs two of them, and every row needs
    its beginning told, so that an axis of 256 or a little less is best.
    """
    return min((_compress_along(weights, axis) for axis in range(weights.ndim)), key=lambda found: found[2])


def _compress_along(weights: np.ndarray, axis: int) -> tuple[np.ndarray, schema.SparsityParametersT, int]:
    order = [*(other for other in range(weights.ndim) if other != axis), axis]
    rows = weights.transpose(order).reshape(-1, weights.shape[axis])
    occupied = rows != 0
    segments = np.concatenate([[0], np.cumsum(occupied.sum(1))])
    indices = np.nonzero(occupied)[1]
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder = np.array(order, np.int32)
    sparsity.dimMetadata = []
    for other in order[:-1]:
        dimension = schema.DimensionMetadataT()
        dimension.format, dimension.denseSize = schema.DimensionType.DENSE, int(weights.shape[other])
        sparsity.dimMetadata.append(dimension)
    last = schema.DimensionMetadataT()
    last.format = schema.DimensionType.SPARSE_CSR
    last.arraySegmentsType, last.arraySegments, segment_bytes = _index_vector(segments)
    last.arrayIndicesType, last.arrayIndices, indices_bytes = _index_vector(indices)
    sparsity.dimMetadata.append(last)
    return np.ascontiguousarray(rows[occupied]), sparsity, segment_bytes + indices_bytes


def _index_vector(values: np.ndarray) -> tuple[int, object, int]:
    """The narrowest vector type of the schema that holds `values`: its tag, the vector, its bytes."""
    largest = int(values.max(initial=0))
    for limit, dtype, tag, kind in [
        (0xFF, np.uint8, schema.SparseIndexVector.Uint8Vector, schema.Uint8VectorT),
        (0xFFFF, np.uint16, schema.SparseIndexVector.Uint16Vector, schema.Uint16VectorT),
        (2**31 - 1, np.int32, schema.SparseIndexVector.Int32Vector, schema.Int32VectorT),
    ]:
        if largest <= limit:
            vector = kind()
            vector.values = values.astype(dtype)
            return tag, vector, vector.values.nbytes
    raise ValueError(f"index {largest} does not fit the format")


def _store_sparse(
    model: schema.ModelT,
    graph: schema.SubGraphT,
    index: int,
    values: np.ndarray,
    sparsity: schema.SparsityParametersT,
) -> schema.OperatorT:
    """Move a constant tensor into a new sparse one and return the DENSIFY operator that restores it."""
    dense = graph.tensors[index]
    stored = schema.TensorT()
    stored.shape, stored.type, stored.quantization = dense.shape, dense.type, dense.quantization
    stored.name, stored.hasRank = b"", dense.hasRank
    stored.sparsity, stored.buffer = sparsity, len(model.buffers)
    buffer = schema.BufferT()
    buffer.data = values.view(np.uint8).reshape(-1)
    # The dense tensor keeps no data of its own: buffer 0 is the format's empty one.
    model.buffers.append(buffer)
    model.buffers[dense.buffer].data = None
    dense.buffer = 0
    graph.tensors.append(stored)
    operator = schema.OperatorT()
    operator.opcodeIndex = _operator_code(model, schema.BuiltinOperator.DENSIFY)
    operator.inputs, operator.outputs = [len(graph.tensors) - 1], [index]
    operator.builtinOptionsType = schema.BuiltinOptions.DensifyOptions
    operator.builtinOptions = schema.DensifyOptionsT()
    return operator


def _operator_code(model: schema.ModelT, builtin: int) -> int:
    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
