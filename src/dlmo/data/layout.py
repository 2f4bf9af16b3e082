"""Which folder is a class and which is a split."""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from dlmo.data.dataset import Skipped
from dlmo.data.files import Files, is_image_name
from dlmo.errors import UserError

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Item:
    """A file that should be an image of a class. split: train, validation or test."""

    name: str
    split: str
    label: str


@dataclass(frozen=True)
class Layout:
    """root: the wrapper folders above the classes or splits, with `/` at the end; empty if there are none.
    classes: in label order, also those without a file.
    items: sorted by name; all `train` where the source has no splits.
    loose: images that lie in no class folder.
    """

    root: str
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    loose: tuple[Skipped, ...]
    notes: tuple[str, ...]


def read_layout(path: Path, files: Files) -> Layout:
    """Finds wrappers, splits and classes by folder names alone. Raises UserError where there are none."""
    tree = _Tree(path, files)
    if not files.names:
        raise UserError(f"{path}: no files in it; give a folder with one folder of images per class")
    root = tree.find_root()
    splits = tree.find_splits(root)
    if splits == {"train": root}:
        tree.refuse_splits_by_other_names(root)
    classes = {split: tree.folders_in(prefix) for split, prefix in splits.items()}
    known = {_class_name(path, folder) for folder in classes["train"]}
    items = []
    for split, prefix in splits.items():
        for folder in classes[split]:
            label = _class_name(path, folder)
            if label not in known:
                raise UserError(
                    f"{path}: class {label!r} of {prefix} is not in {splits['train']}; "
                    "every class needs training images"
                )
            items += [Item(name, split, label) for name in tree.below(f"{prefix}{folder}/")]
    return Layout(
        root,
        sort_classes(known),
        tuple(sorted(items, key=lambda item: (unicodedata.normalize("NFC", item.name), item.name))),
        tuple(
            Skipped(name, "lies in no class folder")
            for prefix in sorted({root, *splits.values()})
            for name in tree.files_in(prefix)
            if is_image_name(name)
        ),
        (*tree.ignored_beside(root, splits), *tree.same_inside(splits["train"]), *tree.hidden(files, splits)),
    )


def sort_classes(names: set[str]) -> tuple[str, ...]:
    """By number where every name is a whole number, else by text."""
    if all(re.fullmatch(r"-?[0-9]+", name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


class _Tree:
    """The folders of a source, asked by prefix (`` or a folder's path with `/` at the end)."""

    def __init__(self, path: Path, files: Files):
        self.path = path
        self._folders: dict[str, list[str]] = {}
        self._files: dict[str, list[str]] = {}
        for folder in sorted(files.folders):
            parent, _, name = folder.rpartition("/")
            self._folders.setdefault(parent + "/" if parent else "", []).append(name)
        for name in files.names:
            parent = name.rpartition("/")[0]
            self._files.setdefault(parent + "/" if parent else "", []).append(name)

    def folders_in(self, prefix: str) -> list[str]:
        return self._folders.get(prefix, [])

    def files_in(self, prefix: str) -> list[str]:
        return self._files.get(prefix, [])

    def below(self, prefix: str) -> list[str]:
        """The files in a folder and in all folders inside it."""
        deeper = (self.below(f"{prefix}{folder}/") for folder in self.folders_in(prefix))
        return [*self.files_in(prefix), *(name for names in deeper for name in names)]

    def has_images(self, prefix: str) -> bool:
        return any(is_image_name(name) for name in self.files_in(prefix))

    def find_root(self) -> str:
        """Goes down while there is one single folder that is neither a split nor a class."""
        root = ""
        while True:
            folders = self.folders_in(root)
            if len(folders) != 1 or self.has_images(root) or folders[0].lower() in SPLIT_FOLDERS:
                return root
            inner = f"{root}{folders[0]}/"
            if not self.folders_in(inner):
                return root
            root = inner

    def find_splits(self, root: str) -> dict[str, str]:
        """Prefix per split; only `train` (the root itself) where the source has no splits.

        `train` is a split only where it holds folders, and `val` or `test` only next to such a `train`:
        all of them are fine names for a class.
        """
        folders = self.folders_in(root)
        if not folders:
            raise UserError(
                f"{self._at(root)}: {len(self.files_in(root))} files but no class folders; "
                "put the images of each class into a folder named after it"
            )
        named = [folder for folder in folders if folder.lower() in SPLIT_FOLDERS]
        train = [folder for folder in named if SPLIT_FOLDERS[folder.lower()] == "train"]
        if not any(self.folders_in(f"{root}{folder}/") for folder in train):
            if len(named) == len(folders):
                missing = "no class folders in train/" if train else "no train/ folder beside " + ", ".join(named)
                raise UserError(f"{self._at(root)}: {missing}; make train/ with one folder of images per class")
            return {"train": root}
        splits: dict[str, str] = {}
        for folder in named:
            split, prefix = SPLIT_FOLDERS[folder.lower()], f"{root}{folder}/"
            if split in splits:
                raise UserError(f"{self._at(root)}: two {split} folders, {splits[split]} and {prefix}; keep one")
            if self.folders_in(prefix):
                splits[split] = prefix
            elif self.files_in(prefix):
                raise UserError(
                    f"{self._at(prefix)}: {len(self.files_in(prefix))} files but no class folders; "
                    "sort them into one folder per class, or take the folder away"
                )
        return splits

    def refuse_splits_by_other_names(self, root: str) -> None:
        """Folders such as training_set/ and test_set/ would be taken for classes, with the classes mixed in them."""
        folders = self.folders_in(root)
        named = all(set(re.findall("[a-z]+", folder.lower())) & {*SPLIT_FOLDERS, "dev"} for folder in folders)
        inner = [tuple(self.folders_in(f"{root}{folder}/")) for folder in folders]
        if len(folders) > 1 and named and all(inner):
            raise UserError(
                f"{self._at(root)}: {', '.join(folders)} look like splits, not classes; rename them to train, val and "
                "test"
            )
        inside = {name.lower() for names in inner for name in names}
        if len(folders) > 1 and inside and inside <= SPLIT_FOLDERS.keys():
            raise UserError(
                f"{self._at(root)}: the class folders hold {', '.join(sorted(inside))}, which look like splits; put "
                "train, val and test on top, with the classes inside"
            )

    def same_inside(self, root: str) -> tuple[str, ...]:
        """Tells of classes that are all made of the same folders: perhaps those are the classes."""
        inner = {tuple(self.folders_in(f"{root}{folder}/")) for folder in self.folders_in(root)}
        if len(self.folders_in(root)) < 2 or len(inner) != 1 or len(*inner) < 2:
            return ()
        names = ", ".join(next(iter(inner))[:3])
        return (f"every class folder holds the same folders ({names}, ...), whose images are taken together",)

    def ignored_beside(self, root: str, splits: dict[str, str]) -> tuple[str, ...]:
        if root in splits.values():
            return ()
        beside = [folder for folder in self.folders_in(root) if folder.lower() not in SPLIT_FOLDERS]
        return (f"not used, because beside {splits['train']}: {', '.join(beside)}",) if beside else ()

    def hidden(self, files: Files, splits: dict[str, str]) -> tuple[str, ...]:
        """Tells of hidden folders that could be classes."""
        beside = [name for name in files.hidden if name.rpartition("/")[0] in {p.rstrip("/") for p in splits.values()}]
        return (f"not used, because hidden: {', '.join(sorted(beside))}; rename a class",) if beside else ()

    def _at(self, prefix: str) -> str:
        return f"{self.path}/{prefix}".rstrip("/")


def _class_name(path: Path, folder: str) -> str:
    """A folder's name as class name, in one Unicode form: macOS packs names in another than Linux."""
    name = unicodedata.normalize("NFC", folder)
    if not name.isprintable():
        raise UserError(f"{path}: class folder {folder!r} has unprintable characters in its name; rename it")
    return name
