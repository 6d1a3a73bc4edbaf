"""The Flower app: ``server`` and ``client`` load flowerpress from beside them, wherever Flower unpacked them."""
