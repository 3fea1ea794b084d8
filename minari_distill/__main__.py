"""`python -m minari_distill` is the command line."""

from minari_distill.cli import app

app(prog_name="minari-distill")
