"""Datasets as users have them: the formats of images and labels, and the rules these share."""
