"""Which image comes when, for whom, in which batch. Integers only, and no image is read."""
