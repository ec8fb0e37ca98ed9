"""The core: all that a checkpoint needs, and all that scripts share."""
