"""Optimization: how a step is cut, its schedule, parameter groups, BatchNorm and the EMA."""
