"""Parallel: pools of workers on threads, processes or Parsl, and the processes behind them."""
