"""What only the notebooks and pages use: figures, tables, exercises, recorded runs, explorers."""
