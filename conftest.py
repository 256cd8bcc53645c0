"""Modules that plug into a package of their own are collected where that package is installed."""

from importlib.util import find_spec


def _absent(package: str) -> bool:
    parent = package.rpartition(".")[0]
    return (bool(parent) and _absent(parent)) or find_spec(package) is None


NEEDS = {"trl": "trl", "verl": "verl.trainer.ppo.v1", "verl_sampler": "verl.experimental.dataset.sampler"}
collect_ignore = [f"curbench/integrations/{name}.py" for name, package in NEEDS.items() if _absent(package)]
