"""`python -m biollm`."""

from biollm.cli import main

main()
