"""The techniques inside the training loop: what is trained, what is dropped, and that a killed training goes on."""

import copy
import functools

import numpy as np
import pytest
import torch

from dlmo import networks
from dlmo.techniques.distillation.losses import loss_of
from dlmo.techniques.distillation.offline import FromAnswers, FromMaps, LiveTeacher, StoredTeacher, answers_to_view
from dlmo.techniques.distillation.online import MutualLearning
from dlmo.techniques.distillation.settings import LOSSES, settings_of
from dlmo.techniques.distillation.within import DeepestToShallow
from dlmo.techniques.fake_quantization import QuantizationAwareTraining
from dlmo.techniques.pruning import GradualMagnitudePruning, sparsity_of
from dlmo.techniques.technique import Batch, Chain, Technique
from dlmo.training import loop
from dlmo.training.augmentation import augment, numbers_of_view
from dlmo.training.device import Device
from dlmo.training.schedule import Augmentation, Schedule

CPU = Device("cpu", None)
PLAIN = Augmentation(flip=False, shift=1, cutout=0, lighting=0.0)
SHAPE = (16, 16, 1)


def build(name, seed=0):
    torch.manual_seed(seed)
    return networks.build(name, classes=10, input_shape=SHAPE)


def images(digits, count=96):
    return digits.train.take(np.arange(count))


def fit(digits, technique, *, name="resnet8@0.25", epochs=2, count=96, seed=0, **arguments):
    schedule = Schedule(epochs, batch_size=32, learning_rate=0.05, warmup=0.2)
    few = digits.validation.take(np.arange(32))
    train = images(digits, count)
    return loop.train(build(name, seed), train, few, schedule, PLAIN, CPU, seed, technique=technique, **arguments)


def offline(digits, loss, teacher="resnet8@0.5"):
    settings = settings_of(loss, "offline", {})
    live = LiveTeacher(build(teacher, 1), CPU)
    chosen = loss_of(loss, settings)
    weighed = chosen, settings["labels"], settings["weight"]
    if not LOSSES[loss].stored:
        return FromMaps(*weighed, live, SHAPE)
    answering = LOSSES[loss].knowledge == "response"
    ask = live if answering else live.pooled(SHAPE)
    stored = StoredTeacher(functools.partial(answers_to_view, ask, CPU, images(digits), PLAIN), CPU)
    if answering:
        return FromAnswers(*weighed, stored, views=2, warmup=0.5)
    return FromMaps(*weighed, live, SHAPE, stored, views=2)


def online(digits):
    settings = settings_of("kd", "online", {})
    return MutualLearning(loss_of("kd", settings), 1, 1, build("resnet8@0.5", 1), CPU)


SCHEMES = {
    "kd": lambda digits: offline(digits, "kd"),
    "dkd": lambda digits: offline(digits, "dkd"),
    "hint": lambda digits: offline(digits, "hint"),
    "gram": lambda digits: offline(digits, "gram"),
    "rkd": lambda digits: offline(digits, "rkd"),
    "projector": lambda digits: offline(digits, "projector"),
    "attention": lambda digits: offline(digits, "attention"),
    "online": online,
    "shallow": lambda digits: DeepestToShallow(1, 1, 0.3, 3, 10, SHAPE),
}


def weights(network):
    return list(network.state_dict().values())


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(weights(first), weights(second)))


@pytest.mark.parametrize("name", SCHEMES)
def test_a_killed_training_goes_on_to_the_same_network(name, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)
    undisturbed = fit(digits, SCHEMES[name](digits))
    path = tmp_path / "checkpoint.safetensors"

    class Killed(Exception):
        pass

    def kill(share):
        if share > 0.6:
            raise Killed

    with pytest.raises(Killed):
        fit(digits, SCHEMES[name](digits), checkpoint_path=path, progress=kill)
    shares = []
    resumed = fit(digits, SCHEMES[name](digits), checkpoint_path=path, progress=shares.append)
    assert shares[0] > 0.5, "the first epoch was not trained again"
    assert same(undisturbed.network, resumed.network)
    assert not same(undisturbed.network, fit(digits, None).network)


@pytest.mark.parametrize("name", SCHEMES)
def test_the_student_is_a_plain_network_afterwards(name, digits):
    student = fit(digits, SCHEMES[name](digits), epochs=1, count=32).network
    assert student.state_dict().keys() == build("resnet8@0.25").state_dict().keys()
    assert not any(module._forward_hooks for module in student.modules())


def test_the_teacher_stays_as_it_is(digits):
    teacher = build("resnet8@0.5", 1)
    before = copy.deepcopy(teacher)
    settings = settings_of("attention", "offline", {})
    fit(digits, FromMaps(loss_of("attention", settings), 1, 1000, LiveTeacher(teacher, CPU), SHAPE), epochs=1)
    assert same(before, teacher)


@pytest.mark.parametrize("name", ["resnet8", "wide_resnet_10_1", "mobilenet_v3_small@0.25"])
def test_a_teacher_answers_as_the_network_it_was_made_from(name, digits):
    network = fit(digits, None, name=name, epochs=1).network
    x = torch.randn(8, 1, 16, 16)
    assert torch.allclose(LiveTeacher(network, CPU)(x), network.eval()(x), rtol=1e-3, atol=1e-4)


def test_the_weight_rises_from_nothing_over_the_warmup(digits):
    shares = []

    class Alone:
        """1, for each image, whatever was answered."""

        def __call__(self, student, teacher, labels):
            return student.sum() * 0 + 1

    technique = FromAnswers(Alone(), 0.0, 2.0, lambda batch: None, warmup=0.5)
    technique.begin(torch.nn.Linear(1, 1), 8)
    logits = torch.zeros(2, 3)
    for step in range(8):
        shares.append(float(technique.loss(batch_of(logits, torch.zeros(2, dtype=torch.long), None), logits, 0.0)))
        technique.after_step(None, step + 1)
    assert shares == [0, 0.5, 1, 1.5, 2, 2, 2, 2]
    technique.resume(None, 1)
    assert float(technique.loss(batch_of(logits, torch.zeros(2, dtype=torch.long), None), logits, 0.0)) == 0.5


@pytest.mark.parametrize("scheme", ["kd", "dkd", "rkd", "projector"])
def test_what_a_gpu_replays_stays_where_it_is(digits, scheme):
    technique = SCHEMES[scheme](digits)
    places = []

    class Watch(Technique):
        def after_step(self, network, step):
            stored = technique._answers if scheme in ("kd", "dkd") else technique._pooled
            tensors = [stored._said, *network.parameters(), *technique.extra().parameters()]
            tensors += [technique._risen] if scheme in ("kd", "dkd") else []
            places.append([tensor.data_ptr() for tensor in tensors])

    fit(digits, Chain(technique, Watch()), epochs=4)
    assert len(places) > 4 and all(place == places[0] for place in places)


def test_answers_to_another_view_are_refused(digits):
    live = LiveTeacher(build("resnet8@0.5", 1), CPU)
    stored = StoredTeacher(functools.partial(answers_to_view, live, CPU, images(digits, 64), PLAIN), CPU)
    stored.turn_to(0)
    batch = Batch(torch.zeros(1), torch.zeros(1), torch.tensor([3]), 1, None)
    with pytest.raises(ValueError, match="turned to view 0, asked for view 1"):
        stored(batch)


def test_the_peer_learns_too(digits):
    technique = online(digits)
    before = copy.deepcopy(technique.peer)
    fit(digits, technique, epochs=1)
    assert not same(before, technique.peer)


def batch_of(logits, labels, inputs):
    return Batch(
        inputs, labels, torch.arange(len(labels)), None, lambda z: torch.nn.functional.cross_entropy(z, labels)
    )


def test_in_mutual_learning_each_learns_by_its_own_loss():
    student, inputs, labels = build("resnet8@0.25"), torch.randn(4, 1, 16, 16), torch.tensor([0, 1, 2, 3])
    loss = loss_of("kd", settings_of("kd", "online", {}))
    technique = MutualLearning(loss, 1.0, 0.5, build("resnet8@0.25", 1), CPU)
    peer = technique.peer.eval()
    logits = student.eval()(inputs)
    batch = batch_of(logits, labels, inputs)
    technique.loss(batch, logits, batch.task_loss(logits)).backward()
    for network, other in ((student, peer), (peer, student)):
        own = copy.deepcopy(network)
        own.zero_grad()
        answer = own(inputs)
        (batch.task_loss(answer) + 0.5 * loss(answer, other(inputs).detach(), labels)).backward()
        for found, expected in zip(network.parameters(), own.parameters()):
            assert torch.allclose(found.grad, expected.grad, atol=1e-6)


def test_shallow_classifiers_learn_from_labels_and_from_the_deepest_one():
    network, inputs, labels = build("resnet8@0.25").eval(), torch.randn(4, 1, 16, 16), torch.tensor([0, 1, 2, 3])
    technique = DeepestToShallow(1.0, 2.0, 0.3, 3.0, 10, SHAPE)
    technique.begin(network, 1)
    heads = technique.extra().eval()
    assert len(heads) == 2
    maps = {}
    for index, module in enumerate((network.blocks[0], network.blocks[1])):
        module.register_forward_hook(lambda module, inputs, output, index=index: maps.update({index: output}))
    logits = network(inputs)
    batch = batch_of(logits, labels, inputs)
    found = technique.loss(batch, logits, batch.task_loss(logits))
    expected = batch.task_loss(logits)
    soft = loss_of("kd", {"temperature": 3.0})  # times the squared temperature, which the paper leaves out
    for index, head in enumerate(heads):
        answer = head(maps[index])
        expected = expected + 2 * (0.7 * batch.task_loss(answer) + 0.3 * soft(answer, logits, labels) / 9)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_stored_answer_is_the_teachers_answer_to_the_image_the_student_sees(digits):
    live = LiveTeacher(build("resnet8@0.5", 1), CPU)
    few = images(digits, 64)
    stored = StoredTeacher(functools.partial(answers_to_view, live, CPU, few, PLAIN), CPU)
    pooled = StoredTeacher(functools.partial(answers_to_view, live.pooled(SHAPE), CPU, few, PLAIN), CPU)
    seen = []

    class Compare(Technique):
        views = 2

        def begin_epoch(self, view):
            stored.turn_to(view)
            pooled.turn_to(view)

        def loss(self, batch, logits, loss):
            assert torch.allclose(stored(batch), live(batch.inputs), atol=1e-2)
            # The classifier reads exactly these pooled maps.
            assert torch.allclose(live.network.classifier(pooled(batch)), live(batch.inputs), atol=1e-2)
            seen.append(batch.view)
            return loss

    fit(digits, Compare(), epochs=3, count=64)
    assert seen == [0, 0, 1, 1, 0, 0]


def test_a_view_is_the_same_in_every_order_and_another_view_is_not(digits):
    pixels = torch.from_numpy(images(digits, 40).images)
    numbers, order = numbers_of_view(40, 3), torch.randperm(40)
    everything = Augmentation(flip=True, shift=2, cutout=3, lighting=0.2)
    view = augment(pixels, everything, numbers)
    assert torch.equal(augment(pixels[order], everything, numbers[order]), view[order])
    assert not torch.equal(augment(pixels, everything, numbers_of_view(40, 4)), view)


def test_distilling_while_pruning_and_while_quantizing(digits):
    pruned = fit(digits, Chain(GradualMagnitudePruning(0.5, 4), offline(digits, "hint"))).network
    assert sparsity_of(pruned) == pytest.approx(0.5, abs=0.01)
    technique = Chain(QuantizationAwareTraining(), offline(digits, "attention"))
    distilled, plain = fit(digits, technique, epochs=1), fit(digits, QuantizationAwareTraining(), epochs=1)
    assert distilled.network.state_dict().keys() == plain.network.state_dict().keys()
    assert not same(distilled.network, plain.network)
