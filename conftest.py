"""Modules that plug into a package of their own are collected where that package is installed."""

from importlib.util import find_spec

collect_ignore = [f"curbench/integrations/{name}.py" for name in ("trl", "verl") if find_spec(name) is None]
