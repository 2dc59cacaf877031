"""Universal potentials: relax crystals and give their energy, many crystals at once."""
