"""Which candidates become labels: beliefs, policies, objectives, costs, batches, shares. Pure, but for `reading`."""
