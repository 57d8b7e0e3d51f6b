"""Experiments on machine vibration: refused early when wrong, called complete only when proven."""
