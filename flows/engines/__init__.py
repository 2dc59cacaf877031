"""Engines: codes that compute energies, forces and stresses, behind one small interface."""
