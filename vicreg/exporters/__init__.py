"""Export formats of backbones."""
