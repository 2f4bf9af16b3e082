"""What the listed networks cost, so that listing them needs no torch.

Parameters and multiply-accumulates of one 32x32 RGB image with ten classes, as `networks.count` tells them; a test
compares.
"""

COSTS: dict[str, tuple[int, int]] = {
    "vgg": (141_034, 29_197_568),
    "resnet50": (23_520_842, 1_297_829_888),
    "resnet101": (42_512_970, 2_509_983_744),
    "resnet8": (78_042, 12_501_632),
    "resnet14": (175_258, 26_657_408),
    "resnet20": (272_474, 40_813_184),
    "resnet32": (466_906, 69_124_736),
    "resnet44": (661_338, 97_436_288),
    "resnet56": (855_770, 125_747_840),
    "resnet110": (1_730_714, 253_149_824),
    "wide_resnet_10_1": (77_850, 12_501_632),
    "wide_resnet_16_1": (175_066, 26_657_408),
    "wide_resnet_16_2": (691_674, 101_106_944),
    "wide_resnet_34_1": (466_714, 69_124_736),
    "wide_resnet_40_1": (563_930, 83_280_512),
    "wide_resnet_40_2": (2_243_546, 327_599_360),
    "wide_resnet_28_10": (36_479_194, 5_243_328_768),
    "compact_wide": (78_122, 31_423_664),
    "compact_deep": (61_690, 22_067_520),
    "mobilenet_v1": (3_217_226, 175_556_608),
    "mobilenet_v2": (2_236_682, 87_976_448),
    "mobilenet_v3_small": (1_528_106, 17_507_328),
    "mobilenet_v3_large": (4_214_842, 66_459_008),
}
