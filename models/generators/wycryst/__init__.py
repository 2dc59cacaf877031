"""Generator `wycryst`: Wyckoff genes from a property-directed variational autoencoder (Zhu et al., 2024)."""
