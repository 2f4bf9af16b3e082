import subprocess
import sys


def test_training_needs_torch_and_numpy_alone():
    """A GPU machine may have nothing else: no Pillow, no converter, no runtime, no pydantic."""
    blocked = ("PIL", "ai_edge_litert", "ai_edge_quantizer", "litert_torch", "pydantic", "rich", "scipy", "sklearn",
               "safetensors", "typer", "jinja2", "vl_convert", "torch_pruning")  # fmt: skip
    code = f"""
import sys
for name in {blocked!r}:
    sys.modules[name] = None
import numpy as np, torch
from dlmo import networks
from dlmo.data.dataset import Split
from dlmo.techniques.distillation.losses import loss_of
from dlmo.techniques.distillation.offline import FromAnswers, FromMaps, LiveTeacher
from dlmo.techniques.distillation.online import MutualLearning
from dlmo.techniques.distillation.settings import settings_of
from dlmo.techniques.distillation.within import DeepestToShallow
import dlmo.techniques.channel_pruning
from dlmo.techniques.fake_quantization import QuantizationAwareTraining
from dlmo.techniques.pruning import GradualMagnitudePruning
from dlmo.training.device import best_device
from dlmo.training.loop import train
from dlmo.training.schedule import Augmentation, Schedule
torch.set_num_threads(1)
random = np.random.default_rng(0)
data = Split(random.integers(0, 256, (32, 16, 16, 1), np.uint8), np.arange(32) % 2, ("",) * 32)
teacher = LiveTeacher(networks.build("resnet8@0.5", classes=2, input_shape=(16, 16, 1)), best_device())
peer = networks.build("resnet8@0.5", classes=2, input_shape=(16, 16, 1))
kd, gram = (loss_of(name, settings_of(name, "offline", {{}})) for name in ("kd", "gram"))
distillations = (FromAnswers(kd, 0.1, 0.9, lambda batch: teacher(batch.inputs)),
                 FromMaps(gram, 1, 1, teacher, (16, 16, 1)), MutualLearning(kd, 1, 1, peer, best_device()),
                 DeepestToShallow(1, 1, 0.3, 3, 2, (16, 16, 1)))
for technique in (None, GradualMagnitudePruning(0.5, 5), QuantizationAwareTraining(), *distillations):
    network = networks.build("resnet8@0.5", classes=2, input_shape=(16, 16, 1))
    train(network, data, data, Schedule(1, 16, 0.1, 0.1), Augmentation(True, 1, 2, 0.1), best_device(), 0,
          technique=technique)
print("trained")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "trained", done.stderr
