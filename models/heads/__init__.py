"""Property heads: crystals in, property values with uncertainties out."""
