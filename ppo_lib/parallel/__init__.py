"""One run on several processes, and one model divided among them."""
