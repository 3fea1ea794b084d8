"""The benchmark: a grid of cells (dataset × objective × size × seed), their rows, and tables and figures of them.

cells.py    what is run: cells, and how each cell's synset is read
score.py    one cell: its synset, its students, their scores as rows
bc.py       behavioural cloning on all data, a baseline
run.py      many cells: resumable, several at once, failures recorded
rows.py     the rows of all cells as one tidy table: parquet and CSV
tables.py   Markdown tables of the rows
figures.py  return against outer steps and seconds; distilled states rendered
"""
