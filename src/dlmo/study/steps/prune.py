"""The step `prune`, see techniques.pruning."""

from dlmo.study.steps.work import StepWork


class Pruning(StepWork):
    versions = {"prune": 2}

    def technique(self, step, network):
        from dlmo.networks.counting import parameters_of
        from dlmo.techniques.pruning import GradualMagnitudePruning

        return GradualMagnitudePruning(step.share_of(parameters_of(network)), step.rounds)

    def shaped(self, workspace, recipe, step, network):
        import torch

        from dlmo.networks.counting import parameters_of
        from dlmo.techniques.pruning import lamp_masks, prunable_layers

        share = step.share_of(parameters_of(network))
        weights = [layer.weight for layer in prunable_layers(network)]
        with torch.no_grad():
            torch._foreach_mul_(weights, lamp_masks(weights, share))
        return network
