"""The beginning of a file's graph as a file of its own: what a network's first operators take and give."""

from ai_edge_litert import schema_py_generated as schema

from dlmo.runtimes.litert import flatbuffer


def computing(model: schema.ModelT) -> list[bool]:
    """Of every operator of the main graph whether it runs for each image: not those that only prepare constants."""
    graph = model.subgraphs[0]
    fixed = {index for index, tensor in enumerate(graph.tensors) if flatbuffer.buffer_bytes(model, tensor.buffer)}
    found = []
    for operator in graph.operators:
        read = [int(index) for index in operator.inputs if index >= 0]
        found.append(not read or not fixed.issuperset(read))
        if not found[-1]:
            fixed.update(map(int, operator.outputs))
    return found


def beginning(content: bytes, operators: int) -> bytes:
    """A file of the first `operators` operators of a file's main graph, the last of them one that computes.

    What they compute and none of them reads is its output, so that nothing may be left out. Weights of the other
    operators are not in it, nor what only prepares those.
    """
    model = flatbuffer.read(content)
    graph = model.subgraphs[0]
    kept, read = [], set()
    for operator, runs in reversed(list(zip(graph.operators, computing(model)))[:operators]):
        if runs or not read.isdisjoint(map(int, operator.outputs)):
            kept.insert(0, (operator, runs))
            read.update(map(int, operator.inputs))
    made = [int(index) for operator, runs in kept if runs for index in operator.outputs]
    graph.operators = [operator for operator, _ in kept]
    graph.outputs = [index for index in made if index not in read]
    model.signatureDefs = None
    used = read.union(made, map(int, graph.inputs))
    for index, tensor in enumerate(graph.tensors):
        if index not in used:
            tensor.buffer, tensor.sparsity = 0, None
    flatbuffer.drop_unread(model)
    return flatbuffer.write(model)
