"""Measuring a detector: COCO mAP, the YOLOv5-style figure, plots."""
