"""What a synset is, for people: its figures (`figures.py`), one page of them (`page.py`), the command (`cli.py`)."""
