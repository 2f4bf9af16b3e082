"""Reading network names; no torch needed."""

import subprocess
import sys

import pytest

from dlmo.errors import UserError
from dlmo.networks import canonical, count, names


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("mobilenet_v2@1.0", "mobilenet_v2"),
        ("mobilenet_v2@.35", "mobilenet_v2@0.35"),
        ("resnet20@0.50", "resnet20@0.5"),
        (" ResNet20 ", "resnet20"),
        ("resnet020", "resnet20"),
        ("wide_resnet_34_01@2.", "wide_resnet_34_1@2"),
        ("resnet20@0.33333", "resnet20@0.333"),
        ("vgg", "vgg"),
    ],
)
def test_canonical(given: str, expected: str) -> None:
    assert canonical(given) == expected
    assert canonical(expected) == expected


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("mobilnet_v2", "did you mean mobilenet_v2?"),
        ("wide_resnet_16", "did you mean wide_resnet_16_1 or wide_resnet_16_2?"),
        ("mobilenet_v3", "did you mean mobilenet_v3_small or mobilenet_v3_large?"),
        ("zzz", "for example vgg"),
        ("", "for example vgg"),
        ("resnet18", "nearest: resnet14 or resnet20"),
        ("resnet2", "nearest: resnet8"),
        ("resnet99999", "nearest: resnet1202"),
        ("wide_resnet_15_1", "nearest: wide_resnet_10_1 or wide_resnet_16_1"),
        ("wide_resnet_16_0@0.5", "nearest: wide_resnet_16_1"),
        ("resnet20@0", "over 0 and at most 4"),
        ("resnet20@4.5", "over 0 and at most 4"),
        ("resnet20@", "over 0 and at most 4"),
        ("resnet20@nan", "over 0 and at most 4"),
        ("resnet20@-1", "over 0 and at most 4"),
        ("resnet20@0.0001", "over 0 and at most 4"),
        ("resnet²", "did you mean resnet"),
    ],
)
def test_wrong_names_say_what_is_right(given: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        canonical(given)
    message = str(caught.value)
    assert hint in message
    assert "\n" not in message


def test_listed_names_are_canonical_and_unique() -> None:
    listed = [info.name for info in names()]
    assert [canonical(name) for name in listed] == listed
    assert len(set(listed)) == len(listed)
    assert {"vgg", "resnet50", "resnet101", "wide_resnet_34_1", "mobilenet_v3_large"} <= set(listed)


def test_what_networks_are_listed_to_cost_is_what_they_cost() -> None:
    for info in names():
        found = count(info.name, classes=10, input_shape=(32, 32, 3), stem="auto")
        assert (info.parameters, info.macs) == (found.parameters, found.macs), info.name


def test_names_need_no_torch() -> None:
    program = (
        "import sys; from dlmo import networks; networks.names(); networks.canonical('resnet20@0.5'); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
