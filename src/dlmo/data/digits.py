"""The handwritten digits that come with scikit-learn: 1797 real 8x8 grey images, no download."""

import numpy as np

from dlmo.data.assemble import Labelled, assemble
from dlmo.data.dataset import Dataset, Split
from dlmo.data.decode import resize_all
from dlmo.data.options import LoadOptions
from dlmo.data.splits import NoGroups
from dlmo.errors import UserError

DEFAULT_SIDE = 16  # pixels; a network that halves its maps needs more than the 8 there are
MAX_LEVEL = 16  # the data's white


def load(path: str | None, options: LoadOptions) -> Dataset:
    """All digits, enlarged; test and validation are cut by seed. Raises UserError for a path or group_by."""
    if path is not None:
        raise UserError(f"digits:{path}: digits is built in and takes no path; write digits")
    if options.group_by is not None:
        raise NoGroups("--group-by: digits has no file names to group by; leave it out")
    try:
        from sklearn.datasets import load_digits  # takes a second that only this source shall cost
    except ModuleNotFoundError:  # a machine that only trains need not have it
        raise UserError("digits comes with scikit-learn, which is not installed: pip install scikit-learn") from None

    levels, labels = load_digits(return_X_y=True)
    small = np.round(levels.reshape(-1, 8, 8, 1) * (255 / MAX_LEVEL)).astype(np.uint8)
    preprocessing = options.preprocessing(DEFAULT_SIDE, 1)
    images = resize_all(small, preprocessing, options.workers, options.progress)
    names = tuple(f"digits/{index}" for index in range(len(labels)))
    everything = Split(images, labels.astype(np.int64), names)
    classes = tuple("0123456789")
    return assemble(Labelled("digits", classes, everything, None, None, preprocessing), options)
