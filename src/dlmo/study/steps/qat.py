"""The step `qat`, see techniques.fake_quantization."""

from dlmo.study.steps.work import StepWork

# Enough to give every activation of an untrained network a range.
_SEEN_IMAGES = 16


class QuantizationAwareness(StepWork):
    versions = {"qat": 2, "qat of own networks": 3}

    def versions_for(self, workspace, network):
        return {"qat": self.versions["qat of own networks" if workspace.is_own(network) else "qat"]}

    def technique(self, step, network):
        from dlmo.techniques.fake_quantization import QuantizationAwareTraining

        return QuantizationAwareTraining()

    def record(self, workspace, trained, before):
        return {"fake_quantized": True}

    def shaped(self, workspace, recipe, step, network):
        import torch

        from dlmo.techniques.fake_quantization import insert_fake_quantization
        from dlmo.training.loop import to_network_input

        network = insert_fake_quantization(network).train()
        with torch.no_grad():
            network(to_network_input(torch.from_numpy(workspace.dataset.train.images[:_SEEN_IMAGES])))
        return network
