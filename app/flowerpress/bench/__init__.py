"""Codecs on checkpoints of one's own: what ``flowerpress bench`` measures and recommends."""
