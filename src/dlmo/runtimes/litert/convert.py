"""From a torch network to the bytes of a .tflite file."""

import logging
import os
import tempfile
import warnings

import torch
from torch import nn

from dlmo.runtimes.litert.interpreter import quiet


def convert(network: nn.Module, input_shape: tuple[int, int, int], quantized: bool = False) -> bytes:
    """Convert to a file that takes 1 x H x W x C and gives 1 x classes logits.

    network: takes float32 N x C x H x W; used in evaluation mode, not changed.
    input_shape: height, width, channels.
    quantized: the network carries explicit quantize/dequantize pairs (see techniques.fake_quantization); the
    file then computes in int8 with exactly those scales.
    """
    os.environ["LITERT_TORCH_SHOW_PROGRESS"] = "n"
    height, width, channels = input_shape
    sample = (torch.zeros(1, height, width, channels),)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger().setLevel(logging.ERROR)
        import litert_torch

        options = {}
        if quantized:
            from litert_torch.quantize import pt2e_quantizer, quant_config

            scheme = pt2e_quantizer.get_symmetric_quantization_config(is_per_channel=True, is_qat=True)
            quantizer = pt2e_quantizer.PT2EQuantizer().set_global(scheme)
            options["quant_config"] = quant_config.QuantConfig(pt2e_quantizer=quantizer)
        wrapped = _ChannelsLastInput(network).eval()
        edge_model = litert_torch.convert(wrapped, sample, **options)
        with tempfile.NamedTemporaryFile(suffix=".tflite") as file:
            edge_model.export(file.name)
            return file.read()


class _ChannelsLastInput(nn.Module):
    """Takes N x H x W x C; the converter folds the permutation away."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image.permute(0, 3, 1, 2))
