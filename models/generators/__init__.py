"""Models that propose crystals."""
