"""Power failures and kills at every write, with jobs at work and a guest that writes."""


def rows(context):
    return context.swift_tests("LiveCrash")
