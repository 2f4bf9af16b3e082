"""What the cost of a layer depends on; free of torch, so that what is measured without it can be asked by layer."""

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class LayerShape:
    """A convolution or linear layer as it runs on one image.

    kind: conv, depthwise (of one filter per channel) or linear. kernel, stride: height and width, 1 x 1 for linear.
    size, output: height and width of the maps it reads and writes, 1 x 1 for linear. inputs, outputs: channels.
    groups: of a conv; each of its filters reads inputs / groups channels.
    """

    kind: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    size: tuple[int, int]
    output: tuple[int, int]
    inputs: int
    outputs: int
    groups: int = 1

    @property
    def weights(self) -> int:
        """Trained numbers without biases."""
        read = 1 if self.kind == "depthwise" else self.inputs // self.groups
        return self.outputs * read * math.prod(self.kernel)

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.weights * math.prod(self.output)

    def of(self, inputs: int, outputs: int) -> "LayerShape":
        """The same with other channels."""
        return replace(self, inputs=inputs, outputs=outputs)
