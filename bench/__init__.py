"""The harness: command line, plan, executors, row store, statistics and reports."""

from bench.guard import prefer_house

prefer_house()
