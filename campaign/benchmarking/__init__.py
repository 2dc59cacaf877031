"""Retrospective campaigns: the same driver, with an oracle in the place of the label engine."""
