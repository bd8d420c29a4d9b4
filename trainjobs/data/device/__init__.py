"""Batches drawn where the model is, all samples at once."""
