"""YOLOv5: the network, what it is trained against, and how its output becomes boxes."""
