"""Packed datasets: what shards hold, and how they are read."""
