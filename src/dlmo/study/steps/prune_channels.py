"""The step `prune_channels`, see techniques.channel_pruning; its limits are told by `study.cutting`."""

from functools import partial

from dlmo.errors import UserError
from dlmo.study.steps.work import Shrinking, StepWork

# Images that show whether an untrained network can be made smaller; what they say of its weights decides nothing.
_CHECKED_IMAGES = 64


class ChannelPruning(StepWork):
    versions = {"cut": 3}

    def limits(self, workspace, step, network, precision):
        from dlmo.study.cutting import key_inputs

        return key_inputs(workspace, step, network, precision)

    def check(self, workspace, recipe, step, network, widths_known):
        if step.limited or step.scope == "layer":
            network = self._checked_cut(workspace, recipe, step, network)
        return network, step.scope == "layer"  # of a ranking over all layers only training tells the widths

    def _checked_cut(self, workspace, recipe, step, network):
        from dlmo.study.cutting import target_of
        from dlmo.techniques.channel_pruning import cut, shapes_of

        target = target_of(workspace, step, recipe.network, network, recipe.precision)
        smaller = cut(network, network, target, workspace.dataset.train.spread(_CHECKED_IMAGES))
        if not step.limited and not shapes_of(smaller, network):
            raise UserError(
                f'"{step}" cuts nothing of {recipe.network}: widths stay multiples of round_to={step.round_to} (in '
                "narrow layers of half or a quarter of that); give a larger share, or a smaller round_to"
            )
        return smaller

    def shrinking(self, workspace, step, name, network, precision):
        from dlmo.study.cutting import target_of
        from dlmo.techniques.channel_pruning import cut, restored

        target = target_of(workspace, step, name, network, precision)
        return Shrinking(
            partial(cut, original=network, target=target, images=workspace.dataset.train),
            partial(restored, original=network),
        )

    def record(self, workspace, trained, before):
        from dlmo.techniques.channel_pruning import shapes_of

        return {"shapes": shapes_of(trained, before)}

    def shaped(self, workspace, recipe, step, network):
        from dlmo.study.cutting import target_of
        from dlmo.techniques.channel_pruning import cut

        target = target_of(workspace, step, recipe.network, network, recipe.precision)
        smaller = network
        for number in range(1, step.rounds + 1):  # as in training: each round's widths follow from the last one's
            smaller = cut(smaller, network, target, workspace.dataset.train, done=number / step.rounds)
        return smaller
