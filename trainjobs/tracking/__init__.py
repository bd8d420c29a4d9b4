"""What is recorded of a run outside its folder: MLflow, behind one protocol."""
