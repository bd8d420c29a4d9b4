"""The datasets that jobs generate when they are given none."""
