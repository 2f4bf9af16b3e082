import numpy as np
import pytest
import torch
from torch import nn

from dlmo import networks
from dlmo.training import checkpoint, loop
from dlmo.training.device import Device, memory_format
from dlmo.training.schedule import Augmentation, Schedule

CPU = Device("cpu", None)
PLAIN = Augmentation(flip=False, shift=1, cutout=0, lighting=0.0)


def fresh():
    torch.manual_seed(0)
    return networks.build("resnet8@0.5", classes=10, input_shape=(16, 16, 1))


def small(split, count=320):
    return split.take(np.arange(count))


def fit(digits, epochs=2, orthogonal=False, **arguments):
    schedule = Schedule(epochs, batch_size=32, learning_rate=0.1, warmup=0.2, orthogonal=orthogonal)
    return loop.train(fresh(), small(digits.train), digits.validation, schedule, PLAIN, CPU, seed=0, **arguments)


def same_weights(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))


def test_a_network_learns_digits(digits):
    schedule = Schedule(8, batch_size=32, learning_rate=0.1, warmup=0.2)
    result = loop.train(fresh(), digits.train, digits.validation, schedule, PLAIN, CPU, seed=0)
    assert len(result.curve) == 8
    assert result.curve[-1].loss < result.curve[0].loss
    accuracy = (loop.predict(result.network, digits.test, CPU).argmax(1) == digits.test.labels).mean()
    assert accuracy > 0.9


def test_the_same_seed_trains_the_same_network(digits):
    assert same_weights(fit(digits).network, fit(digits).network)


def test_less_than_an_epoch_sees_a_part_of_the_images(digits):
    seen = []
    schedule = Schedule(1, batch_size=32, learning_rate=0.1, warmup=0.2).lasting(0.35)
    assert schedule.lasting(0.0001).passes > 0, "the least is no nothing"
    images = small(digits.train)
    loop.train(fresh(), images, digits.validation, schedule, PLAIN, CPU, seed=0, progress=seen.append)
    assert len(seen) == 0.35 * len(images) // 32 and seen[-1] == 1


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_weighed_classes_is_torchs(smoothing):
    torch.manual_seed(0)
    labels, weights = torch.tensor([0, 2, 1, 2, 2]), torch.tensor([2.0, 1.0, 0.3])
    for given in (weights, None):
        ours, theirs = (torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in "ab")
        found = loop.cross_entropy(ours, labels, given, smoothing)
        expected = nn.functional.cross_entropy(theirs, labels, weight=given, label_smoothing=smoothing)
        found.backward()
        expected.backward()
        assert found.item() == pytest.approx(expected.item(), rel=1e-6)
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-7)


class Killed(Exception):
    pass


@pytest.mark.parametrize("orthogonal", [False, True])
def test_a_resumed_training_ends_like_an_undisturbed_one(digits, tmp_path, monkeypatch, orthogonal):
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)
    undisturbed = fit(digits, epochs=3, orthogonal=orthogonal)
    path = tmp_path / "checkpoint.safetensors"

    def kill(share):
        if share > 0.7:
            raise Killed

    with pytest.raises(Killed):
        fit(digits, epochs=3, orthogonal=orthogonal, checkpoint_path=path, progress=kill)
    assert path.exists()
    shares = []
    resumed = fit(digits, epochs=3, orthogonal=orthogonal, checkpoint_path=path, progress=shares.append)
    assert shares[0] > 0.6, "the first two epochs were not trained again"
    assert same_weights(undisturbed.network, resumed.network)
    assert [epoch.loss for epoch in resumed.curve] == [epoch.loss for epoch in undisturbed.curve]


def test_class_weights_change_what_is_learned(digits):
    weights = np.ones(10, np.float32)
    weights[3] = 50
    plain, weighted = fit(digits), fit(digits, class_weights=weights)
    count = [int((loop.predict(r.network, digits.test, CPU).argmax(1) == 3).sum()) for r in (plain, weighted)]
    assert count[1] > count[0]


def test_learning_rate_rises_then_falls_to_zero():
    schedule = Schedule(1, 32, learning_rate=0.5, warmup=0.25)
    rates = [schedule.learning_rate_at(step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(0.5)
    assert rates.index(max(rates)) in (24, 25)
    assert rates[0] == pytest.approx(0.02)
    assert rates[-1] == pytest.approx(0.5 / 75)


def test_network_input_is_normalized_and_small_sizes_are_multiples_of_four():
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).reshape(1, 1, 3, 1).expand(1, 20, 3, 1)
    assert loop.to_network_input(images)[0, 0, 0].tolist() == [-1.0, 0.0, 127 / 128]
    square = torch.zeros(2, 30, 30, 3, dtype=torch.uint8)
    assert loop.to_network_input(square, 0.75).shape == (2, 3, 20, 20)


def test_checkpoints_hold_tensors_and_record_without_pickle(tmp_path):
    path = tmp_path / "weights.safetensors"
    checkpoint.save_weights(path, fresh(), {"epochs": 3})
    other = fresh()
    with torch.no_grad():
        next(other.parameters()).zero_()
    assert checkpoint.load_weights(path, other) == {"epochs": 3}
    assert same_weights(fresh(), other)
    assert b"pickle" not in path.read_bytes()[:4096]
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_checkpoint_is_thrown_away(digits, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"")  # what a power loss may leave
    assert same_weights(fit(digits, checkpoint_path=path).network, fit(digits).network)


def test_progressive_sizes_grow_to_the_full_side():
    schedule = Schedule(1, 32, 0.1, 0.1, progressive=True)
    sizes = [schedule.size_at(step, 100) for step in range(100)]
    assert sizes == sorted(sizes)
    assert (sizes.count(0.5), sizes.count(0.75), sizes.count(1.0)) == (40, 40, 20)
    work = [schedule.work_done(step, 100) for step in range(101)]
    assert work[0] == 0 and work[100] == 1
    assert work[100] - work[80] == pytest.approx(2 * work[40]), "half as many steps of four times the pixels"
    plain = Schedule(1, 32, 0.1, 0.1)
    assert plain.work_done(30, 100) == 0.3


@pytest.mark.parametrize("inputs, kernel, stride, unsafe", [(4, 1, 2, True), (4, 1, 1, False), (4, 3, 2, False),
                                                            (16, 1, 2, False)])  # fmt: skip
def test_layers_that_corrupt_memory_in_channels_last_train_in_contiguous_layout(inputs, kernel, stride, unsafe):
    layer = torch.nn.Sequential(torch.nn.Conv2d(inputs, 8, kernel, stride))
    assert (memory_format(layer, CPU) == torch.contiguous_format) == unsafe
    assert memory_format(layer, Device("cuda", None)) == torch.channels_last


def test_grey_images_take_the_networks_layout(digits):
    """One channel has strides that fit both layouts; they must not bring the unsafe one into a narrow network."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 5, 3, padding=1, bias=False),
        torch.nn.Conv2d(5, 9, 1, stride=2, bias=False),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(9, 10),
    )
    assert memory_format(network, CPU) == torch.contiguous_format
    seen = []
    network[1].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    images = small(digits.train, 64)
    loop.train(network, images, images, Schedule(1, 32, 0.01, 0.1), PLAIN, CPU, seed=0)
    assert all(each.is_contiguous() for each in seen[:2]), "the two training steps"


def test_layers_that_share_a_weight_are_saved(tmp_path):
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[1].weight = network[0].weight
    checkpoint.save_weights(tmp_path / "w.safetensors", network, {})
    tensors, _ = checkpoint.load(tmp_path / "w.safetensors")
    assert torch.equal(tensors["1.weight"], network[0].weight) and torch.equal(tensors["0.weight"], network[0].weight)


def test_a_disk_that_is_full_is_an_error_of_the_system(tmp_path):
    with pytest.raises(OSError, match="cannot write"):
        checkpoint.save(tmp_path / "no folder" / "w.safetensors", {"w": torch.zeros(1)}, {})


def test_fewer_large_images_are_predicted_at_once():
    assert [loop.predicted_at_once((side, side, 3)) for side in (32, 128, 512, 1024, 4096)] == [256, 256, 16, 4, 1]
