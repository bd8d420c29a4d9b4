"""Image classification: networks, losses and the task that brings them to the loop."""
