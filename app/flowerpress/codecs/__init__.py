"""Codecs: arrays to bytes and back. Start with ``base.py``, then ``zstd.py``."""
