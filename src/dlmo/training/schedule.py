"""How to train, as data; free of torch, so that plans and keys can be made without it."""

from dataclasses import dataclass, replace

# What a progressive training costs against one at full image size.
PROGRESSIVE_COST = 0.55
# Of progressive training: until which share of the steps images have which side, as a share of the full one.
_SIDES = ((0.4, 0.5), (0.8, 0.75), (1.0, 1.0))


@dataclass(frozen=True)
class Augmentation:
    """flip: mirror half of the images left-right.
    shift: move each image by up to this many pixels in each direction, edges repeated.
    cutout: side in pixels of a square set to mid grey, somewhere in each image (DeVries and Taylor, 2017); 0 = none.
    lighting: each image's brightness and contrast change by up to this share, 0 to 1; 0 = none.
    """

    flip: bool
    shift: int
    cutout: int
    lighting: float


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    epochs: passes over the training images. share: of them that each pass takes, drawn anew, 0 to 1; below 1 only where
    a single whole pass is too long. batch_size: images per step.
    learning_rate: peak; rises linearly over `warmup` (share of all steps), then falls linearly to zero.
    weight_decay: on convolution and linear weights only. label_smoothing: 0 to 1.
    progressive: begin with smaller images, where a step costs a fraction (see `size_at`).
    clip_norm: largest norm of a step's gradient, None for no limit (networks without BatchNorm need one).
    orthogonal: train convolutions by orthogonalized momentum (see `training.optimizer.Muon`), the rest by SGD.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    warmup: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    progressive: bool = False
    clip_norm: float | None = None
    orthogonal: bool = False
    share: float = 1.0

    def lasting(self, epochs: float) -> "Schedule":
        """The same for so many epochs: a whole number of them, or less than one."""
        if epochs == 0:
            return replace(self, epochs=0, share=1.0)
        return replace(self, epochs=max(1, round(epochs)), share=max(0.001, round(min(1.0, epochs), 3)))

    @property
    def passes(self) -> float:
        """How often each training image is seen, on average."""
        return self.epochs * self.share

    @property
    def words(self) -> str:
        return f"{self.passes:g} epoch{'s' if self.passes > 1 else ''}"

    def learning_rate_at(self, step: int, total: int) -> float:
        """Learning rate of step 0 .. total-1: linear warm-up to the peak, then linear to zero."""
        rise = max(1.0, self.warmup * total)
        return self.learning_rate * min((step + 1) / rise, (total - step) / max(1.0, total - rise))

    def size_at(self, step: int, total: int) -> float:
        """Side of the images of step 0 .. total-1, as a share of their full side.

        Progressive: half the side for 40 % of the steps, three quarters for 40 %, then full, where the batch
        statistics settle. See PROGRESSIVE_COST.
        """
        done = step / total
        return next(side for until, side in _SIDES if done < until) if self.progressive and done < 1 else 1.0

    def work_done(self, step: int, total: int) -> float:
        """Share of the work of `total` steps that the first `step` take, 0 to 1, by the pixels of their images."""
        done = step / total
        if not self.progressive:
            return done
        before = seen = every = 0.0
        for until, side in _SIDES:
            every += (until - before) * side**2
            seen += (min(done, until) - min(done, before)) * side**2
            before = until
        return seen / every
