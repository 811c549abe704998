"""Random lives of a device with its jobs agree with a model: with free threads, and one thread at a time."""

import os

MODEL_SECONDS = 1800


def rows(context):
    if context.is_long:
        os.environ["PLATTER_MODEL_SECONDS"] = str(MODEL_SECONDS)
    return context.swift_tests("LiveModelTests|ScheduledJobTests|SeededScheduleTests")
