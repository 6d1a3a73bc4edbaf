"""What SuperNodes are told; the programs themselves run in tests/e2e."""

import pytest
from flwr.common.config import parse_config_args

from flowerpress import ConfigError
from flowerpress.deployment.local import node_configs
from flowerpress.deployment.supernode import node_config


def test_flower_reads_what_we_write() -> None:
    config = {"partition-id": 3, "dataset": "/data/a site.h5", "share": 0.5, "ready": True, "images": "s3://b/k.h5"}
    assert parse_config_args([node_config(config)]) == config


def test_a_text_for_all_nodes_names_each() -> None:
    assert node_configs(["dataset=/data/{partition}.h5", "x=a=b"], 2) == {
        0: {"dataset": "/data/0.h5", "x": "a=b"},
        1: {"dataset": "/data/1.h5", "x": "a=b"},
    }
    with pytest.raises(ConfigError, match="expected key=value, found 'dataset'"):
        node_configs(["dataset"], 2)
