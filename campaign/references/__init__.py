"""References: known crystals, their hull, and what makes two crystals the same."""
