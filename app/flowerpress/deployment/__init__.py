"""Federations of Flower's own programs: SuperLinks and SuperNodes as processes, and what secures them."""
