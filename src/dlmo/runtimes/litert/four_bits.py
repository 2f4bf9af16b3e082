"""Where weights of 4 bits pay: dense layers, and 1x1 convolutions written as dense layers over the channels.

XNNPACK has 4-bit weights with int8 activations for FULLY_CONNECTED alone. A CONV_2D with such weights leaves the
delegate and is slower than in float; of 1x1 and stride 1 it computes what a FULLY_CONNECTED over each pixel does.
"""

from ai_edge_litert import schema_py_generated as schema

from dlmo.runtimes.litert import flatbuffer

_DENSE = schema.BuiltinOperator.FULLY_CONNECTED
_DENSE_VERSION = 12  # the first with one scale per output channel


def takes_four_bits(model: schema.ModelT, operator: schema.OperatorT) -> bool:
    """Whether an operator with weights of 4 bits stays inside the delegate, as it is or as a dense layer."""
    name = flatbuffer.operator_name(model, operator)
    if name == "FULLY_CONNECTED":
        return flatbuffer.shape_of(_weights(model, operator))[-1] % 2 == 0
    return name == "CONV_2D" and _is_pointwise(model, operator)


def _is_pointwise(model: schema.ModelT, operator: schema.OperatorT) -> bool:
    _, height, width, inputs = flatbuffer.shape_of(_weights(model, operator))
    channels = flatbuffer.shape_of(model.subgraphs[0].tensors[int(operator.inputs[0])])[-1]
    options = operator.builtinOptions
    strides = options.strideH, options.strideW
    # Two weights share a byte; fewer inputs than channels is a grouped convolution.
    return (height, width, *strides) == (1, 1, 1, 1) and inputs == channels and inputs % 2 == 0


def pointwise_as_dense(content: bytes) -> bytes:
    """The same file, its 1x1 convolutions with 4-bit weights as dense layers."""
    model = flatbuffer.read(content)
    pointwise = [
        operator
        for operator in model.subgraphs[0].operators
        if flatbuffer.operator_name(model, operator) == "CONV_2D"
        and _weights(model, operator).type == schema.TensorType.INT4
        and _is_pointwise(model, operator)
    ]
    for operator in pointwise:
        options = schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = operator.builtinOptions.fusedActivationFunction
        options.keepNumDims = True
        operator.builtinOptions, operator.builtinOptionsType = options, schema.BuiltinOptions.FullyConnectedOptions
        operator.opcodeIndex = _dense_code(model)
        weights = _weights(model, operator)  # which several operators may share
        weights.shape = [weights.shape[0], weights.shape[-1]]
    return flatbuffer.write(model)


def _weights(model: schema.ModelT, operator: schema.OperatorT) -> schema.TensorT:
    return model.subgraphs[0].tensors[int(operator.inputs[1])]


def _dense_code(model: schema.ModelT) -> int:
    """The index of the dense layer among the file's operator codes; added where there is none."""
    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == _DENSE:
            code.version = max(code.version, _DENSE_VERSION)
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = _DENSE
    code.version = _DENSE_VERSION
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
