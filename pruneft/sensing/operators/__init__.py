"""Measurements that people have, each without an n x d x d array."""
