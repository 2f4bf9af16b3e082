import pytest
import torch
from torch import nn

from dlmo import networks
from dlmo.techniques.integer_form import integer_form, needs_integer_form


@pytest.mark.parametrize("activation", [nn.Hardswish(), nn.Hardsigmoid()])
def test_steps_compute_what_the_activation_does(activation):
    x = torch.linspace(-6, 6, 241)
    assert torch.allclose(integer_form(nn.Sequential(activation))(x), activation(x), atol=1e-6)


def test_a_network_keeps_its_outputs_and_its_weights_by_name():
    torch.manual_seed(0)
    network = networks.build("mobilenet_v3_small@0.5", classes=4, input_shape=(16, 16, 3)).eval()
    x = torch.randn(2, 3, 16, 16)
    rewritten = integer_form(network)
    with torch.no_grad():
        assert torch.allclose(rewritten(x), network(x), atol=1e-5)
    assert network.state_dict().keys() == rewritten.state_dict().keys()
    assert needs_integer_form(network) and not needs_integer_form(rewritten)


def test_networks_without_such_activations_need_nothing():
    assert not needs_integer_form(networks.build("mobilenet_v2@0.35", classes=4, input_shape=(16, 16, 3)))
