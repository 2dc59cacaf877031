"""Flows: DFT labels as jobflow flows. Knows no torch and no campaign."""
