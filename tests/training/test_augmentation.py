import torch

from dlmo.training.augmentation import augment, numbers_of_epoch, numbers_of_view
from dlmo.training.schedule import Augmentation

NOTHING = Augmentation(flip=False, shift=0, cutout=0, lighting=0.0)


def images(count=64, side=8, channels=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, side, side, channels), dtype=torch.uint8, generator=generator)


def run(augmentation, batch, seed=0):
    return augment(batch, augmentation, numbers_of_view(len(batch), seed))


def test_nothing_changes_nothing():
    batch = images()
    assert torch.equal(run(NOTHING, batch), batch)


def test_flip_mirrors_about_half_and_leaves_the_rest():
    batch = images(400)
    result = run(Augmentation(flip=True, shift=0, cutout=0, lighting=0.0), batch)
    mirrored = (result == batch.flip(2)).flatten(1).all(1)
    same = (result == batch).flatten(1).all(1)
    assert (mirrored | same).all()
    assert 150 < int(mirrored.sum()) < 250


def test_shift_moves_every_image_as_a_whole_and_repeats_edges():
    batch = images(50)
    result = run(Augmentation(flip=False, shift=2, cutout=0, lighting=0.0), batch)
    padded = torch.nn.functional.pad(batch.permute(0, 3, 1, 2).float(), (2, 2, 2, 2), mode="replicate")
    windows = padded.unfold(2, 8, 1).unfold(3, 8, 1)  # N C 5 5 8 8
    wanted = result.permute(0, 3, 1, 2).float()[:, :, None, None]
    hits = (windows == wanted).flatten(4).all(4).all(1).flatten(1)
    assert hits.any(1).all()
    assert (~hits[:, 12]).any(), "some images really moved"


def test_cutout_sets_one_square_to_mid_grey():
    batch = torch.zeros(30, 12, 12, 1, dtype=torch.uint8)
    result = run(Augmentation(flip=False, shift=0, cutout=4, lighting=0.0), batch)
    counts = (result == 128).flatten(1).sum(1)
    assert counts.min() >= 4  # a corner
    assert counts.max() == 16
    assert ((result == 0) | (result == 128)).all()


def test_lighting_keeps_type_and_changes_brightness_differently_per_image():
    batch = torch.full((20, 4, 4, 3), 100, dtype=torch.uint8)
    result = run(Augmentation(flip=False, shift=0, cutout=0, lighting=0.3), batch)
    means = result.float().flatten(1).mean(1)
    assert result.dtype == torch.uint8
    assert means.std() > 5
    assert (result == result[:, :1, :1, :1]).all(), "one image gets one light"


def test_same_seed_same_result():
    everything = Augmentation(flip=True, shift=2, cutout=3, lighting=0.2)
    assert torch.equal(run(everything, images(), 3), run(everything, images(), 3))
    assert not torch.equal(run(everything, images(), 3), run(everything, images(), 4))


def test_an_epoch_mirrors_what_the_one_before_left_and_changes_the_rest():
    numbers = [numbers_of_epoch(500, 3, epoch) for epoch in range(3)]
    mirrored = [rows[:, 0] < 0.5 for rows in numbers]
    assert torch.equal(mirrored[0], ~mirrored[1]) and torch.equal(mirrored[0], mirrored[2])
    assert 180 < int(mirrored[0].sum()) < 320
    assert not torch.equal(numbers[0][:, 1:], numbers[2][:, 1:])
    assert torch.equal(numbers_of_epoch(500, 3, 1), numbers[1])
