"""What synsets are for: short, runnable recipes, explained in docs/recipes.md."""
