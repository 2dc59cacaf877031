"""Views: what people look at, read from the store and never written to it."""
