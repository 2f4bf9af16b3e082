"""The step `prune_blocks`, see techniques.block_pruning."""

from functools import partial

from dlmo.errors import UserError
from dlmo.study.steps.work import Shrinking, StepWork

# Enough to run an untrained network; which of its blocks they show to be missed least means nothing.
_SEEN_IMAGES = 16


class BlockPruning(StepWork):
    versions = {"blocks": 1}

    def check(self, workspace, recipe, step, network, widths_known):
        from dlmo.techniques.block_pruning import Depth, leave_out, left_out_of

        # After a cut whose widths only training tells, the blocks have another share of what is left.
        depth = Depth(step.ratio, step.macs) if widths_known or step.macs is None else Depth(1.0, None)
        smaller = leave_out(network, network, depth, workspace.dataset.train.spread(1))
        if not left_out_of(smaller, network, workspace.dataset.input_shape):
            raise UserError(f'"{step}" leaves out no block of {recipe.network}; give a larger share')
        return network, widths_known

    def shrinking(self, workspace, step, name, network, precision):
        from dlmo.techniques.block_pruning import Depth, leave_out, restored

        return Shrinking(
            partial(
                leave_out, original=network, depth=Depth(step.ratio, step.macs), images=workspace.dataset.train
            ),
            partial(restored, original=network, input_shape=workspace.dataset.input_shape),
        )  # fmt: skip

    def record(self, workspace, trained, before):
        from dlmo.techniques.block_pruning import left_out_of

        return {"left_out": left_out_of(trained, before, workspace.dataset.input_shape)}

    def shaped(self, workspace, recipe, step, network):
        from dlmo.techniques.block_pruning import Depth, leave_out

        return leave_out(network, network, Depth(step.ratio, step.macs), workspace.dataset.train.spread(_SEEN_IMAGES))
