"""The machinery around the trainers: command line, data, run folders, memory plan, evaluation, report."""
