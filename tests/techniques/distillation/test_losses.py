"""Every loss against a value worked out by hand, and its gradient against finite differences."""

import math

import pytest
import torch

from dlmo.techniques.distillation.feature import AttentionTransfer, Hint, ProjectedDirection
from dlmo.techniques.distillation.losses import loss_of
from dlmo.techniques.distillation.relation import DistancesAndAngles, GramMatrices
from dlmo.techniques.distillation.response import CorrelatedLogits, DecoupledLogits, SoftenedLogits
from dlmo.techniques.distillation.settings import LOSSES, settings_of

LABELS = torch.tensor([0])


def logits(*rows):
    """Logits whose softmax is these rows."""
    return torch.tensor(rows, dtype=torch.float64).log()


def maps(values):
    return torch.tensor(values, dtype=torch.float64)


def points(values):
    """One map of one position per image."""
    return [maps(values)[:, :, None, None]]


def random(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_softened_logits():
    # KL((3/4, 1/4) || (1/2, 1/2)); at temperature 2 the teacher's logits are doubled, and the loss is times 4.
    by_hand = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    student, teacher = logits([0.5, 0.5]), logits([0.75, 0.25])
    assert SoftenedLogits(1)(student, teacher, LABELS).item() == pytest.approx(by_hand)
    assert SoftenedLogits(2)(student, 2 * teacher, LABELS).item() == pytest.approx(4 * by_hand)


def test_the_gradient_of_softened_logits_is_the_difference_of_the_answers():
    student, teacher = random(4, 5).requires_grad_(), random(4, 5, seed=1)
    SoftenedLogits(3)(student, teacher, LABELS).backward()
    difference = (student / 3).softmax(1) - (teacher / 3).softmax(1)
    assert torch.allclose(student.grad, 3 * difference / 4)


def test_standardized_logits_ignore_shift_and_scale():
    loss = SoftenedLogits(2, standardize=True)
    student, teacher = random(3, 4), random(3, 4, seed=1)
    assert loss(5 * teacher + 7, teacher, LABELS).item() == pytest.approx(0, abs=1e-9)
    # (0, 1, 2) becomes (-1, 0, 1), and (0, 0, 3) becomes (-1, -1, 2) / sqrt(3).
    three, steep = maps([[0.0, 1, 2]]), maps([[0.0, 0, 3]])
    plain = SoftenedLogits(2)(maps([[-1.0, 0, 1]]), maps([[-1.0, -1, 2]]) / math.sqrt(3), LABELS)
    assert loss(three, steep, LABELS).item() == pytest.approx(plain.item(), rel=1e-5)
    assert loss(student, teacher, LABELS) > 0


def test_decoupled_logits():
    student, teacher = logits([1 / 3, 1 / 3, 1 / 3]), logits([0.5, 0.375, 0.125])
    target = 0.5 * math.log(1.5) + 0.5 * math.log(0.75)  # (1/2, 1/2) against (1/3, 2/3)
    others = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # (3/4, 1/4) against (1/2, 1/2)
    assert DecoupledLogits(1, 1, 8)(student, teacher, LABELS).item() == pytest.approx(target + 8 * others)


def test_decoupled_parts_add_up_to_the_whole():
    # The paper's equation 6: KD = TCKD + (1 - p) NCKD, p the teacher's probability of the target.
    student, teacher, label = random(1, 6), random(1, 6, seed=1), torch.tensor([2])
    others = 1 - teacher.softmax(1)[0, 2].item()
    whole = SoftenedLogits(1)(student, teacher, label).item()
    assert DecoupledLogits(1, 1, others)(student, teacher, label).item() == pytest.approx(whole)


def test_correlated_logits():
    teacher = logits([0.5, 0.3, 0.2], [0.2, 0.3, 0.5])
    student = teacher.flip(0)
    # Each image correlates by -13/14; the classes by -1, 0 (it does not vary) and -1.
    by_hand = (1 + 13 / 14) + (1 + 2 / 3)
    assert CorrelatedLogits(1)(student, teacher, LABELS).item() == pytest.approx(by_hand)
    assert CorrelatedLogits(2)(2 * student, 2 * teacher, LABELS).item() == pytest.approx(4 * by_hand)


def test_hint():
    student, teacher = torch.ones(2, 3, 4, 4), torch.full((2, 3, 4, 4), 3.0)
    assert Hint()([student], [teacher]).item() == pytest.approx((1 - 3) ** 2 / 3**2)
    assert Hint()([5 * student], [5 * teacher]).item() == pytest.approx(4 / 9)


def test_attention():
    # Squares (9, 16) have length sqrt(337); against (1, 0) two unit vectors differ by 2 - 2 cos, mean over 2 places.
    student, teacher = maps([[[[3.0, 4]]]]), maps([[[[1.0, 0]]]])
    by_hand = (2 - 2 * 9 / math.sqrt(337)) / 2
    assert AttentionTransfer()([student], [teacher]).item() == pytest.approx(by_hand)
    two_channels = torch.cat([teacher, teacher], 1)
    assert AttentionTransfer()([student] * 2, [two_channels] * 2).item() == pytest.approx(2 * by_hand)


def test_projected_direction():
    loss = ProjectedDirection()
    assert loss(points([[1.0, 0]]), points([[3.0, 4]])).item() == pytest.approx(1 - 0.6)
    spread = maps([[[[0.0, 2]], [[4.0, 4]]]])  # pooled: (1, 4)
    assert loss([spread], points([[2.0, 8]])).item() == pytest.approx(0)


def test_distances():
    # Distances 1, 2, 1 and 1, 3, 2 over their means 4/3 and 2: 3/4, 3/2, 3/4 and 1/2, 3/2, 1. All angles are equal.
    student, teacher = points([[0.0], [1], [2]]), points([[0.0], [1], [3]])
    huber = 2 * (0.5 * 0.25**2 + 0 + 0.5 * 0.25**2) / 9
    assert DistancesAndAngles()(student, teacher).item() == pytest.approx(25 * huber)


def test_angles():
    def cosines(corners):
        found = []
        for at in corners:
            for one in corners:
                for other in corners:
                    first, second = (torch.tensor(end) - torch.tensor(at) for end in (one, other))
                    lengths = first.norm() * second.norm()
                    found.append(float(first @ second / lengths) if lengths > 0 else 0.0)
        return found

    line, corner = [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]], [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    differences = [abs(a - b) for a, b in zip(cosines(line), cosines(corner))]
    huber = sum(0.5 * d * d if d < 1 else d - 0.5 for d in differences) / 27
    assert DistancesAndAngles(0, 50)(points(line), points(corner)).item() == pytest.approx(50 * huber, rel=1e-5)


def test_gram_matrices():
    student = [maps([[[[1.0, 2], [3, 4]]]]), maps([[[[2.0]], [[5.0]]]])]  # 4 at most, times (2, 5)
    teacher = [maps([[[[1.0, 1], [1, 1]]]]), maps([[[[1.0]], [[1.0]]]])]
    assert GramMatrices()(student, teacher).item() == (7**2 + 19**2) / 2
    assert GramMatrices()(teacher, student).item() == pytest.approx((7**2 + 19**2) / (8**2 + 20**2))


RESPONSE = [name for name, loss in LOSSES.items() if loss.knowledge == "response"]
ON_MAPS = [name for name, loss in LOSSES.items() if loss.knowledge in ("feature", "relation")]


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("name", RESPONSE)
def test_gradients_of_losses_on_answers(name, standardize):
    loss = loss_of(name, settings_of(name, "offline", {"standardize": standardize}))
    teacher, labels = random(4, 5, seed=1), torch.tensor([0, 1, 4, 1])
    assert torch.autograd.gradcheck(lambda student: loss(student, teacher, labels), random(4, 5).requires_grad_())
    assert loss(teacher, teacher, labels).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ON_MAPS)
def test_gradients_of_losses_on_maps(name):
    loss = loss_of(name, settings_of(name, "offline", {}))
    teacher = [random(4, 3, 4, 4, seed=1), random(4, 2, 2, 2, seed=2)]
    student = random(4, 3, 4, 4).requires_grad_(), random(4, 2, 2, 2, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda *own: loss(list(own), teacher), student)
    assert loss(teacher, teacher).item() == pytest.approx(0, abs=1e-9)


def test_two_equal_images_leave_the_gradient_finite():
    student = maps([[1.0, 2], [1, 2], [0, 3]]).requires_grad_()
    DistancesAndAngles()([student[:, :, None, None]], points([[1.0, 2], [0, 0], [2, 2]])).backward()
    assert student.grad.isfinite().all()


def test_published_settings_and_what_overrides_them():
    assert settings_of("kd", "offline", {}) == {
        "labels": 0.1, "weight": 0.9, "temperature": 4, "standardize": False,
    }  # fmt: skip
    assert settings_of("kd", "offline", {"standardize": True})["weight"] == 9
    assert settings_of("dkd", "online", {"beta": 2.0}) == {
        "labels": 1, "weight": 1, "temperature": 1, "alpha": 1, "beta": 2, "standardize": False, "warmup": 0,
    }  # fmt: skip
    assert settings_of("dkd", "offline", {})["warmup"] == pytest.approx(20 / 240)
    assert settings_of("hint", "offline", {"weight": 3.0}) == {"labels": 1, "weight": 3}
