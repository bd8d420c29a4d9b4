"""From a dataset on disk to batches: sources, the order of images, augmentation, loading."""
