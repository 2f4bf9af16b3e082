from dlmo import networks
from dlmo.study.published import DATASETS, NETWORKS, SETUPS, published


def test_rows_have_names_that_dlmo_knows():
    for network, dataset, setup in published():
        assert networks.canonical(network) == network and network in NETWORKS
        assert dataset in DATASETS
        assert setup in SETUPS or setup.startswith("KD")


def test_every_printed_figure_is_there():
    assert len(published()) == 112
    row = published()["resnet50", "cifar100", "PRN"]
    assert (row.accuracy, row.size_kb, row.latency_ms) == (0.432, 27857, 148)
    assert published()["mobilenet_v2", "cifar10", "KD+F16"].size_kb is None
