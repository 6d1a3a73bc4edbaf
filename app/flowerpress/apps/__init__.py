"""What `flowerpress run` runs: the Flower app, its tasks and data, and the server around it."""
