"""Campaign: decisions, state and everything the user touches. No torch, no DFT words."""
