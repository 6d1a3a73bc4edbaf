"""Arrays that do not fit into memory: lazy chunk sequences, and Zarr arrays that are written chunk by chunk."""
