"""Image folders: layout, classes, splits, notes, and every input that is refused."""

import os
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

from dlmo.data import Dataset, load
from dlmo.errors import UserError


def error(source, **options) -> str:
    """The message of the refusal: always one line that names the source's place."""
    with pytest.raises(UserError) as caught:
        load(str(source), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def sizes(dataset: Dataset) -> tuple[int, int, int]:
    return len(dataset.train), len(dataset.validation), len(dataset.test)


def all_names(dataset: Dataset) -> list[str]:
    return [name for split in (dataset.train, dataset.validation, dataset.test) for name in split.names]


def test_class_folders_without_splits(make_folder):
    root = make_folder({"cat": 30, "dog": 20})
    dataset = load(str(root))
    assert dataset.name == "set"
    assert dataset.classes == ("cat", "dog")
    assert sizes(dataset) == (32, 8, 10)
    assert np.bincount(dataset.test.labels).tolist() == [6, 4]
    assert np.bincount(dataset.validation.labels).tolist() == [5, 3]
    assert "test: 10 of 50 images, stratified, seed 0" in dataset.notes
    assert "validation: 8 of 40 training images, stratified, seed 0" in dataset.notes
    assert len(set(all_names(dataset))) == 50
    assert dataset.input_shape == (20, 20, 1)
    for split in (dataset.train, dataset.validation, dataset.test):
        assert split.images.dtype == np.uint8
        assert split.images.flags.c_contiguous
        assert split.labels.dtype == np.int64
        for image, label, name in zip(split.images, split.labels, split.names):
            assert name.split("/")[0] == dataset.classes[label]
            assert np.array_equal(image[..., 0], Image.open(root / name))


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Val"])
def test_the_sources_own_splits_are_kept(make_folder, validation):
    folders = {f"{s}/{c}": n for s, n in (("train", 8), (validation, 3), ("test", 4)) for c in "ab"}
    dataset = load(str(make_folder(folders)))
    assert sizes(dataset) == (16, 6, 8)
    assert dataset.test.names[0] == "test/a/000.png"
    assert "test: 8 images, the source's own" in dataset.notes


def test_missing_splits_are_cut_from_train(make_folder):
    only_validation = load(str(make_folder({"train/a": 20, "train/b": 20, "val/a": 3, "val/b": 3}, "one")))
    assert sizes(only_validation) == (32, 6, 8)
    only_test = load(str(make_folder({"train/a": 20, "train/b": 20, "test/a": 3, "test/b": 3}, "two")))
    assert sizes(only_test) == (32, 8, 6)
    only_train = load(str(make_folder({"train/a": 20, "train/b": 20}, "three")))
    assert sizes(only_train) == (26, 6, 8)


def test_wrapper_folders_and_nested_images(make_folder):
    dataset = load(str(make_folder({"w/x/train/a/cam1": 10, "w/x/train/a/cam2": 10, "w/x/train/b": 20})))
    assert dataset.classes == ("a", "b")
    assert len(all_names(dataset)) == 40
    assert "w/x/train/a/cam1/000.png" in all_names(dataset)


def test_wrapper_does_not_change_the_split(make_folder):
    plain = load(str(make_folder({"a": 20, "b": 20}, "plain")))
    wrapped = load(str(make_folder({"w/a": 20, "w/b": 20}, "wrapped")))
    assert wrapped.test.names == tuple("w/" + name for name in plain.test.names)
    assert wrapped.fingerprint == plain.fingerprint


def test_split_names_without_inner_folders_are_classes(make_folder):
    assert load(str(make_folder({"train": 5, "bus": 5, "test": 5}))).classes == ("bus", "test", "train")
    assert load(str(make_folder({"valid": 5, "invalid": 5}, "other"))).classes == ("invalid", "valid")


def test_classes_sort_by_number_where_all_are_numbers(make_folder):
    assert load(str(make_folder({"10": 3, "9": 3, "2": 3}))).classes == ("2", "9", "10")
    assert load(str(make_folder({"10": 3, "9": 3, "x": 3}, "mixed"))).classes == ("10", "9", "x")


def test_hidden_and_system_files_are_ignored_silently(make_folder):
    root = make_folder({"a": 5, "b": 5, "__MACOSX/a": 1, ".git/x": 1})
    for name in ("a/.DS_Store", "a/Thumbs.db", "b/._000.png", "README.md"):
        (root / name).write_bytes(b"x")
    dataset = load(str(root))
    assert dataset.classes == ("a", "b")
    assert len(all_names(dataset)) == 10
    assert dataset.skipped == ()


def test_links_in_a_folder_are_followed_but_not_in_circles(make_folder):
    real = make_folder({"images": 10}, "real")
    root = make_folder({"b": 10})
    (root / "a").symlink_to(real / "images")
    (root / "b" / "up").symlink_to(root)
    names = all_names(load(str(root)))
    assert sorted(names) == [f"{folder}/{index:03}.png" for folder in "ab" for index in range(10)]


def test_same_seed_same_splits_whatever_the_order_on_disk(make_folder, tmp_path):
    root = make_folder({"a": 25, "b": 25})
    copy = tmp_path / "copy"
    for file in sorted(root.rglob("*.png"), reverse=True):
        (copy / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy / file.parent.name)
    first, second, third = load(str(root)), load(str(copy), workers=1), load(str(root), split_seed=1)
    assert first.fingerprint == second.fingerprint
    assert first.test.names == second.test.names
    assert first.test.names != third.test.names
    assert first.fingerprint != third.fingerprint
    assert "test: 10 of 50 images, stratified, seed 1" in third.notes


def test_one_colour_image_gives_three_channels(make_folder, draw):
    root = make_folder({"a": 10, "b": 10})
    grey = load(str(root))
    draw(0).convert("RGB").save(root / "a" / "000.png")
    assert load(str(root)).fingerprint == grey.fingerprint
    assert load(str(root)).input_shape == (20, 20, 1)
    draw(99, mode="RGB").save(root / "a" / "000.png")
    assert load(str(root)).input_shape == (20, 20, 3)
    assert load(str(root), channels=1).input_shape == (20, 20, 1)


def test_channels_given(make_folder):
    dataset = load(str(make_folder({"a": 5, "b": 5})), channels=3)
    assert dataset.input_shape == (20, 20, 3)
    assert np.array_equal(dataset.train.images[..., 0], dataset.train.images[..., 2])


@pytest.mark.parametrize(("size", "side"), [((5, 8), 16), ((21, 10), 24), ((30, 36), 36), ((40, 400), 64)])
def test_input_size_is_chosen_from_the_longer_side(make_folder, size, side):
    dataset = load(str(make_folder({"a": 5, "b": 5}, size=size)))
    assert dataset.input_shape == (side, side, 1)
    assert any(note.startswith(f"input size {side}x{side}") for note in dataset.notes)


def test_input_size_looks_at_training_images_only(make_folder, draw):
    root = make_folder({"train/a": 5, "train/b": 5})
    for index in range(40):
        (root / "test" / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        draw(index, size=(60, 60)).save(root / "test" / "ab"[index % 2] / f"{index}.png")
    assert load(str(root)).input_shape == (20, 20, 1)


def test_input_size_given(make_folder):
    root = make_folder({"a": 5, "b": 5})
    assert load(str(root), input_size=17).input_shape == (17, 17, 1)
    assert load(str(root), input_size=(12, 18)).input_shape == (12, 18, 1)
    assert load(str(root), input_size="17").input_shape == (17, 17, 1)
    assert load(str(root), input_size="12x18").input_shape == (12, 18, 1)


@pytest.mark.parametrize(("size", "advice"), [((400, 40), "20x204"), ((30, 60), "60x32"), ((60, 40), None)])
def test_another_shape_is_advised_where_most_of_a_square_is_fill(make_folder, size, advice):
    notes = load(str(make_folder({"a": 5, "b": 5}, size=size))).notes
    told = [note for note in notes if "of the input is fill" in note]
    assert len(told) == (advice is not None)
    if advice:
        assert f"--input-size {advice} fits them" in told[0]


def test_images_in_more_than_one_class_are_told_with_their_names(make_folder, tmp_path):
    root = make_folder({"a": 8, "b": 8})
    assert not any("more than one class" in note for note in load(str(root)).notes)
    (root / "b" / "again.png").write_bytes(sorted((root / "a").iterdir())[0].read_bytes())
    (note,) = (note for note in load(str(root)).notes if "more than one class" in note)
    assert note.startswith("2 images lie in more than one class") and "again.png (b)" in note and "(a)" in note


@pytest.mark.parametrize(("bits", "told"), [(12, True), (16, False)])
def test_images_that_are_nearly_black_are_told(tmp_path, bits, told):
    for name in "ab":
        (tmp_path / name).mkdir()
        for index in range(8):
            pixels = np.random.default_rng(index + ord(name)).integers(0, 2**bits, (16, 16)).astype(np.uint16)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    notes = [note for note in load(str(tmp_path)).notes if "the brightest pixel" in note]
    assert len(notes) == told and all("of 255" in note for note in notes)


def test_progress_counts_every_image(make_folder):
    seen = []
    load(str(make_folder({"a": 40, "b": 40})), progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (80, 80)


def test_few_bad_files_are_left_out_and_listed(make_folder, encode, draw):
    root = make_folder({"a": 30, "b": 30})
    (root / "a" / "cut.jpg").write_bytes(encode(draw(1, size=(90, 90)), "JPEG")[:700])
    (root / "b" / "notes.txt").write_text("hello")
    dataset = load(str(root))
    assert len(all_names(dataset)) == 60
    reasons = {one.path: one.reason for one in dataset.skipped}
    assert set(reasons) == {"a/cut.jpg", "b/notes.txt"}
    assert "truncated" in reasons["a/cut.jpg"]
    assert reasons["b/notes.txt"] == "no image of a known format"
    assert any(note.startswith("left out 2 of 62 files: ") for note in dataset.notes)


def test_annotations_beside_the_images_are_left_out(make_folder):
    root = make_folder({"a": 15, "b": 15})
    for image in list(root.rglob("*.png")):
        image.with_suffix(".xml").write_text("<annotation/>")
    dataset = load(str(root))
    assert sum(sizes(dataset)) == 30
    assert {one.reason for one in dataset.skipped} == {"no image of a known format"} and len(dataset.skipped) == 30
    for image in list(root.rglob("*.xml"))[:4]:
        image.rename(image.with_suffix(".heic"))
    assert "4 of 34 files (11.8%)" in error(root) and "AVIF" in error(root)


def test_image_outside_the_class_folders_is_listed(make_folder, draw):
    root = make_folder({"a": 15, "b": 15})
    draw(1).save(root / "loose.png")
    dataset = load(str(root))
    assert [(one.path, one.reason) for one in dataset.skipped] == [("loose.png", "lies in no class folder")]


def test_many_bad_files_are_refused(make_folder):
    root = make_folder({"a": 30, "b": 27})
    for index in range(4):
        (root / "b" / f"bad{index}.png").write_bytes(b"no image")
    message = error(root)
    assert "4 of 61 files (6.6%)" in message
    assert "b/bad0.png (no image of a known format)" in message
    assert str(root) in message


def test_no_usable_image(make_folder):
    root = make_folder({})
    for folder in "ab":
        (root / folder).mkdir()
        (root / folder / "x.png").write_bytes(b"no image")
    assert "none of 2 files is a usable image" in error(root)


def test_group_by_keeps_groups_together(make_folder, draw):
    root = make_folder({})
    for index in range(120):
        folder = root / "ab"[index % 2]
        folder.mkdir(exist_ok=True)
        draw(index).save(folder / f"{index}_slot{index // 10}.png")
    dataset = load(str(root), group_by=r"(slot\d+)")
    slots = [{name.split("_")[1] for name in s.names} for s in (dataset.train, dataset.validation, dataset.test)]
    assert not slots[0] & slots[1] and not slots[0] & slots[2] and not slots[1] & slots[2]
    assert sizes(dataset) == (80, 20, 20)
    assert r"test: 20 of 120 images, stratified, seed 0, grouped by (slot\d+) (2 of 12 groups)" in dataset.notes
    assert "matches 0 of 120 file names" in error(root, group_by=r"(camera\d+)")


def test_further_validation_sets_keep_groups_together(make_folder, draw):
    root = make_folder({"train/a": 60, "train/b": 60, "test/a": 4, "test/b": 4})
    dataset = load(str(root), group_by=r"(\d)\d\.png")
    sets = [dataset.validation, *(dataset.train.take(fold) for fold in dataset.folds)]
    tens = [{name[-6] for name in part.names} for part in sets]
    assert len(sets) == 4 and all(tens)
    assert sum(map(len, tens)) == len(set.union(*tens))


def test_validation_images_of_the_source_are_not_exchanged_for_others(make_folder):
    dataset = load(str(make_folder({"train/a": 20, "train/b": 20, "val/a": 4, "val/b": 4})))
    assert dataset.folds == ()


def test_groups_are_the_same_in_an_archive_that_was_packed_with_its_folder(make_folder, tmp_path):
    root = make_folder({"a": 40, "b": 40}, "photos")
    (tmp_path / "packed").mkdir()
    archive = shutil.make_archive(str(tmp_path / "packed" / "photos"), "zip", root.parent, root.name)
    folder, packed = (load(str(source), group_by=r"^(.*)\d\.png") for source in (root, archive))
    assert packed.fingerprint == folder.fingerprint


def test_groups_split_by_the_source_itself_are_told(make_folder):
    dataset = load(str(make_folder({"train/a": 9, "train/b": 9, "test/a": 4, "test/b": 4})), group_by=r"(\d+)\.png")
    assert "4 groups lie in both train and test of the source, e.g. 000" in dataset.notes


def test_imbalance_is_told_with_counts(make_folder):
    uneven = load(str(make_folder({"a": 50, "b": 20}, "uneven")))
    assert "imbalance 2.5x in train: largest a 32, smallest b 13" in uneven.notes
    even = load(str(make_folder({"a": 30, "b": 20}, "even")))
    assert not any("imbalance" in note for note in even.notes)


def test_copies_across_splits_are_told(make_folder):
    root = make_folder({"train/a": 20, "train/b": 20, "test/a": 5, "test/b": 5})
    for index in range(3):
        shutil.copy(root / f"train/a/{index:03}.png", root / f"test/a/{index:03}.png")
    assert "3 of 10 test images are exact copies of a training or validation image" in load(str(root)).notes


def test_class_missing_in_test_is_only_told(make_folder):
    dataset = load(str(make_folder({"train/a": 9, "train/b": 9, "test/a": 4})))
    assert "test has no image of class b" in dataset.notes
    assert dataset.classes == ("a", "b")


def test_folder_beside_train_is_told(make_folder):
    dataset = load(str(make_folder({"train/a": 9, "train/b": 9, "extra/c": 4})))
    assert "not used, because beside train/: extra" in dataset.notes


def test_refused_layouts(make_folder):
    assert "'c' of test/ is not in train/" in error(make_folder({"train/a": 5, "train/b": 5, "test/c": 5}, "s1"))
    assert "one class only, 'a'" in error(make_folder({"a": 5}, "s2"))
    assert "class 'b' has 1; each class needs at least 3" in error(make_folder({"a": 9, "b": 1}, "s3"))
    assert "class 'b' has 1; each class needs at least 2" in error(
        make_folder({"train/a": 9, "train/b": 1, "test/a": 2, "test/b": 2}, "s4")
    )
    assert "class 'b' has 0" in error(make_folder({"a": 9, "b": 0}, "s5"))
    assert "no files in it" in error(make_folder({}, "s6"))
    assert "no files in it" in error(make_folder({"a": 0, "b": 0}, "s7"))
    assert "7 files but no class folders" in error(make_folder({".": 7}, "s8"))
    assert "no class folders in train/" in error(make_folder({"train": 7, "test": 7}, "s9"))
    assert "no train/ folder beside test, val" in error(make_folder({"test/a": 7, "val/a": 7}, "s10"))
    assert "two validation folders" in error(make_folder({"train/a": 7, "val/a": 7, "valid/a": 7}, "s11"))
    assert "test: 4 files but no class folders" in error(make_folder({"train/a": 7, "train/b": 7, "test": 4}, "s12"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_size": 0}, "--input-size 0"),
        ({"input_size": (16, 5000)}, "from 1 to 1024"),
        ({"input_size": (16, 16, 3)}, "HEIGHTxWIDTH"),
        ({"input_size": "16,64"}, "--input-size 16,64: give one whole number"),
        ({"input_size": "0x64"}, "HEIGHTxWIDTH, such as 32x96"),
        ({"channels": 2}, "give 1 (grey) or 3 (RGB)"),
        ({"workers": 0}, "at least 1 thread"),
    ],
)
def test_refused_arguments(make_folder, options, message):
    assert message in error(make_folder({"a": 5, "b": 5}), **options)


def test_file_that_is_no_archive(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"x")
    assert "neither a folder nor an archive" in error(tmp_path / "photo.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folder(make_folder):
    root = make_folder({"a": 5, "b": 5})
    (root / "b").chmod(0)
    try:
        assert "cannot be read (Permission denied)" in error(root)
    finally:
        (root / "b").chmod(0o755)


def test_a_link_that_leads_nowhere_is_a_file_that_cannot_be_read(make_folder):
    root = make_folder({"a": 40, "b": 40})
    (root / "a" / "lost.png").symlink_to(root / "moved.png")
    assert [entry.path for entry in load(str(root)).skipped] == ["a/lost.png"]
    for number in range(20):
        (root / "b" / f"lost{number}.png").symlink_to(root / "moved.png")
    with pytest.raises(UserError, match="lost"):
        load(str(root))


def test_a_folder_whose_name_is_no_utf8_gives_a_name_that_can_be_printed(make_folder, tmp_path):
    place = os.fsencode(tmp_path) + b"/caf\xe9"
    os.rename(make_folder({"a": 8, "b": 8}), place)
    assert load(os.fsdecode(place)).name == "caf\\xe9"


def test_copies_of_training_images_in_the_sources_validation_are_told(make_folder):
    root = make_folder({"train/a": 20, "train/b": 20, "val/a": 5, "val/b": 5, "test/a": 5, "test/b": 5})
    shutil.copy(root / "train/a/000.png", root / "val/a/000.png")
    notes = load(str(root)).notes
    assert any(note.startswith("1 of 10 validation images, which the choice is made on, are exact") for note in notes)
    assert not any("test images are exact copies" in note for note in notes)


def test_splits_by_other_names_are_no_classes(make_folder):
    counts = {f"{split}/{name}": 9 for split in ("training_set", "test_set") for name in ("cats", "dogs")}
    assert "test_set, training_set look like splits, not classes; rename them" in error(make_folder(counts, "kaggle"))
    images = make_folder({"train_car": 9, "test_car": 9}, "cars")
    assert load(str(images)).classes == ("test_car", "train_car"), "folders of images are classes"


def test_splits_inside_the_classes_are_not_mixed(make_folder):
    counts = {"cat/train": 9, "cat/test": 9, "dog/train": 9}
    assert "the class folders hold test, train, which look like splits" in error(make_folder(counts))


def test_names_in_another_unicode_form_are_split_the_same_way(make_folder, tmp_path):
    folder = make_folder({"\u00c4pfel": 12, "Birnen": 12})
    other = tmp_path / "from_a_mac"
    for path in sorted(folder.rglob("*.png")):
        name = unicodedata.normalize("NFD", f"{path.parent.name}/{path.name}")
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, other / name)
    assert load(str(other)).fingerprint == load(str(folder)).fingerprint


def test_the_same_folders_in_every_class_are_told(make_folder):
    counts = {f"{name}/{year}": 9 for name in ("cat", "dog") for year in ("2021", "2022")}
    dataset = load(str(make_folder(counts)))
    assert dataset.classes == ("cat", "dog")
    assert any(note.startswith("every class folder holds the same folders (2021, 2022, ...)") for note in dataset.notes)


def test_a_hidden_class_is_told(make_folder, tmp_path):
    root = make_folder({".net": 9, "java": 9, "python": 9})
    (root / ".cache").mkdir()
    (root / ".cache/state").write_text("no image")
    shutil.make_archive(str(tmp_path / "packed"), "zip", root)
    for source in (root, tmp_path / "packed.zip"):
        dataset = load(str(source))
        assert dataset.classes == ("java", "python")
        assert "not used, because hidden: .net; rename a class" in dataset.notes
