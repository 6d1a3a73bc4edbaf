"""The images that a client trains on: its part of the run's data set, or what its own machine has.

============================  ==============================================
``dataset`` in node config    images
============================  ==============================================
none                          the part ``partition-id`` of the run's data set
``/data/site.h5``, ``s3://…`` all in an HDF5 file: ``train``, ``train-labels``
any other                     a Hugging Face data set, or a folder of one: all that is for training
============================  ==============================================
"""

from flwr.app import Context

from flowerpress.apps.config import Config
from flowerpress.apps.data import Images, Partitioning, client_images, scaled, train_images
from flowerpress.errors import ConfigError

_HDF5 = (".h5", ".hdf5")


def images_of(config: Config, context: Context) -> Images:
    """Return the images of the node that has this context; ConfigError if they cannot be had."""
    part = int(context.node_config["partition-id"])
    if "dataset" not in context.node_config:
        return client_images(Partitioning.of(config, int(context.node_config["num-partitions"])), part)
    address = str(context.node_config["dataset"])
    if address.endswith(_HDF5):
        return scaled(_in_file(address, config.image_partition), config.image_size)
    return train_images(address, config.seed, config.image_size)


def _in_file(address: str, partition: str) -> Images:
    from flowerpress.extraction.labelled import labelled
    from flowerpress.extraction.storage import kept

    try:
        return Images(*labelled(kept(address), partition))
    except (OSError, KeyError) as error:
        raise ConfigError(f"node config: the images of dataset={address!r} cannot be had: {error}") from error
