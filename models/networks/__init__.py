"""Networks that heads, discriminators and generators are made of."""
