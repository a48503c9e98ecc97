"""ppo_lib: the small library that the book "Proximal" builds, chapter by chapter, and imports ever after."""

__version__ = "0.1.0"
