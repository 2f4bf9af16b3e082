"""A CIFAR ResNet as people write it: functions for activations and pooling, in-place sums, no dlmo in sight."""

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self, num_classes, width, channels=1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = Block(width, width)
        self.layer2 = Block(width, 2 * width, 2)
        self.linear = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer2(self.layer1(out))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


def small(num_classes=10):
    return ResNet(num_classes, 16)


def ten():
    return ResNet(10, 16)


def three():
    return ResNet(3, 16)


class Branching(nn.Module):
    """Code whose course depends on its input's shape in a way that fx cannot follow."""

    def __init__(self):
        super().__init__()
        self.network = ResNet(10, 8)

    def forward(self, x):
        if torch.is_tensor(x) and x.shape[2] > 4:
            return self.network(x)
        return self.network(x * 2)


def branching():
    return Branching()


class LeNet(nn.Module):
    """Flattens a map of several pixels by a view, which only maps in torch's own order have."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 5)
        self.linear = nn.Linear(6 * 6 * 6, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.linear(x.view(-1, 6 * 6 * 6))


def lenet():
    return LeNet()


def not_a_network():
    return 42


def broken():
    raise KeyError("lost")


def shares():
    return nn.Sequential(ResNet(10, 8), nn.Softmax(1))


def talking(num_classes=10):
    print("building")
    return ResNet(num_classes, 8)


class ByContent(nn.Module):
    """Code whose course depends on its pixels."""

    def __init__(self):
        super().__init__()
        self.network = ResNet(10, 8)

    def forward(self, x):
        bright = x[:, :, int((x > 0).sum()) % 3 :]
        return self.network(bright if bright.numel() > x.numel() // 2 else x)


def by_content():
    return ByContent()


class Lost(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = ResNet(10, 8)

    def forward(self, x):
        return self.network(x) * float("nan")


def lost():
    return Lost()
