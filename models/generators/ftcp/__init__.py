"""Generator `ftcp`: Fourier-transformed crystal properties in a variational autoencoder, as a baseline."""
