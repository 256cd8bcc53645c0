"""``python -m curbench`` is ``curbench``."""

from curbench.cli import main

main()
