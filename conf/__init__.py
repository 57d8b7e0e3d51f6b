"""The YAML of every run. This file makes the folder importable as ``vibench.conf``, so that it travels in the wheel."""
