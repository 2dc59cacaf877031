"""Screens: one function per test that a candidate has to pass; `registry` names them."""
