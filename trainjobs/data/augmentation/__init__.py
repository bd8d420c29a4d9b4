"""Training samples: planned as plain numbers, then executed on images and boxes."""
