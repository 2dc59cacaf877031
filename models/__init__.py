"""Models: tensors. Knows no Parsl, no jobflow and no campaign documents."""
