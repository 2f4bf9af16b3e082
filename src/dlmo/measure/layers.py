"""A file's operators one by one: shapes, types, sizes, delegated or not, latency, and where a compressed file loses
accuracy.

The error of an operator is measured on its output: both files run the same images, every tensor is kept, and outputs
of operators that do the same are compared as real numbers. With `preserve_all_tensors` the interpreter hands each
operator to the delegate by itself, so the kernels are the ones that run in use.
"""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dlmo.data.dataset import Dataset
from dlmo.data.preprocessing import OWN, Normalization
from dlmo.errors import UserError
from dlmo.measure.evaluate import read_model
from dlmo.measure.feeding import FeedOptions, choose_feed, load_for
from dlmo.measure.isolated import Child, memory_for
from dlmo.measure.operator_latency import operator_latencies
from dlmo.measure.probe import Probe, Report, opener, probe_file
from dlmo.progress import Progress, SilentProgress
from dlmo.runtimes.litert import flatbuffer
from dlmo.runtimes.litert.interpreter import Runner, dequantized

COMPARED_IMAGES = 48
# Operators that only change how numbers are stored, and those that compute shapes: nothing to compare.
_NOT_COMPARED = ("QUANTIZE", "DEQUANTIZE", "DENSIFY", "SHAPE", "STRIDED_SLICE", "PACK", "CAST", "RESHAPE", "TRANSPOSE")
_TYPE_NAMES = {code: name.lower() for name, code in vars(schema.TensorType).items() if name.isupper()}


@dataclass(frozen=True)
class Operator:
    """One operator, in the order of execution.

    output: shape of its first output. types: of its input, weights (empty without) and output. weight_bytes: of the
    constants it reads. delegated: whether the delegate (XNNPACK) runs it. latency_us: microseconds that it adds to a
    run, None where that was not asked (see operator_latency.py).
    Of a comparison: twin: index of the same operator in the float file, None where none was found. error: power of
    the difference to the twin's output, as a share of the power of that output. added: how much of the error is new,
    that is not yet in the worst of its inputs.
    """

    index: int
    name: str
    output: tuple[int, ...]
    input_type: str
    weight_type: str
    output_type: str
    weight_bytes: int
    macs: int
    delegated: bool
    latency_us: float | None = None
    twin: int | None = None
    error: float | None = None
    added: float | None = None

    @property
    def title(self) -> str:
        """3 CONV_2D 1x8x8x32"""
        return f"{self.index} {self.name} {'x'.join(map(str, self.output))}"

    @property
    def decibels(self) -> float | None:
        """Signal-to-noise ratio of the output; None where nothing was compared, or nothing differs."""
        return -10 * math.log10(self.error) if self.error else None

    def to_json(self) -> dict:
        return asdict(self) | {"snr_db": self.decibels}


@dataclass(frozen=True)
class Comparison:
    """Against which float file, on how many images of which data; on how many of them both give the same answer."""

    against: str
    dataset: str
    images: int
    agreeing: int


@dataclass(frozen=True)
class Timing:
    """What a run of the file takes, microseconds, of so many images at once, with so many threads."""

    whole_us: float
    images: int
    threads: int


@dataclass(frozen=True)
class Inspection:
    """A file's operators, and how they compare with the float file's, where one was given. timing: None where latency
    was not asked for."""

    model: str
    size_bytes: int
    partitions: int
    operators: tuple[Operator, ...]
    comparison: Comparison | None
    timing: Timing | None = None

    def slowest(self, count: int) -> list[Operator]:
        """The operators that add most latency, slowest first."""
        timed = [operator for operator in self.operators if operator.latency_us]
        return sorted(timed, key=lambda operator: -operator.latency_us)[:count]

    def worst(self, count: int) -> list[Operator]:
        """The operators that add most error, worst first."""
        compared = [operator for operator in self.operators if operator.added is not None and operator.added > 0]
        return sorted(compared, key=lambda operator: -operator.added)[:count]

    def unmatched(self) -> list[Operator]:
        """Operators that compute but have no twin."""
        if self.comparison is None:
            return []
        return [each for each in self.operators if each.twin is None and each.name not in _NOT_COMPARED]

    def to_json(self) -> dict:
        document = asdict(self)
        document["operators"] = [operator.to_json() for operator in self.operators]
        document["worst"] = [operator.index for operator in self.worst(len(self.operators))]
        document["unmatched"] = [operator.index for operator in self.unmatched()]
        return document


def inspect(
    model: str | Path,
    *,
    against: str | Path | None = None,
    source: str | Path | None = None,
    latency: bool = False,
    threads: int = 1,
    feed: FeedOptions | None = None,
    group_by: str | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """List a file's operators; with a float file and a data set, also measure each one's error.

    latency: measure what each operator adds to it, with so many `threads`.

    `feed` and `group_by` are as in evaluate, `feed` for both files. The compared images are spread over the validation
    split.
    """
    progress, options = progress or SilentProgress(), feed or FeedOptions()
    if threads < 1:
        raise UserError(f"--threads {threads}: give 1 or more")
    if threads != 1 and not latency:
        raise UserError("--threads is for latency: add --latency")
    if (against is None) != (source is None):
        raise UserError("--against takes a float file and needs a data set: --against FLOAT_MODEL SOURCE")
    opening = FeedOptions(layout=options.layout, input_size=options.input_size)
    if against is None and (options != opening or group_by is not None):
        raise UserError("how images are read is asked for a comparison alone: add --against FLOAT_MODEL SOURCE")
    path = Path(model).expanduser()
    content = read_model(path)
    with Child(str(path), memory=memory_for(content)) as child:
        with progress.stage(f"open {path.name}"):
            probe = Probe(**child.call(probe_file, content, options.layout, options.size))
            rows = child.call(list_operators, content, options.layout, options.size)
        operators = tuple(Operator(**row | {"output": tuple(row["output"])}) for row in rows)
        timing = None
        if latency:
            with progress.stage(f"time {len(rows)} operators") as update:
                times = child.call(operator_latencies, content, options.layout, options.size, threads, update=update)
            timing = Timing(times["whole"], probe.batch, threads)
            operators = tuple(replace(o, latency_us=taken) for o, taken in zip(operators, times["operators"]))
        if against is None:
            return Inspection(str(path), len(content), probe.partitions, operators, None, timing)
        other = Path(against).expanduser()
        other_content = read_model(other)
        with progress.stage(f"open {other.name}"), Child(str(other), memory=memory_for(other_content)) as other_child:
            other_probe = Probe(**other_child.call(probe_file, other_content, options.layout, options.size))
            if not other_child.call(is_float, other_content):
                raise UserError(f"--against {other}: quantized or sparse; give the float file of the same network")
        if _interface(probe) != _interface(other_probe):
            raise UserError(
                f"{path} and {other} differ in image size, channels or classes; compare files of one network"
            )
        with progress.stage(f"read {source}"):
            dataset = load_for(source, path, probe, group_by, progress)
        images = dataset.validation.spread(COMPARED_IMAGES).images
        chosen, other_chosen = choose_feed(options, path, probe), choose_feed(options, other, other_probe)
        with progress.stage(f"compare on {len(images)} images") as update:
            compared = child.call(
                compare,
                *(content, other_content, options.layout, options.size),
                *(chosen.normalization, other_chosen.normalization, chosen.pixels(images)),
                update=update,
            )
    measured = tuple(replace(operator, **errors) for operator, errors in zip(operators, compared["errors"]))
    comparison = Comparison(str(other), dataset.name, len(images), compared["agreeing"])
    return Inspection(str(path), len(content), probe.partitions, measured, comparison, timing)


def inspect_own(model: str, content: bytes, against: str, float_content: bytes, dataset: Dataset) -> Inspection:
    """The same in this process, for two files that dlmo has just made. model, against: what they are, in words."""
    rows = list_operators(content, "auto", None, _unheard)
    images = dataset.validation.spread(COMPARED_IMAGES).images
    rule = asdict(OWN)
    compared = compare(content, float_content, "auto", None, rule, rule, images, _unheard)
    operators = tuple(replace(operator, **errors) for operator, errors in zip(rows, compared["errors"]))
    comparison = Comparison(against, dataset.name, len(images), compared["agreeing"])
    return Inspection(model, len(content), Runner(content).delegation()[0], operators, comparison)


def _unheard(share: float) -> None:
    """Nobody waits for reports in the same process."""


def _interface(probe: Probe) -> tuple:
    return probe.size, probe.channels, probe.classes


def is_float(content: bytes, report: Report) -> bool:
    """Whether all weights are float32 and dense. In the child process."""
    return flatbuffer.has_float_weights(content)


def list_operators(content: bytes, layout: str, size: list[int] | None, report: Report) -> list[Operator]:
    """In a child: the operators of a file."""
    report(0)
    model = flatbuffer.read(content)
    _, delegated = opener(layout, size)(content).delegated_nodes()
    graph = model.subgraphs[0]
    batch = flatbuffer.batch_of(graph)
    found = []
    for index, operator in enumerate(graph.operators):
        name = flatbuffer.operator_name(model, operator)
        inputs, output = flatbuffer.input_tensors(graph, operator), flatbuffer.output_tensor(graph, operator)
        constants = [tensor for tensor in inputs if flatbuffer.buffer_bytes(model, tensor.buffer)]
        weighted = name in flatbuffer.WEIGHTED and len(inputs) > 1
        found.append(
            Operator(
                index=index,
                name=name,
                output=flatbuffer.shape_of(output) if output is not None else (),
                input_type=_type_name(inputs[0]) if inputs else "",
                weight_type=_type_name(inputs[1]) if weighted else "",
                output_type=_type_name(output) if output is not None else "",
                weight_bytes=sum(len(flatbuffer.buffer_bytes(model, tensor.buffer)) for tensor in constants),
                macs=flatbuffer.work(name, inputs, output, batch)[1],
                delegated=delegated[index],
            )
        )
    return found


def _type_name(tensor: schema.TensorT) -> str:
    return _TYPE_NAMES.get(tensor.type, str(tensor.type))


def compare(
    content: bytes,
    float_content: bytes,
    layout: str,
    size: list[int] | None,
    normalization: dict,
    float_normalization: dict,
    images: np.ndarray,
    report: Report,
) -> dict:
    """In a child: per operator of the first file its twin, error and added error; and the agreeing answers."""
    kept = _Kept(content, layout, size, normalization)
    floats = _Kept(float_content, layout, size, float_normalization)
    twins = matched(kept.keys, floats.keys)
    noise, power = (dict.fromkeys(twins, 0.0) for _ in range(2))
    agreeing = 0
    for number, image in enumerate(images):
        report(number / len(images))
        agreeing += int(kept.run(image).argmax() == floats.run(image).argmax())
        for index, twin in twins.items():
            got, wanted = kept.output(index).astype(np.float64), floats.output(twin).astype(np.float64)
            if kept.cut[index] or floats.cut[twin]:  # a quantizer may leave an activation to the output's range
                got, wanted = np.maximum(got, 0), np.maximum(wanted, 0)
            noise[index] += float(np.square(got - wanted).sum())
            power[index] += float(np.square(wanted).sum())
    errors = {index: noise[index] / power[index] for index in twins if power[index] > 0 and np.isfinite(noise[index])}
    carried = kept.carried(errors)
    rows = []
    for index in range(len(kept.keys)):
        error = errors.get(index)
        added = None if error is None else error - carried[index]
        rows.append({"twin": twins.get(index), "error": error, "added": added})
    return {"errors": rows, "agreeing": agreeing}


class _Kept:
    """A file in an interpreter that keeps every tensor of the last run."""

    def __init__(self, content: bytes, layout: str, size: list[int] | None, normalization: dict) -> None:
        self._runner: Runner = opener(layout, size)(content, keep_tensors=True)
        self._normalization = Normalization(**normalization)
        model = flatbuffer.read(content)
        self._nodes = [node for node in self._runner.interpreter._get_ops_details() if node["op_name"] != "DELEGATE"]
        self._tensors = {entry["index"]: entry for entry in self._runner.interpreter.get_tensor_details()}
        self.keys = [_key(model, operator) for operator in model.subgraphs[0].operators]
        self.cut = [_cut_at_zero(model, operator) for operator in model.subgraphs[0].operators]

    def run(self, image: np.ndarray) -> np.ndarray:
        """Scores of one image H x W x C."""
        return self._runner.run(self._runner.prepare(image[None], self._normalization))[0]

    def output(self, index: int) -> np.ndarray:
        """The first output of an operator in the last run, as real numbers."""
        tensor = int(self._nodes[index]["outputs"][0])
        values = self._runner.interpreter.get_tensor(tensor)
        return dequantized(values, self._tensors[tensor]["quantization"])

    def carried(self, errors: dict[int, float]) -> list[float]:
        """For every operator the largest error among its inputs; operators without a twin hand theirs on."""
        known: dict[int, float] = {}
        found = []
        for index, node in enumerate(self._nodes):
            found.append(max((known.get(int(tensor), 0.0) for tensor in node["inputs"]), default=0.0))
            for tensor in node["outputs"]:
                known[int(tensor)] = errors.get(index, found[-1])
        return found


def _key(model: schema.ModelT, operator: schema.OperatorT) -> tuple | None:
    """What an operator must share with its twin: name and output shape. None for one that is not compared."""
    name = flatbuffer.operator_name(model, operator)
    output = flatbuffer.output_tensor(model.subgraphs[0], operator)
    if name in _NOT_COMPARED or output is None:
        return None
    shape = flatbuffer.shape_of(output)
    # A 1x1 convolution may have become a dense layer over each pixel (see runtimes.litert.four_bits).
    return ("CONV_2D" if name == "FULLY_CONNECTED" and len(shape) == 4 else name, shape)


def _cut_at_zero(model: schema.ModelT, operator: schema.OperatorT) -> bool:
    """Whether the output has no negative numbers, by the operator's activation or by its quantized type."""
    activation = getattr(operator.builtinOptions, "fusedActivationFunction", schema.ActivationFunctionType.NONE)
    if activation in (schema.ActivationFunctionType.RELU, schema.ActivationFunctionType.RELU6):
        return True
    output = flatbuffer.output_tensor(model.subgraphs[0], operator)
    zero_points = getattr(output.quantization, "zeroPoint", None) if output is not None else None
    lowest = {schema.TensorType.INT8: -128, schema.TensorType.UINT8: 0}
    return zero_points is not None and len(zero_points) > 0 and int(zero_points[0]) == lowest.get(output.type)


def matched(keys: list[tuple | None], float_keys: list[tuple | None]) -> dict[int, int]:
    """Which operator of the float file each one corresponds to: the longest common subsequence of equal keys.

    Names of tensors do not count: converters change them and dlmo shortens them.
    """
    own = [index for index, key in enumerate(keys) if key is not None]
    other = [index for index, key in enumerate(float_keys) if key is not None]
    # longest[i][j]: how many pairs own[i:] and other[j:] can have.
    longest = [[0] * (len(other) + 1) for _ in range(len(own) + 1)]
    for i in reversed(range(len(own))):
        for j in reversed(range(len(other))):
            same = keys[own[i]] == float_keys[other[j]]
            longest[i][j] = longest[i + 1][j + 1] + 1 if same else max(longest[i + 1][j], longest[i][j + 1])
    found, i, j = {}, 0, 0
    while i < len(own) and j < len(other):
        if keys[own[i]] == float_keys[other[j]]:
            found[own[i]] = other[j]
            i, j = i + 1, j + 1
        elif longest[i + 1][j] >= longest[i][j + 1]:
            i += 1
        else:
            j += 1
    return found
