"""Encoded arrays with headers: the LATN chunk (seed 000), and the bundle that holds many chunks and a manifest."""
