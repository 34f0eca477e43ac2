"""How language models store facts, and whether they can be asked for them."""
