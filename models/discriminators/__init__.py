"""Discriminators: crystals in, the chance of being stable out."""
